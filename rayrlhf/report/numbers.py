"""Numbers as people read them: digits, shares, durations, dates, and round ticks for axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple


class Unit(NamedTuple):
    """What a metric is shown in: the name after the number, and the factor from the stored value."""

    name: str
    scale: float = 1.0

    def text(self, value: float, digits: int = 4) -> str:
        """The stored value with its unit."""
        space = "" if self.name in ("", "%") else " "
        return f"{number(value * self.scale, digits)}{space}{self.name}"


PLAIN = Unit("")
SHARE = Unit("%", 100.0)


def number(value: float, digits: int = 4) -> str:
    """Significant digits, but every one before the point: 0.1235, −12.5, 12,350, 1.2e-05."""
    size = abs(value)
    if size and (size >= 1e7 or size < 1e-3):
        text = f"{value:.3g}"
    else:
        text = f"{value:,.0f}" if size >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return f"−{text[1:]}" if text.startswith("-") else text


def size_of(byte_count: float) -> str:
    """Bytes in the largest unit of which there is one."""
    for name in ("bytes", "KiB", "MiB"):
        if byte_count < 1024:
            return f"{number(byte_count)} {name}"
        byte_count /= 1024
    return f"{number(byte_count)} GiB"


def duration(seconds: float) -> tuple[str, str]:
    """In the largest unit of which there is one: the number and the unit."""
    for size_s, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size_s:
            return number(seconds / size_s, 3), unit
    return number(seconds, 3), "s"


def moment(time_s: float) -> str:
    """A Unix time as a date and a time of day in UTC; nothing where it is none."""
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return ""


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `at_most` of them."""
    raw = (high - low) / at_most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Ticks of one axis in words, with as many digits as tell them apart."""
    if len(values) < 2:
        return [number(value) for value in values]
    largest = max(map(abs, values))
    step = math.floor(math.log10(values[1] - values[0]) + 1e-9)
    if 1e-3 <= largest < 1e7:
        texts = [f"{value:,.{min(max(0, -step), 8)}f}" for value in values]
    else:
        digits = math.floor(math.log10(largest) + 1e-9) - step + 1
        texts = [f"{value:.{min(max(1, digits), 8)}g}" for value in values]
    return [f"−{text[1:]}" if text.startswith("-") else text for text in texts]
