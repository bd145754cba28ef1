"""How rows become ranks and micro-batches. Pure index arithmetic, the same on every rank.

Rows are right-padded; attention is causal, so real tokens never see the padding and no mask is needed. Rows of like
length go together, which keeps the padding small, and ranks get like numbers of tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group row indices, longest first, so that rows * longest row <= `max_tokens` in each group.

    A row longer than `max_tokens` is refused: config validation makes that impossible for a run's own data.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for index in order:
        if lengths[index] > max_tokens:
            raise ValueError(f"a row of {lengths[index]} tokens does not fit micro_batch_tokens = {max_tokens}")
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def split_among_ranks(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal row indices to ranks, longest first, each to the rank with the fewest tokens so far.

    Ranks without a row are possible only when there are fewer rows than ranks.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        lightest = min(range(ranks), key=lambda r: (load[r], r))
        shares[lightest].append(index)
        load[lightest] += lengths[index]
    return [sorted(share) for share in shares]


def shuffled_minibatches(rows: int, minibatches: int, seed: str) -> list[list[int]]:
    """Row indices in `minibatches` parts of like size, fewer where there are fewer rows; `seed` alone orders them.

    One part: unshuffled.
    """
    order = list(range(rows))
    if minibatches > 1:
        random.Random(seed).shuffle(order)
    return [sorted(order[i::minibatches]) for i in range(min(minibatches, rows))]
