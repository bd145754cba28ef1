// One answer in the chat: written as it comes, then rated, corrected, flagged, copied, or asked for again.

import { ApiError } from "./api.js";
import { remarks, told } from "./answers.js";
import { sentence } from "./delivery.js";
import { button, el, fill } from "./dom.js";
import { announce, toast } from "./notices.js";
import { ask } from "./stream.js";

const READ_OUT = 600;

export class Reply {
  constructor(again) {
    this.text = "";
    this.id = {};
    this.words = el("div", { class: "text", dir: "auto" });
    this.state = el("p", { class: "state", role: "status" });
    this.actions = el("div", { class: "row actions" });
    this.again = button("Try again", { icon: "again", kind: "quiet-button", title: "Try again", onclick: again, hidden: true });
    this.root = el("article", { class: "turn assistant answer", "aria-label": "Answer" }, this.words, this.state, this.actions);
  }

  /** Ask and show; `grown` is called when there is more to see. */
  async write(question, signal, grown) {
    this.root.classList.add("writing");
    try {
      const end = await ask(question, signal, (text) => {
        this.show(text);
        grown();
      });
      this.show(end.text);
      this.finish(end.responseId);
      announce(`Answer: ${this.text.slice(0, READ_OUT)}`);
    } catch (error) {
      this.show(error.partial ?? "");
      this.explain(error);
    } finally {
      this.root.classList.remove("writing");
    }
  }

  /** An answer that was there before the tab was reloaded. */
  restore(turn) {
    this.show(turn.content);
    if (turn.response_id) this.finish(turn.response_id);
    else this.cannotBeRated("Not finished.");
  }

  /** Only the last answer can be asked for again. */
  isLast(isLast) {
    this.again.hidden = !isLast;
  }

  press(kind) {
    this.actions.querySelector(`[data-remark="${kind}"]`)?.click();
  }

  show(text) {
    this.text = text;
    this.words.textContent = text;
  }

  finish(responseId) {
    if (responseId === null) return this.cannotBeRated("The service gave no id for this answer.");
    this.id = { response_id: responseId };
    if (this.text.trim() === "") fill(this.words, el("span", { class: "muted" }, "(an empty answer)"));
    const { buttons } = remarks({ response_id: responseId, text: this.text }, "this answer");
    fill(this.actions, this.thumb("up", "Good answer"), this.thumb("down", "Bad answer"), buttons, this.copying(), this.again);
  }

  thumb(value, label) {
    const pressed = button(label, { icon: value, kind: "quiet-button icon-only", "aria-pressed": "false", title: label, "data-thumb": value });
    pressed.addEventListener("click", async () => {
      if (pressed.getAttribute("aria-pressed") === "true" || pressed.hasAttribute("aria-busy")) return;
      if (!(await told(pressed, { kind: "thumb", value, ...this.id }, "Vote"))) return;
      for (const other of this.actions.querySelectorAll("[data-thumb]")) other.setAttribute("aria-pressed", String(other === pressed));
    });
    return pressed;
  }

  /** The clipboard is there on encrypted pages only. */
  copying() {
    if (!navigator.clipboard) return null;
    const copy = () => navigator.clipboard.writeText(this.text).then(() => toast("Copied."), () => toast("The browser did not allow to copy."));
    return button("Copy", { icon: "copy", kind: "quiet-button icon-only", title: "Copy", onclick: copy });
  }

  explain(error) {
    if (error.name === "AbortError") return this.cannotBeRated("Stopped.");
    if (!(error instanceof ApiError)) throw error;
    const wait = error.retryAfterS ? ` It is welcome again in ${error.retryAfterS} s.` : "";
    this.root.classList.add("broken");
    this.cannotBeRated(`${sentence(error.message)}${wait}`);
  }

  cannotBeRated(why) {
    this.state.textContent = this.text ? `${why} What is there cannot be rated.` : why;
    fill(this.actions, this.again);
  }
}
