// The board on which answers are ranked: those that wait, the tiers, and one card an answer that moves between them.

import { remarks, written } from "./answers.js";
import { button, el, fill, icon } from "./dom.js";
import { draggable } from "./drag.js";
import { announce } from "./notices.js";

const LETTERS = "ABCDEFGHI";

export class Board {
  /** `scroller` is what scrolls while a card is dragged; `changed` is called after each move. */
  constructor(answers, ranking, scroller, changed) {
    Object.assign(this, { ranking, changed, grabbed: null });
    this.tray = el("ol", { class: "tray", "aria-label": "Not ranked yet" });
    this.tiers = el("ol", { class: "tiers", "aria-label": "Ranking, best first" });
    this.cards = answers.map((answer, item) => this.card(answer, item, scroller));
    this.trayTitle = el("h2", {}, "Not ranked yet");
    this.root = el(
      "div",
      { class: "board" },
      el("section", { class: "waiting-answers" }, this.trayTitle, this.tray),
      el("section", { class: "ranked-answers" }, el("h2", {}, "Ranking, best first"), this.tiers),
    );
    this.keys = this.keyMap();
    this.draw();
  }

  /** The order in letters: `B › A = C`. */
  words() {
    if (!this.ranking.tiers.length) return "Put each answer at its rank.";
    const order = this.ranking.tiers.map((tier) => tier.map((item) => LETTERS[item]).join(" = ")).join(" › ");
    const left = this.ranking.unplaced.length;
    return left ? `${order} (${left} to go)` : order;
  }

  card(answer, item, scroller) {
    const letter = LETTERS[item];
    const grip = button(`Move answer ${letter}`, { icon: "grip", kind: "grip", "aria-pressed": "false", onclick: () => this.grab(item) });
    const text = written(answer.text);
    const more = el("button", { type: "button", class: "link", hidden: true, "aria-expanded": "false" }, "Show all");
    more.addEventListener("click", () => {
      const isOpen = card.classList.toggle("open");
      more.setAttribute("aria-expanded", isOpen);
      more.textContent = isOpen ? "Show less" : "Show all";
    });
    const moves = el("div", { class: "row moves", role: "group", "aria-label": `Place answer ${letter}` });
    const { buttons } = remarks(answer, `answer ${letter}`);
    const title = el("h3", {}, el("span", { class: "quiet" }, "Answer "), letter);
    const card = el(
      "li",
      { class: "answer card", tabindex: "0", "data-item": item, "aria-label": `Answer ${letter}` },
      el("header", {}, grip, title, el("div", { class: "row" }, buttons)),
      text, more, moves,
    );
    // Only a text that is cut needs a way to the rest of it; that is known when it is laid out.
    new ResizeObserver(() => {
      if (!card.classList.contains("open")) more.hidden = text.scrollHeight <= text.clientHeight + 2;
    }).observe(text);
    draggable(card, grip, { scroller, dropAt: (x, y) => this.dropAt(x, y), dropped: (target) => this.move(item, target.drop) });
    return Object.assign(card, { moves, grip });
  }

  draw() {
    const focused = document.activeElement?.closest?.(".answer[data-item]");
    const { ranking } = this;
    fill(this.tray, ranking.unplaced.map((item) => this.prepared(item)));
    fill(this.tiers, ranking.tiers.flatMap((tier, place) => [this.gap(place), this.tier(tier, place)]), this.gap(ranking.tiers.length));
    this.root.classList.toggle("whole", ranking.isWhole);
    if (focused && this.root.contains(focused)) focused.focus();
  }

  gap(place) {
    const isOnly = this.ranking.tiers.length === 0;
    return el("li", { class: `gap ${isOnly ? "only" : ""}`, "data-place": place, "aria-hidden": "true" }, isOnly ? "Drag the best answer here" : null);
  }

  tier(tier, place) {
    const name = `Rank ${place + 1}${tier.length > 1 ? ", a tie" : ""}`;
    const cards = el("ul", { "aria-label": name }, tier.map((item) => this.prepared(item)));
    return el("li", { class: "tier", "data-tier": place }, el("p", { class: "rank", "aria-hidden": "true" }, String(place + 1)), cards);
  }

  /** A card with the buttons and the name that fit where it is now. */
  prepared(item) {
    const card = this.cards[item];
    const letter = LETTERS[item];
    const place = this.ranking.tierOf(item);
    card.setAttribute("aria-label", `Answer ${letter}, ${this.where(item)}`);
    card.classList.toggle("held", this.grabbed?.item === item);
    card.grip.setAttribute("aria-pressed", String(this.grabbed?.item === item));
    const move = (label, name, run) => button(label, { icon: name, kind: "small icon-only", onclick: () => this.move(item, run), title: label });
    fill(card.moves, place === -1 ? this.places(item, letter) : [
      move(`Move ${letter} up`, "higher", () => this.ranking.step(item, -1)),
      move(`Move ${letter} down`, "lower", () => this.ranking.step(item, 1)),
      move(`Tie ${letter} with the rank above, or end the tie`, "tie", () => this.ranking.toggleTie(item)),
      move(`Take ${letter} out of the ranking`, "out", () => this.ranking.takeOut(item)),
    ]);
    return card;
  }

