// What can be said about one answer wherever it is shown: correct it, flag it. And how texts and conversations look.

import { deliver } from "./delivery.js";
import { correctDialog, flagDialog } from "./dialogs.js";
import { button, el } from "./dom.js";
import { announce } from "./notices.js";

const NAMES = { system: "Instruction", user: "Question", assistant: "Answer so far", tool: "Tool" };

/** A text as it was written, whatever it holds; an empty one says so. */
export function written(text) {
  const isEmpty = text.trim() === "";
  return el("div", { class: `text ${isEmpty ? "muted" : ""}`, dir: "auto" }, isEmpty ? "(an empty answer)" : text);
}

/** The conversation that answers are about. */
export function conversation(messages) {
  const turns = messages.map((turn) =>
    el("div", { class: `turn ${turn.role}` }, el("p", { class: "who" }, NAMES[turn.role] ?? turn.role), written(turn.content)));
  return el("section", { class: "conversation card", "aria-label": "Conversation" }, turns);
}

/** Buttons to correct and to flag an answer; `name` says which answer it is to who cannot see it. */
export function remarks(answer, name) {
  const correct = button("Correct", { icon: "correct", kind: "quiet-button", "aria-label": `Correct ${name}`, "data-remark": "correct" });
  const flag = button("Flag", { icon: "flag", kind: "quiet-button", "aria-label": `Flag ${name}`, "data-remark": "flag" });
  const said = { correction: null };
  const on = {
    correct: async () => {
      const text = await correctDialog(said.correction ?? answer.text);
      if (text === null) return;
      if (await told(correct, { kind: "correction", text, response_id: answer.response_id }, "Correction")) {
        said.correction = text;
        mark(correct, "Corrected");
      }
    },
    flag: async () => {
      const given = await flagDialog();
      if (given && (await told(flag, { kind: "flag", ...given, response_id: answer.response_id }, "Flag"))) mark(flag, "Flagged");
    },
  };
  correct.addEventListener("click", on.correct);
  flag.addEventListener("click", on.flag);
  return { buttons: [correct, flag], ...on };
}

/** Post what was said; the button shows that it is under way. */
export async function told(pressed, content, what) {
  pressed.setAttribute("aria-busy", "true");
  const end = await deliver("v1/feedback", content, what);
  pressed.removeAttribute("aria-busy");
  if (end.isStored) announce(`${what} stored.`);
  return end.isStored;
}

function mark(pressed, words) {
  pressed.classList.add("said");
  pressed.querySelector(".label").textContent = words;
}
