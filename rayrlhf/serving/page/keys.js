// Single-key shortcuts of the view that is shown. They can be turned off, because speech input types letters too.

import { prefer, preference } from "./session.js";

const TYPED_INTO = "input, textarea, select, [contenteditable]";

let current = {};

/** Which key does what from now on: `{ "1": run, ArrowLeft: run }`; letters are given small. */
export function useKeys(keys) {
  current = keys;
}

export function areKeysOn() {
  return preference("keys", true);
}

export function turnKeys(on) {
  prefer("keys", on);
}

/** Listen once; keys with a modifier, in a field or under a dialog are somebody else's. */
export function listenToKeys(always) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    // A key that is held down moves on, but it does not decide about what comes next.
    if (event.repeat && !["ArrowUp", "ArrowDown"].includes(event.key)) return;
    if (event.target.closest?.(TYPED_INTO) || document.querySelector("dialog[open]") || !areKeysOn()) return;
    // Enter and space belong to the button that has the focus.
    if (["Enter", " "].includes(event.key) && event.target.closest?.("button, a, summary")) return;
    const run = { ...always, ...current }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (run) {
      event.preventDefault();
      run();
    }
  });
}
