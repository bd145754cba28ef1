// Chat with the policy. Answers appear as they are written; one that was not finished cannot be rated, and says so.

import { call } from "./api.js";
import { button, el, fill, icon } from "./dom.js";
import { Reply } from "./reply.js";
import { held, hold, prefer, preference } from "./session.js";

const NEAR_END_PX = 80;
const DEFAULTS = { temperature: 0.7, max_tokens: 512 };
const EXAMPLES = ["Explain why the sky is blue to a child of six.", "Write a polite reminder for an unpaid bill.", "Name three risks of a new bridge."];

export function chatView(me, compare) {
  return new Chat(me, compare);
}

class Chat {
  constructor(me, compare) {
    this.compare = me.role === "user" ? null : compare;
    this.keys = { c: () => this.replies.at(-1)?.press("correct"), f: () => this.replies.at(-1)?.press("flag") };
    this.messages = [];
    this.replies = [];
    this.log = el("div", { class: "wide log" });
    this.welcome = el("div", { class: "welcome" });
    this.scroll = el("div", { class: "scroll", tabindex: "0", "aria-label": "Conversation", role: "region" }, this.welcome, this.log);
    this.root = el("section", { class: "view chat", "aria-label": "Chat" },
      el("h1", { tabindex: "-1", class: "quiet" }, "Chat"), this.scroll, this.composer());
    this.greet();
    for (const [place, turn] of (held("chat") ?? []).entries()) this.restore(turn, place);
    this.refresh();
  }

  shown() {
    this.toEnd();
    if (matchMedia("(pointer: fine)").matches) this.field.focus();
  }

  composer() {
    this.field = el("textarea", { rows: 1, id: "message", dir: "auto", placeholder: "Ask something", "aria-label": "Your message" });
    this.sending = button("Send", { icon: "send", kind: "primary round", type: "submit" });
    this.stopping = button("Stop", { icon: "stop", kind: "round", hidden: true, onclick: () => this.stop.abort() });
    const two = this.compare && button("Two answers", { icon: "compare", kind: "plain", onclick: () => this.askForTwo() });
    const fresh = button("New chat", { icon: "fresh", kind: "plain", onclick: () => this.clear() });
    const form = el("form", { class: "bar composer" },
      el("div", { class: "wide" },
        el("div", { class: "field" }, this.field, this.stopping, this.sending),
        el("div", { class: "row under" }, fresh, two, this.settings())));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.field.addEventListener("input", () => this.fit());
    this.field.addEventListener("keydown", (event) => {
      // On a phone's keyboard the same key makes lines.
      const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && matchMedia("(pointer: fine)").matches;
      if (!sends) return;
      event.preventDefault();
      this.send();
    });
    return form;
  }

  settings() {
    const field = (label, name, attributes) => {
      const input = el("input", { type: "number", ...attributes, value: preference(`chat.${name}`, DEFAULTS[name]) });
      input.addEventListener("change", () => input.reportValidity() && prefer(`chat.${name}`, input.valueAsNumber));
      return el("label", {}, label, input);
    };
    return el("details", { class: "settings" },
      el("summary", { class: "button plain" }, icon("settings"), "Settings"),
      el("div", { class: "menu" },
        field("Randomness, 0 to 2", "temperature", { min: 0, max: 2, step: 0.1 }),
        field("Longest answer in tokens", "max_tokens", { min: 1, max: 4096, step: 1 })));
  }

  async greet() {
    const examples = EXAMPLES.map((text) => el("button", { type: "button", class: "button example", onclick: () => this.suggest(text) }, text));
    const model = el("code", { dir: "auto" }, "the policy");
    fill(this.welcome,
      el("h2", {}, "What would you like to know?"),
      el("p", { class: "muted" }, "You are talking to ", model, ". It can be wrong. What you say about its answers is stored and teaches the next version."),
      el("div", { class: "examples" }, examples));
    const models = await call("GET", "v1/models").catch(() => null);
    if (models?.data?.length) model.textContent = models.data[0].id;
  }

  suggest(text) {
    this.field.value = text;
    this.fit();
    this.field.focus();
  }

  send() {
    const text = this.field.value.trim();
    if (!text || this.stop) return;
    this.say(text);
    this.field.value = "";
    this.fit();
    this.answer();
  }

  say(text) {
    this.messages.push({ role: "user", content: text });
    this.log.append(el("div", { class: "turn user" }, el("p", { class: "quiet" }, "You"), el("div", { class: "text", dir: "auto" }, text)));
    this.refresh();
  }

  /** Let the policy answer what was said so far. */
  async answer() {
    const reply = this.append();
    this.stop = new AbortController();
    this.refresh();
    this.toEnd();
    const question = {
      messages: plain(this.messages),
      temperature: preference("chat.temperature", DEFAULTS.temperature),
      max_tokens: preference("chat.max_tokens", DEFAULTS.max_tokens),
    };
    await reply.write(question, this.stop.signal, () => this.isNearEnd && this.toEnd());
    // A new chat has begun meanwhile: this answer is of the old one.
    if (!this.replies.includes(reply)) return;
    this.stop = null;
    if (reply.text) this.messages.push({ role: "assistant", content: reply.text, ...reply.id });
    this.refresh();
    if (this.isNearEnd) this.toEnd();
  }

  append() {
    const reply = new Reply(() => this.again());
    this.replies.push(reply);
    this.log.append(reply.root);
    return reply;
  }

  /** Take the last answer back and ask once more. */
  again() {
    if (this.stop) return;
    this.replies.pop().root.remove();
    if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
    this.answer();
  }

  askForTwo() {
    const text = this.field.value.trim();
    const asked = text ? [...this.messages, { role: "user", content: text }] : this.messages.slice(0, lastQuestion(this.messages) + 1);
    if (!asked.length) return this.field.focus();
    this.field.value = "";
    this.fit();
    this.compare(plain(asked));
  }

  clear() {
    this.stop?.abort();
    Object.assign(this, { messages: [], replies: [], stop: null });
    fill(this.log);
    this.refresh();
    this.field.focus();
  }

  restore(turn, place) {
    if (turn.role === "user") return this.say(turn.content);
    this.messages[place] = turn;
    this.append().restore(turn);
  }

  /** What depends on the conversation: the welcome, the buttons, what is held. */
  refresh() {
    this.welcome.hidden = this.messages.length > 0;
    this.stopping.hidden = !this.stop;
    this.sending.hidden = Boolean(this.stop);
    this.replies.forEach((reply, place) => reply.isLast(place === this.replies.length - 1 && !this.stop));
    hold("chat", this.messages);
  }

  fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }

  get isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }
}

function lastQuestion(messages) {
  return messages.findLastIndex((turn) => turn.role === "user");
}

/** Without what only this page knows of a turn. */
function plain(messages) {
  return messages.map(({ role, content }) => ({ role, content }));
}
