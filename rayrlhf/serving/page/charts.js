// Two charts of shares between 0 and 1, drawn by hand. Rows: `{ name, colour, day, share, low, high, trials }`.

import { el, svg } from "./dom.js";

const WIDTH = 480;
const LEFT = 50;
const RIGHT = 14;
const COLOURS = 8;

/** A dot and its interval for each row; the line in the middle is a half. */
export function intervals(rows, title) {
  const label = 92;
  const height = 34 * rows.length + 30;
  const x = (share) => label + share * (WIDTH - label - RIGHT);
  const axis = [0, 0.25, 0.5, 0.75, 1].map((share) => svg("g", { class: `axis ${share === 0.5 ? "half" : ""}` },
    svg("path", { d: `M${x(share)} 4V${height - 24}` }),
    svg("text", { x: x(share), y: height - 8, "text-anchor": "middle" }, `${100 * share}`)));
  const marks = rows.map((row, place) => {
    const y = 20 + 34 * place;
    return svg("g", { class: colour(row) },
      svg("title", {}, words(row)),
      svg("text", { x: label - 12, y: y + 4, "text-anchor": "end", class: "name" }, row.name),
      svg("path", { class: "whisker", d: `M${x(row.low)} ${y}H${x(row.high)}` }),
      svg("circle", { cx: x(row.share), cy: y, r: 6 }));
  });
  return drawing(height, `${title}. ${rows.map(words).join("; ")}.`, axis, marks);
}

/** A line for each name over the days, with the interval as a band. */
export function overTime(rows, title) {
  const height = 220;
  const bottom = height - 28;
  const days = [...new Set(rows.map((row) => row.day))].sort();
  const names = [...new Set(rows.map((row) => row.name))];
  const times = days.map((day) => Date.parse(day));
  const span = times.at(-1) - times[0];
  // One day alone is in the middle.
  const x = (day) => LEFT + (span ? (Date.parse(day) - times[0]) / span : 0.5) * (WIDTH - LEFT - RIGHT - 12);
  const y = (share) => bottom - share * (bottom - 12);
  const axis = [0, 0.5, 1].map((share) => svg("g", { class: `axis ${share === 0.5 ? "half" : ""}` },
    svg("path", { d: `M${LEFT} ${y(share)}H${WIDTH - RIGHT}` }),
    svg("text", { x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`)));
  const ends = [...new Set([days[0], days.at(-1)])].map((day, place, all) => svg("text", {
    class: "day", x: x(day), y: height - 8, "text-anchor": all.length === 1 ? "middle" : ["start", "end"][place] }, day));
  const lines = names.map((name) => line(rows.filter((row) => row.name === name), x, y));
  const legend = el("ul", { class: "legend" }, names.map((name) =>
    el("li", {}, el("i", { class: colour(rows.find((row) => row.name === name)) }), name)));
  return el("div", {}, legend, drawing(height, `${title} by day. The numbers are in the table below.`, axis, ends, lines));
}

function line(points, x, y) {
  const upper = points.map((row) => `${x(row.day)} ${y(row.high)}`);
  const lower = points.map((row) => `${x(row.day)} ${y(row.low)}`).reverse();
  // A single day has no area: its interval is a whisker.
  const band = points.length > 1
    ? svg("path", { class: "band", d: `M${[...upper, ...lower].join("L")}Z` })
    : svg("path", { class: "whisker", d: `M${upper[0]}L${lower[0]}` });
  return svg("g", { class: colour(points[0]) }, band,
    svg("path", { class: "line", d: `M${points.map((row) => `${x(row.day)} ${y(row.share)}`).join("L")}` }),
    points.map((row) => svg("circle", { cx: x(row.day), cy: y(row.share), r: 4 }, svg("title", {}, `${row.day}, ${words(row)}`))));
}

function colour(row) {
  return `c${row.colour % COLOURS}`;
}

function drawing(height, words, ...parts) {
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": words, class: "drawing" }, parts.flat());
}

function words({ name, share, low, high, trials }) {
  const percent = (value) => `${(100 * value).toFixed(0)} %`;
  return `${name}: ${percent(share)} of ${trials}, between ${percent(low)} and ${percent(high)}`;
}
