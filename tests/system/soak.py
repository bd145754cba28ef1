"""Whether memory grows while a run goes on."""

import statistics

MOST = 0.05


def growth(rows):
    """By worker: how much the resident memory grew over the last half of a run, as a share (medians of its ends)."""
    half = rows[len(rows) // 2 :]
    width = max(1, len(half) // 5)
    found = {}
    for key in (key for key in half[0] if key.startswith("memory/")):
        values = [row[key] for row in half if key in row]
        before, after = (statistics.median(part) for part in (values[:width], values[-width:]))
        found[key.removeprefix("memory/").removesuffix("_mib")] = after / before - 1
    return found
