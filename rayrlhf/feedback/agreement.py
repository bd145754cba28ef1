"""How far people agree about which of two answers is better. Knows no store: labels in, numbers out.

A unit is a pair of answers, a label is 1, 0 (a tie) or -1, a coder is a labeller. A ranking of K labels K(K-1)/2 units.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rayrlhf.feedback.reading import StoredComparison

Label = Hashable


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over the pairs of answers that two or more people have judged; none where nothing can be computed."""

    pairs_judged_twice: int
    share: float | None
    """Share of all pairs of labels of one unit that are equal; a tie agrees with a tie only."""
    share_without_ties: float | None
    """The same among labels that are no ties, as MT-bench's second setting (arXiv 2306.05685, section 4.2)."""
    krippendorff_alpha: float | None
    """1: perfect, 0: what chance gives; a tie is a category of its own."""


def labels_of(comparisons: Iterable[StoredComparison]) -> dict[tuple[str, str], dict[str, int]]:
    """What each labeller says of each pair of answers: the newest, if a pair and a ranking say two things."""
    labels: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for comparison in sorted(comparisons, key=lambda comparison: comparison.at):
        for pair, label in comparison.pairs.items():
            labels[pair][comparison.user] = label
    return dict(labels)


def agreement(units: Iterable[Sequence[int]]) -> Agreement:
    """All measures of the units' labels."""
    units = [unit for unit in units if len(unit) > 1]
    return Agreement(
        pairs_judged_twice=len(units),
        share=equal_share(units),
        share_without_ties=equal_share([[label for label in unit if label != 0] for unit in units]),
        krippendorff_alpha=krippendorff_alpha(units),
    )


def equal_share(units: Iterable[Sequence[Label]]) -> float | None:
    """Of all pairs of labels of one unit, the share that are equal."""
    pairs = [one == other for unit in units for one, other in combinations(unit, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def krippendorff_alpha(units: Iterable[Sequence[Label]]) -> float | None:
    """Krippendorff's alpha of nominal labels, with any number of coders and missing labels.

    K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: with o_ck the coincidences (each
    ordered pair of labels of a unit with m labels counts 1/(m-1)), n_c their margins and n their sum,

        alpha = 1 - (n - 1) sum_{c != k} o_ck / sum_{c != k} n_c n_k

    None if nothing varies or nothing is judged twice: then there is no chance agreement to compare with.
    """
    disagreeing, margins = 0.0, Counter[Label]()
    for unit in units:
        if len(unit) < 2:
            continue
        counts = Counter(unit)
        margins.update(counts)
        disagreeing += sum(n * (len(unit) - n) for n in counts.values()) / (len(unit) - 1)
    total = sum(margins.values())
    by_chance = sum(n * (total - n) for n in margins.values())
    return 1 - (total - 1) * disagreeing / by_chance if by_chance else None


def agreement_of(comparison: StoredComparison, labels: Mapping[tuple[str, str], Mapping[str, int]]) -> float | None:
    """The share of *other* labellers who say the same, as a mean over the comparison's pairs; none without others."""
    shares = []
    for pair, label in comparison.pairs.items():
        others = [said for user, said in labels[pair].items() if user != comparison.user]
        if others:
            shares.append(sum(said == label for said in others) / len(others))
    return sum(shares) / len(shares) if shares else None
