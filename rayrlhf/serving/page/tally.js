// How many decisions this tab has stored and how long they took: for their maker only, the service does not know it.

import { held, hold } from "./session.js";

/** Add a decision that took so many seconds. */
export function count(seconds) {
  hold("tally", [...times(), Math.round(seconds * 10) / 10]);
}

/** `{ decisions, median_s }`; the median is null before the first. */
export function tally() {
  const sorted = times().sort((one, other) => one - other);
  const middle = sorted.length / 2;
  const median = sorted.length % 2 ? sorted[Math.floor(middle)] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { decisions: sorted.length, median_s: sorted.length ? median : null };
}

function times() {
  return held("tally") ?? [];
}
