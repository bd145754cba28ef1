// Two answers side by side, in the order the service has drawn and recorded.

import { remarks, written } from "./answers.js";
import { Desk } from "./desk.js";
import { button, el } from "./dom.js";

const LETTERS = "AB";

export function compareView() {
  const desk = new Desk({ name: "compare", heading: "Which answer is better?", answers: () => 2, bench: pair });
  return { root: desk.root, keys: desk.keys, shown: () => desk.shown(), ask: (messages) => desk.ask(messages) };
}

function pair(desk, task, said) {
  const choose = {
    left: () => desk.decide([1, 2], false, "A is better"),
    right: () => desk.decide([2, 1], false, "B is better"),
    tie: () => desk.decide([1, 1], false, "A tie"),
    bad: () => desk.decide([1, 1], true, "Both are bad"),
  };
  const earlier = said && nameOf(said);
  const choice = (name, label, key, kind) =>
    button(label, { key, kind, onclick: choose[name], "aria-pressed": earlier === null ? null : String(earlier === name) });
  return {
    body: el("div", { class: "pair" }, task.answers.map((answer, place) => card(answer, LETTERS[place]))),
    bar: [
      choice("left", "A is better", "1", "choice"),
      choice("tie", "Tie", "T", "choice"),
      choice("bad", "Both bad", "B", "choice"),
      choice("right", "B is better", "2", "choice"),
    ],
    keys: { 1: choose.left, ArrowLeft: choose.left, 2: choose.right, ArrowRight: choose.right, t: choose.tie, b: choose.bad },
  };
}

function card(answer, letter) {
  const { buttons } = remarks(answer, `answer ${letter}`);
  return el(
    "article",
    { class: "answer card", tabindex: "0", "aria-labelledby": `answer-${letter}` },
    el("header", {}, el("h2", { id: `answer-${letter}` }, el("span", { class: "quiet" }, "Answer "), letter), el("div", { class: "row" }, buttons)),
    written(answer.text),
  );
}

function nameOf({ ranks: [left, right], bothBad }) {
  if (bothBad) return "bad";
  if (left === right) return "tie";
  return left < right ? "left" : "right";
}
