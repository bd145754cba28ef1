// What the signed-in person has done.

import { call } from "./api.js";
import { duration, sentence } from "./delivery.js";
import { el, fill } from "./dom.js";
import { tally } from "./tally.js";

export function progressView() {
  const place = el("div", { "aria-live": "polite" });
  const root = el("section", { class: "view progress", "aria-label": "Progress" },
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Your numbers" }, el("div", { class: "wide" }, el("h1", { tabindex: "-1" }, "Your progress"), place)));
  return { root, keys: {}, shown: () => show(place) };
}

async function show(place) {
  try {
    fill(place, drawn(await call("GET", "v1/progress")));
  } catch (error) {
    fill(place, el("p", { class: "card message", role: "alert" }, sentence(error.message)));
  }
}

function drawn(done) {
  const { decisions, median_s: median } = tally();
  const share = done.posts_today / done.posts_per_day;
  return [
    el("h2", {}, "In all"),
    tiles([
      ["Comparisons and rankings", done.comparisons],
      ["Votes, corrections and flags", done.feedback],
      ["Tasks open", done.tasks_open],
    ]),
    el("h2", {}, "Today"),
    el("div", { class: "card" },
      el("p", {}, el("strong", {}, done.posts_today.toLocaleString("en")), ` of ${done.posts_per_day.toLocaleString("en")} posts that a day takes (UTC)`),
      el("progress", { max: 1, value: share, "aria-label": "Posts of today" })),
    el("h2", {}, "In this tab"),
    tiles([
      ["Decisions stored", decisions],
      ["Median time of a decision", median === null ? "–" : duration(Math.round(median))],
    ]),
    el("p", { class: "muted" }, "Votes that you changed later count once. Take a break when you stop reading to the end."),
  ];
}

/** Numbers with their names. */
export function tiles(rows) {
  return el("dl", { class: "tiles" }, rows.map(([name, value, beside]) => el("div", {},
    el("dt", {}, name),
    el("dd", {}, typeof value === "number" ? value.toLocaleString("en") : value, beside ? el("small", {}, beside) : null))));
}
