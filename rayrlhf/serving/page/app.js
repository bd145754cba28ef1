// The page: who is here, which view is shown, and what holds for all of them.
//
//     token ──▶ who it is and may do ──▶ views ──▶ one of them by the address (#/chat)

import { call } from "./api.js";
import { chatView } from "./chat.js";
import { compareView } from "./compare.js";
import { openOutbox, sentence, undelivered } from "./delivery.js";
import { helpDialog } from "./dialogs.js";
import { el, fill, icon } from "./dom.js";
import { showDoor } from "./door.js";
import { listenToKeys, useKeys } from "./keys.js";
import { notice } from "./notices.js";
import { overviewView } from "./overview.js";
import { progressView } from "./progress.js";
import { rankView } from "./rank.js";
import { belongTo, isKept, keepOnDevice, signOut, takeTokenFromAddress, token } from "./session.js";

const ROLES = ["user", "labeller", "admin"];
const VIEWS = [
  { name: "chat", title: "Chat", role: "user" },
  { name: "compare", title: "Compare", role: "labeller" },
  { name: "rank", title: "Rank", role: "labeller" },
  { name: "progress", title: "Progress", role: "user" },
  { name: "overview", title: "Overview", role: "admin" },
];
const byId = (id) => document.getElementById(id);

async function start() {
  takeTokenFromAddress();
  if (!token()) return showDoor(byId("door"), "", open);
  try {
    open(await call("GET", "v1/progress"));
  } catch (error) {
    // A refused token has shown the door already.
    if (error.status !== 401) later(error);
  }
}

/** The service is away: the token may be good, so it is kept. */
function later(error) {
  const trouble = notice("trouble");
  trouble.say(sentence(error.message), { "Try again": () => { trouble.close(); start(); } });
}

function open(me) {
  belongTo(me.user);
  byId("door").hidden = true;
  byId("app").hidden = false;
  byId("me-name").textContent = me.user;
  byId("me-role").textContent = me.role;
  byId("me-keep").checked = isKept();
  const allowed = VIEWS.filter((view) => ROLES.indexOf(view.role) <= ROLES.indexOf(me.role));
  const views = made(allowed, me);
  fill(byId("nav"), allowed.map(({ name, title }) => el("a", { href: `#/${name}`, "data-view": name }, icon(name), el("span", {}, title))));
  fill(byId("main"), Object.values(views).map((view) => view.root));
  const route = () => (takeTokenFromAddress() ? location.reload() : show(views, location.hash.slice(2)));
  addEventListener("hashchange", route);
  route();
  openOutbox();
}

function made(allowed, me) {
  const compare = compareView();
  const askForTwo = (messages) => {
    location.hash = "#/compare";
    compare.ask(messages);
  };
  const makers = { chat: () => chatView(me, askForTwo), compare: () => compare, rank: rankView, progress: progressView, overview: overviewView };
  return Object.fromEntries(allowed.map(({ name }) => [name, makers[name]()]));
}

function show(views, wanted) {
  const name = Object.hasOwn(views, wanted) ? wanted : "chat";
  for (const [other, view] of Object.entries(views)) view.root.hidden = other !== name;
  for (const link of byId("nav").children) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${VIEWS.find((view) => view.name === name).title} · rayrlhf`;
  useKeys(views[name].keys);
  views[name].root.querySelector("h1")?.focus();
  views[name].shown();
}

function leave() {
  const left = undelivered();
  if (left && !confirm(`${left} of your decisions could not be stored yet and would be lost. Sign out all the same?`)) return;
  signOut();
  location.hash = "";
  location.reload();
}

// A token that is refused under way: what is open stays until there is a new one, then the page starts afresh.
addEventListener("rayrlhf:refused", (event) => {
  if (!byId("door").hidden) return;
  byId("app").hidden = true;
  showDoor(byId("door"), sentence(event.detail.message), () => location.reload());
});
addEventListener("beforeunload", (event) => undelivered() && event.preventDefault());
byId("me-out").addEventListener("click", leave);
byId("me-keep").addEventListener("change", (event) => keepOnDevice(event.target.checked));
byId("me-help").addEventListener("click", () => {
  byId("me").open = false;
  helpDialog();
});
// The address says which view is shown, so the skip link must not change it.
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
document.addEventListener("pointerdown", (event) => {
  for (const menu of document.querySelectorAll("details.me[open], details.settings[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
listenToKeys({ "?": helpDialog });
start();
