// What the page says by itself: short messages at the edge, and words for screen readers.

import { el, fill } from "./dom.js";

const STAYS_S = 4;

/** Said by a screen reader, shown nowhere. */
export function announce(words) {
  const live = document.getElementById("live");
  // The same words twice are said twice only if they were gone in between.
  live.textContent = "";
  setTimeout(() => (live.textContent = words), 50);
}

/** A message that stays until it is closed, with buttons. */
export function notice(tone) {
  const words = el("p", { role: tone === "trouble" ? "alert" : "status" });
  const aside = el("p", { class: "aside", "aria-hidden": "true" });
  const buttons = el("div", { class: "row" });
  const box = el("div", { class: `notice ${tone}` }, words, aside, buttons);
  return {
    say(text, actions = {}) {
      if (!box.isConnected) document.getElementById("notices").append(box);
      // A live region has to be there before its words are.
      setTimeout(() => (words.textContent = text), 0);
      fill(buttons, ...Object.entries(actions).map(([label, onclick]) =>
        el("button", { type: "button", class: "button small", onclick }, label)));
    },
    /** Words that change too often to be read out. */
    count(text) {
      aside.textContent = text;
    },
    close() {
      box.remove();
    },
  };
}

/** A message that goes by itself. */
export function toast(text) {
  const note = notice("good");
  note.say(text);
  setTimeout(() => note.close(), STAYS_S * 1000);
}

/** A message about something that did not work. */
export function complain(text) {
  const note = notice("trouble");
  note.say(text, { Close: () => note.close() });
}
