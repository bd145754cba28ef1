// Everybody's numbers, for admins: counts, agreement, how versions fare, and how that went over time.

import { call } from "./api.js";
import { intervals, overTime } from "./charts.js";
import { sentence } from "./delivery.js";
import { button, el, fill } from "./dom.js";
import { tiles } from "./progress.js";

const COUNTS = {
  comparisons: "Comparisons",
  rankings: "of which rankings",
  with_ties: "of which with ties",
  both_bad: "of which none acceptable",
  thumbs: "Thumbs",
  ratings: "Ratings",
  corrections: "Corrections",
  flags: "Flags",
  labellers: "People who judged",
  answers: "Answers stored",
  answers_forgotten: "Answers forgotten",
};
const MEASURES = [
  ["wins", "Wins against other versions", "pairs", "a tie is half a point"],
  ["thumbs_up", "Thumbs up", "thumbs", "of all thumbs"],
];

export function overviewView() {
  const place = el("div", {});
  const again = button("Read again", { icon: "again", kind: "quiet-button", onclick: () => show(place) });
  const root = el("section", { class: "view overview", "aria-label": "Overview" },
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All numbers" }, el("div", { class: "wide" },
      el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Overview"), again), place)));
  return { root, keys: {}, shown: () => show(place) };
}

async function show(place) {
  try {
    fill(place, drawn(await call("GET", "v1/overview")));
  } catch (error) {
    fill(place, el("p", { class: "card message", role: "alert" }, sentence(error.message)));
  }
}

function drawn({ counts, agreement, versions, days }) {
  const rows = (records) => named(records, versions.map((record) => record.policy_version));
  return [
    el("h2", {}, "What is there"),
    tiles(Object.entries(COUNTS).map(([key, name]) => [name, counts[key]])),
    el("h2", {}, "Do labellers agree?"),
    agreed(agreement),
    el("h2", {}, "How versions fare"),
    el("div", { class: "charts" }, MEASURES.map((measure) => byVersion(rows(versions), measure))),
    el("h2", {}, "Over time"),
    el("div", { class: "charts" }, MEASURES.map((measure) => byDay(rows(days), measure))),
  ];
}

function agreed({ pairs_judged_twice: pairs, share, share_without_ties: untied, krippendorff_alpha: alpha }) {
  if (!pairs) return el("p", { class: "card message muted" }, "Nothing has been judged by two people yet.");
  return tiles([
    ["Pairs judged by two or more", pairs],
    ["Agree, ties counted", percent(share)],
    ["Agree, where neither is a tie", percent(untied)],
    ["Krippendorff’s alpha", alpha === null ? "–" : alpha.toFixed(2), "1 is perfect, 0 is chance"],
  ]);
}

/** Records with the name and the colour that their version has in every chart. */
function named(records, versions) {
  return records.map((record) => ({
    ...record, name: `version ${record.policy_version}`, colour: versions.indexOf(record.policy_version) }));
}

/** What a chart shows of one measure. */
function measured(records, key) {
  return records.filter((record) => record[key].trials > 0)
    .map(({ name, colour, day, [key]: share }) => ({ name, colour, day, ...share }));
}

function byVersion(versions, [key, title, unit, note]) {
  const rows = measured(versions, key);
  return figure(title, `${note}; bars are Wilson’s 95 % intervals`, rows, () => intervals(rows, title),
    ["Version", "Share", "95 % interval", unit], (row) => [row.name, percent(row.share), interval(row), row.trials]);
}

function byDay(days, [key, title, unit, note]) {
  const rows = measured(days, key);
  return figure(title, `${note}, by day (UTC)`, rows, () => overTime(rows, title),
    ["Day", "Version", "Share", "95 % interval", unit], (row) => [row.day, row.name, percent(row.share), interval(row), row.trials]);
}

/** A chart with the same numbers as a table, which is what a screen reader gets. */
function figure(title, note, rows, draw, columns, cells) {
  const caption = el("figcaption", {}, el("h3", {}, title), el("p", { class: "muted" }, note));
  if (!rows.length) return el("figure", { class: "chart card" }, caption, el("p", { class: "muted" }, "Nothing yet."));
  const table = el("table", {},
    el("caption", { class: "quiet" }, title),
    el("thead", {}, el("tr", {}, columns.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, cells(row).map((value, place) =>
      place === 0 ? el("th", { scope: "row" }, value) : el("td", {}, String(value)))))));
  return el("figure", { class: "chart card" }, caption, draw(),
    el("details", {}, el("summary", {}, "As a table"), el("div", { class: "table" }, table)));
}

function percent(share) {
  return share === null ? "–" : `${(100 * share).toFixed(0)} %`;
}

function interval({ low, high }) {
  return `${(100 * low).toFixed(0)} to ${(100 * high).toFixed(0)} %`;
}
