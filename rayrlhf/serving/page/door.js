// Where a token is asked for.

import { call } from "./api.js";
import { sentence } from "./delivery.js";
import { el, fill } from "./dom.js";
import { forgetToken, isKept, signIn } from "./session.js";

/** Ask for a token; `why` says what was wrong with the last one, `opened` is called with who it is. */
export function showDoor(place, why, opened) {
  const field = el("input", { type: "password", id: "token", required: true, autocomplete: "off", spellcheck: "false", "aria-describedby": "door-error" });
  const keep = el("input", { type: "checkbox", checked: isKept() });
  const trouble = el("p", { class: "trouble", id: "door-error", role: "alert" }, why);
  const go = el("button", { class: "button primary" }, "Sign in");
  const form = el("form", { class: "card" },
    el("img", { src: "page/icon.svg", alt: "", width: 48, height: 48 }),
    el("h1", {}, "Sign in to rayrlhf"),
    el("p", { class: "muted" }, "Whoever runs this service gives out tokens. A link with a token in it signs you in by itself."),
    el("label", { for: "token" }, "Token"), field, trouble,
    el("label", { class: "check" }, keep, "Keep me signed in on this device"),
    go);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    signIn(field.value.trim(), keep.checked);
    try {
      opened(await call("GET", "v1/progress"));
    } catch (error) {
      forgetToken();
      trouble.textContent = sentence(error.message);
      field.focus();
    } finally {
      go.disabled = false;
    }
  });
  fill(place, form);
  place.hidden = false;
  field.focus();
}
