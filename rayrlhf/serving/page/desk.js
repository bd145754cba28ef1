// A labeller's desk, the same for comparing and ranking: the next task, the decision, skipping, changing the last one.
//
//     task ──▶ bench (how answers are shown and judged) ──▶ decide ──▶ delivered ──▶ next task
//
// A task that is open is held over a reload, because the service leases it and would not give it again for a while.

import { call } from "./api.js";
import { conversation } from "./answers.js";
import { deliver, sentence } from "./delivery.js";
import { button, el, fill, icon } from "./dom.js";
import { announce } from "./notices.js";
import { held, hold } from "./session.js";
import { count as countDecision } from "./tally.js";

const MOST_TOKENS = 256;
const SOONEST_MS = 250;

export class Desk {
  /** `bench(desk, task, said)` gives `{ body, bar, keys }`; `answers()` how many a task shall have. */
  constructor({ name, heading, answers, bench, options = [], hint = null }) {
    Object.assign(this, { name, answers, bench });
    this.heading = el("h1", { tabindex: "-1" }, heading);
    this.place = el("div", { class: "place" });
    this.bar = el("div", { class: "bar", role: "group", "aria-label": "Your decision" });
    this.undoing = button("Change the last one", { icon: "again", key: "U", kind: "quiet-button", hidden: true, onclick: () => this.undo() });
    const head = el("div", { class: "head" }, this.heading, el("div", { class: "row" }, options, this.undoing));
    this.scroll = el("div", { class: "scroll" }, el("div", { class: "wide" }, head, hint, this.place));
    this.root = el("section", { class: `view ${name}`, "aria-label": heading }, this.scroll, this.bar);
    this.keys = {};
    this.task = held(`desk.${name}`);
    this.last = null;
    this.upcoming = [];
    this.isBusy = false;
  }

  /** Called whenever the view comes into sight. */
  async shown() {
    if (this.isBusy || this.isOpen) return;
    if (this.task) this.open(this.task);
    else await this.next();
  }

  /** Put away what is there and take the next task. */
  async next() {
    this.put(this.upcoming.pop() ?? null);
    if (this.task) return this.open(this.task, true);
    await this.look();
  }

  /** Ask the service for a task; the one that is open waits meanwhile. */
  async look() {
    await this.fetch(() => call("GET", `v1/tasks/next?answers=${this.answers()}`), "Looking for a task…");
  }

  /** New answers to a conversation of one's own. */
  async ask(messages) {
    const body = { messages, answers: this.answers(), max_tokens: MOST_TOKENS };
    await this.fetch(() => call("POST", "v1/tasks", body), "The policy is writing…");
  }

  async fetch(get, words) {
    if (this.isBusy) return;
    this.isBusy = true;
    this.say(el("p", { class: "muted waiting", role: "status" }, words));
    if (this.task) this.upcoming.push(this.task);
    this.put(null);
    try {
      const task = await get();
      if (task) this.open(task, true);
      else this.empty();
    } catch (error) {
      this.failed(error, () => this.fetch(get, words));
    } finally {
      this.isBusy = false;
    }
  }

  open(task, moveFocus = false, said = null) {
    this.put(task);
    this.isOpen = true;
    this.since = performance.now();
    const { body, bar, keys } = this.bench(this, task, said);
    fill(this.place, conversation(task.messages), body, this.own("Or ask something yourself"));
    const skip = button("Skip", { key: "S", kind: "plain", onclick: () => this.skip() });
    fill(this.bar, bar, skip);
    this.use({ ...keys, s: () => this.skip(), u: () => this.undo(), c: () => this.about("correct"), f: () => this.about("flag") });
    this.scroll.scrollTop = 0;
    if (moveFocus) this.heading.focus();
  }

  /** Store a decision about the task that is open, then go on. `words` say to a screen reader what was decided. */
  async decide(ranks, bothBad, words) {
    // Nobody has read a task so soon: it is the second half of a double press on the one before.
    if (this.isBusy || !this.isOpen || performance.now() - this.since < SOONEST_MS) return;
    const { task, since } = this;
    this.isBusy = true;
    this.root.classList.add("storing");
    hold(`desk.${this.name}`, null);
    const content = { response_ids: task.answers.map((answer) => answer.response_id), ranks, both_bad: bothBad, task_id: task.task_id };
    const end = await deliver("v1/comparisons", content, words);
    this.root.classList.remove("storing");
    this.isBusy = false;
    if (!end.isStored) return this.open(task, true, { ranks, bothBad });
    countDecision((performance.now() - since) / 1000);
    announce(`${words}: stored.`);
    this.last = { task, said: { ranks, bothBad } };
    this.undoing.hidden = false;
    await this.next();
  }

  /** Go on without a decision; the service brings the task again when its lease has ended. */
  async skip() {
    if (this.isBusy || !this.isOpen) return;
    announce("Skipped.");
    await this.next();
  }

  /** Show the last task again; what is decided then replaces what was decided before. */
  undo() {
    if (this.isBusy || !this.last || this.task?.task_id === this.last.task.task_id) return;
    if (this.task) this.upcoming.push(this.task);
    announce("The last one again.");
    this.open(this.last.task, true, this.last.said);
  }

  /** Keep what is half done with the task, over a reload too. */
  sketch(draft) {
    this.put(Object.assign(this.task, { draft }));
    this.isOpen = true;
  }

  put(task) {
    this.task = task;
    this.isOpen = false;
    hold(`desk.${this.name}`, task);
  }

  use(keys) {
    for (const key of Object.keys(this.keys)) delete this.keys[key];
    Object.assign(this.keys, keys);
  }

  /** Correct or flag the answer that has the focus, by its own button. */
  about(kind) {
    const card = document.activeElement?.closest(".answer");
    if (card && this.place.contains(card)) card.querySelector(`[data-remark="${kind}"]`).click();
    else announce("Go to an answer first.");
  }

  empty() {
    const again = button("Look again", { icon: "again", onclick: () => this.next() });
    this.say(
      el("h2", {}, "Nothing is waiting for you"),
      el("p", {}, `No set of ${this.answers()} answers to one question is left for you. More come as people chat, or you ask something yourself.`),
      el("div", { class: "row" }, again),
      this.own("Ask something yourself"),
    );
  }

  failed(error, retry) {
    const again = button("Try again", { icon: "again", onclick: retry });
    const back = this.upcoming.length ? button("Back to the task", { onclick: () => this.next() }) : null;
    const wait = error.retryAfterS ? ` It is welcome again in ${error.retryAfterS} s.` : "";
    this.say(el("p", { role: "alert" }, `${sentence(error.message)}${wait}`), el("div", { class: "row" }, again, back), this.own("Ask something else"));
  }

  /** Something else than a task is shown. */
  say(...words) {
    this.isOpen = false;
    this.use({ u: () => this.undo() });
    fill(this.bar);
    fill(this.place, el("div", { class: "card message" }, words));
  }

  /** A question of one's own. */
  own(title) {
    const field = el("textarea", { rows: 2, required: true, dir: "auto", "aria-label": "Your question", placeholder: "Your question" });
    const go = el("button", { class: "button primary" }, `Get ${this.answers()} answers`);
    const form = el("form", { class: "own" }, field, go);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) this.ask([{ role: "user", content: field.value.trim() }]);
    });
    return el("details", { class: "card" }, el("summary", {}, icon("fresh"), title), form);
  }
}
