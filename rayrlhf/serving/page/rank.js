// Ranking 4 to 9 answers, ties included, as InstructGPT's labellers did: by drag, by buttons, or by keys alone.

import { Board } from "./board.js";
import { Desk } from "./desk.js";
import { button, el } from "./dom.js";
import { Ranking } from "./ranking.js";
import { prefer, preference } from "./session.js";

const FEWEST = 4;
const MOST = 9;

export function rankView() {
  const many = el("select", { id: "many", onchange: () => changed() });
  for (let count = FEWEST; count <= MOST; count += 1) many.append(el("option", { value: count }, `${count} answers`));
  many.value = preference("rank.answers", FEWEST);
  const label = el("label", { for: "many", class: "quiet" }, "Answers to rank");
  const desk = new Desk({
    name: "rank",
    heading: "Rank the answers",
    answers: () => Number(many.value),
    bench,
    options: [label, many],
    hint: el("p", { class: "hint muted" }, "Drag, or go to an answer with ", key("↑"), " ", key("↓"), ", then ", key("1"), " to ", key("9"),
      " puts it at that rank, ", key("T"), " ties it, ", key("Space"), " takes hold of it. ", key("?"), " tells more."),
  });
  const changed = () => {
    prefer("rank.answers", Number(many.value));
    desk.look();
  };
  return { root: desk.root, keys: desk.keys, shown: () => desk.shown() };
}

function key(name) {
  return el("kbd", {}, name);
}

function bench(desk, task, said) {
  const ranking = said ? Ranking.of(said.ranks) : new Ranking(task.answers.length, task.draft);
  const none = el("input", { type: "checkbox", checked: said?.bothBad });
  const order = el("p", { class: "order", "aria-live": "off" });
  const store = button("Store ranking", { key: "Enter", kind: "primary", onclick: () => finish() });
  const board = new Board(task.answers, ranking, desk.scroll, () => {
    desk.sketch(ranking.tiers);
    update();
  });
  const update = () => {
    order.textContent = board.words();
    store.disabled = !ranking.isWhole;
  };
  const finish = () => {
    if (ranking.isWhole && !board.grabbed) desk.decide(ranking.ranks, none.checked, "Ranking");
  };
  update();
  return {
    body: board.root,
    bar: [order, el("label", { class: "check" }, none, "None is acceptable"), store],
    keys: { ...board.keys, Enter: finish },
  };
}
