// Dragging a card by its grip with mouse, pen or finger. Knows cards and places to drop, not what a ranking is.

const EDGE_PX = 60;
const STEP_PX = 14;

/**
 * `dropAt(x, y)` gives what is under the pointer: `{ node, … }` or null; `dropped(target)` is called at the end.
 * Escape, or a drop beside everything, changes nothing.
 */
export function draggable(card, grip, { scroller, dropAt, dropped }) {
  grip.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    grip.setPointerCapture(event.pointerId);
    const drag = new Drag(card, event, scroller, dropAt);
    const stop = (isDropped) => {
      removeEventListener("keydown", escape, true);
      for (const [name, listener] of Object.entries(listeners)) grip.removeEventListener(name, listener);
      const target = drag.end();
      if (isDropped && target) dropped(target);
    };
    const escape = (key) => {
      if (key.key !== "Escape") return;
      key.stopPropagation();
      stop(false);
    };
    const listeners = {
      pointermove: (move) => drag.to(move.clientX, move.clientY),
      pointerup: () => stop(drag.isMoved),
      pointercancel: () => stop(false),
    };
    for (const [name, listener] of Object.entries(listeners)) grip.addEventListener(name, listener);
    addEventListener("keydown", escape, true);
  });
}

class Drag {
  constructor(card, event, scroller, dropAt) {
    Object.assign(this, { card, scroller, dropAt, x: event.clientX, y: event.clientY, isMoved: false, target: null });
    this.from = { x: event.clientX, y: event.clientY + scroller.scrollTop };
  }

  to(x, y) {
    Object.assign(this, { x, y });
    if (!this.isMoved && Math.hypot(x - this.from.x, y + this.scroller.scrollTop - this.from.y) < 6) return;
    if (!this.isMoved) {
      this.isMoved = true;
      this.card.classList.add("dragged");
      this.frame = requestAnimationFrame(() => this.scrollAlong());
    }
    this.draw();
  }

  draw() {
    this.card.style.transform = `translate(${this.x - this.from.x}px, ${this.y + this.scroller.scrollTop - this.from.y}px)`;
    this.aim(this.dropAt(this.x, this.y));
  }

  aim(target) {
    this.target?.node.classList.remove("aimed");
    target?.node.classList.add("aimed");
    this.target = target;
  }

  /** Near an edge the page goes along, for as long as the pointer stays there. */
  scrollAlong() {
    const { top, bottom } = this.scroller.getBoundingClientRect();
    const by = this.y < top + EDGE_PX ? -STEP_PX : this.y > bottom - EDGE_PX ? STEP_PX : 0;
    if (by) {
      this.scroller.scrollTop += by;
      this.draw();
    }
    this.frame = requestAnimationFrame(() => this.scrollAlong());
  }

  end() {
    cancelAnimationFrame(this.frame);
    const { target } = this;
    this.aim(null);
    this.card.classList.remove("dragged");
    this.card.style.transform = "";
    return target;
  }
}
