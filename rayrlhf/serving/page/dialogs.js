// The dialogs: correct an answer, flag it, and help. The browser keeps the focus inside and gives it back.

import { button, el } from "./dom.js";
import { areKeysOn, turnKeys } from "./keys.js";

const MOST_TEXT = 32768;
const MOST_NOTE = 4000;
const REASONS = [
  ["harmful", "Harmful or dangerous"],
  ["untrue", "Untrue"],
  ["private", "Personal data"],
  ["off_topic", "Beside the point"],
  ["other", "Something else"],
];
const SHORTCUTS = [
  ["Compare", [["1, ←", "the left answer is better"], ["2, →", "the right answer is better"], ["T", "a tie"], ["B", "both are bad"]]],
  ["Rank", [
    ["↑ ↓", "go to another answer"],
    ["1 … 9", "put the answer at this rank"],
    ["Space", "take hold of the answer; then ↑ ↓ move it, Space lets it go, Esc puts it back"],
    ["T", "tie it with the one above, or end the tie"],
    ["0", "take it out of the ranking"],
    ["Enter", "store the ranking"],
  ]],
  ["Both", [["C", "correct the answer that has the focus"], ["F", "flag it"], ["S", "skip"], ["U", "change the last decision"]]],
  ["Everywhere", [["?", "this help"]]],
];

/** What the answer should have been; null if it was left as it is. */
export function correctDialog(text) {
  const field = el("textarea", { id: "correction", rows: 10, maxlength: MOST_TEXT, dir: "auto" });
  field.value = text;
  const label = el("label", { for: "correction" }, "Write the answer as it should have been. It teaches by example.");
  const isNew = () => field.value.trim() !== "" && field.value.trim() !== text.trim();
  return opened("Correct the answer", [label, field], "Store correction", () => field.value.trim(), isNew);
}

/** `{ reason, note }`, or null. */
export function flagDialog() {
  const choices = REASONS.map(([reason, words], place) =>
    el("label", { class: "check" }, el("input", { type: "radio", name: "reason", value: reason, checked: place === 0 }), words));
  const note = el("textarea", { id: "flag-note", rows: 3, maxlength: MOST_NOTE, dir: "auto" });
  const fields = [
    el("fieldset", {}, el("legend", {}, "What is wrong beyond its quality?"), choices),
    el("label", { for: "flag-note" }, "Note (optional)"),
    note,
  ];
  return opened("Flag the answer", fields, "Store flag", (form) => ({
    reason: new FormData(form).get("reason"),
    note: note.value.trim(),
  }));
}

export function helpDialog() {
  const keys = el("input", { type: "checkbox", checked: areKeysOn(), onchange: (event) => turnKeys(event.target.checked) });
  const lists = SHORTCUTS.map(([name, rows]) => [
    el("h3", {}, name),
    el("dl", { class: "keys" }, rows.map(([key, words]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)))),
  ]);
  const about = el("p", {}, "What you decide is stored with the order in which you saw the answers. "
    + "While you judge, nobody shows you which version of the policy wrote what.");
  return opened("Keyboard and help", [about, el("label", { class: "check" }, keys, "Single-key shortcuts"), lists.flat()], null, () => null);
}

/** A dialog until it is closed; what `read` finds if it was confirmed, which it can be while `isReady`. */
function opened(title, fields, confirm, read, isReady = () => true) {
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" });
  const close = () => dialog.close();
  const buttons = confirm
    ? [button("Cancel", { onclick: close }), el("button", { class: "button primary", disabled: !isReady() }, confirm)]
    : [button("Close", { onclick: close, kind: "primary" })];
  const form = el("form", { method: "dialog" }, el("h2", { id: "dialog-title" }, title), fields, el("div", { class: "row end" }, buttons));
  let outcome = null;
  form.addEventListener("input", () => (buttons.at(-1).disabled = !isReady()));
  form.addEventListener("submit", () => (outcome = read(form)));
  dialog.append(form);
  document.body.append(dialog);
  dialog.showModal();
  dialog.querySelector("textarea, input")?.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(outcome);
    });
  });
}
