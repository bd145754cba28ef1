// An order of answers in which several can share a place: tiers, best first, and those that are not placed yet.
//
// Moving goes by half steps, because between two tiers there is a place of one's own, and in each tier there is a tie:
//     alone at 1 · tied at 1 · alone between · tied at 2 · … · alone at the end

export class Ranking {
  constructor(count, tiers = []) {
    this.count = count;
    this.tiers = tiers.map((tier) => [...tier]);
  }

  /** The order that ranks say, as the service keeps them. */
  static of(ranks) {
    const tiers = [];
    ranks.forEach((rank, item) => (tiers[rank - 1] ??= []).push(item));
    return new Ranking(ranks.length, tiers.filter(Boolean));
  }

  get unplaced() {
    const placed = new Set(this.tiers.flat());
    return [...Array(this.count).keys()].filter((item) => !placed.has(item));
  }

  get isWhole() {
    return this.unplaced.length === 0;
  }

  /** 1 is best, equal is a tie, in the order in which the answers were shown. */
  get ranks() {
    return [...Array(this.count).keys()].map((item) => this.tierOf(item) + 1);
  }

  /** The tier an item is in; -1 if it is not placed. */
  tierOf(item) {
    return this.tiers.findIndex((tier) => tier.includes(item));
  }

  takeOut(item) {
    this.tiers = this.tiers.map((tier) => tier.filter((other) => other !== item)).filter((tier) => tier.length);
  }

  /** A place of its own before the tier that is number `tier` now. */
  place(item, tier) {
    // A tier that the item leaves empty goes away, and those behind it move up.
    const own = this.tierOf(item);
    const vanishes = own !== -1 && own < tier && this.tiers[own].length === 1;
    this.takeOut(item);
    this.tiers.splice(Math.min(tier - vanishes, this.tiers.length), 0, [item]);
  }

  /** At the same place as those of a tier. */
  tie(item, tier) {
    const others = this.tiers[tier].filter((other) => other !== item);
    this.takeOut(item);
    if (others.length) this.tiers[this.tierOf(others[0])].push(item);
    else this.tiers.splice(Math.min(tier, this.tiers.length), 0, [item]);
  }

  /** Half a step up (-1) or down (1); whether it moved. */
  step(item, by) {
    const own = this.tierOf(item);
    if (own === -1) {
      if (by > 0) return false;
      this.place(item, this.tiers.length);
    } else if (this.tiers[own].length > 1) {
      this.place(item, by < 0 ? own : own + 1);
    } else {
      const beside = own + by;
      if (beside < 0 || beside >= this.tiers.length) return false;
      this.tie(item, beside);
    }
    return true;
  }

  /** Tie an item with the tier above, or end its tie. */
  toggleTie(item) {
    const own = this.tierOf(item);
    if (own === -1) return false;
    if (this.tiers[own].length > 1) this.place(item, own + 1);
    else if (own > 0) this.tie(item, own - 1);
    else return false;
    return true;
  }
}