  places(item, letter) {
    const ranks = [...Array(this.ranking.tiers.length + 1).keys()];
    return [el("span", { class: "muted" }, "Rank"), ranks.map((place) => el(
      "button",
      { type: "button", class: "button small", "aria-label": `Put answer ${letter} at rank ${place + 1}`, onclick: () => this.move(item, () => this.ranking.place(item, place)) },
      String(place + 1),
    ))];
  }

  /** Change the ranking, draw it, say what came of it; the focus goes on to an answer that waits. */
  move(item, run) {
    const was = this.ranking.tierOf(item);
    run(item);
    this.draw();
    this.changed();
    announce(`Answer ${LETTERS[item]}: ${this.where(item)}.${this.ranking.isWhole ? " All are ranked." : ""}`);
    const [next] = this.ranking.unplaced;
    const stays = this.grabbed || was !== -1 || next === undefined;
    this.cards[stays ? item : next].focus();
  }

  where(item) {
    const place = this.ranking.tierOf(item);
    if (place === -1) return "not ranked yet";
    const others = this.ranking.tiers[place].filter((other) => other !== item).map((other) => LETTERS[other]);
    return `rank ${place + 1} of ${this.ranking.tiers.length}${others.length ? `, tied with ${others.join(" and ")}` : ""}`;
  }

  grab(item) {
    if (this.grabbed?.item === item) return this.letGo();
    this.grabbed = { item, before: this.ranking.tiers.map((tier) => [...tier]) };
    this.draw();
    this.cards[item].focus();
    announce(`Answer ${LETTERS[item]} is held, ${this.where(item)}. Arrow keys move it, space lets it go, escape puts it back.`);
  }

  letGo(back = false) {
    const { item, before } = this.grabbed;
    if (back) this.ranking.tiers = before;
    this.grabbed = null;
    this.draw();
    this.changed();
    this.cards[item].focus();
    announce(`Answer ${LETTERS[item]} ${back ? "is back" : "let go"}: ${this.where(item)}.`);
  }

  keyMap() {
    const digits = Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9].map((digit) => [
      digit, this.onFocused((item) => this.move(item, () => this.ranking.place(item, digit - 1)))]));
    return {
      ...digits,
      0: this.onFocused((item) => this.move(item, () => this.ranking.takeOut(item))),
      t: this.onFocused((item) => this.move(item, () => this.ranking.toggleTie(item))),
      " ": this.onFocused((item) => this.grab(item)),
      Escape: () => this.grabbed && this.letGo(true),
      ArrowUp: () => this.arrow(-1),
      ArrowDown: () => this.arrow(1),
    };
  }

  arrow(by) {
    if (this.grabbed) {
      const { item } = this.grabbed;
      return this.move(item, () => this.ranking.step(item, by));
    }
    const order = [...this.ranking.unplaced, ...this.ranking.tiers.flat()];
    const here = order.indexOf(this.focused());
    const next = here === -1 ? 0 : Math.min(order.length - 1, Math.max(0, here + by));
    this.cards[order[next]].focus();
  }

  onFocused(run) {
    return () => {
      const item = this.focused();
      if (item === null) announce("Go to an answer first, with the arrow keys.");
      else run(item);
    };
  }

  focused() {
    const card = document.activeElement?.closest?.(".answer[data-item]");
    return card && this.root.contains(card) ? Number(card.dataset.item) : null;
  }

  /** In the middle of a tier: a tie; between two: a place of its own; over those that wait: out of the ranking. */
  dropAt(x, y) {
    if (inside(this.tray.parentElement, x, y)) return { node: this.tray, drop: (item) => this.ranking.takeOut(item) };
    for (const tier of this.tiers.querySelectorAll(".tier")) {
      const { top, bottom, height } = tier.getBoundingClientRect();
      const place = Number(tier.dataset.tier);
      const margin = Math.min(36, height / 3);
      if (y > top + margin && y < bottom - margin) return { node: tier, drop: (item) => this.ranking.tie(item, place) };
      if (y <= top + margin) return this.gapTarget(place);
    }
    return this.gapTarget(this.ranking.tiers.length);
  }

  gapTarget(place) {
    return { node: this.tiers.querySelector(`.gap[data-place="${place}"]`), drop: (item) => this.ranking.place(item, place) };
  }
}

function inside(node, x, y) {
  const box = node.getBoundingClientRect();
  return x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;
}
