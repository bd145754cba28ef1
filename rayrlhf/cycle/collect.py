"""What people have said, as the files that a turn learns from. Which conversations are held out never changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rayrlhf.cycle.config import CollectConfig
from rayrlhf.data.durable import write_durably
from rayrlhf.feedback.export import Filters, comparison_rows, demonstration_rows
from rayrlhf.feedback.reading import Snapshot


def count_new(snapshot: Snapshot, since: datetime | None) -> int:
    """Comparisons since a time."""
    return sum(since is None or comparison.at >= since for comparison in snapshot.comparisons)


def write_data(snapshot: Snapshot, folder: Path, config: CollectConfig, since: datetime | None) -> dict[str, Any]:
    """All comparisons, split by conversation, and the demonstrations from a time on; returns the counts."""
    compared = comparison_rows(snapshot, Filters(min_agreement=config.min_agreement))
    shown = demonstration_rows(snapshot, Filters(since=since), thumbs_up=config.thumbs_up)
    ordered = [row for row in compared if len(set(row["ranks"])) > 1]
    held_out = [row for row in ordered if is_held_out(row["messages"], config.held_out_share)]
    train = [row for row in ordered if not is_held_out(row["messages"], config.held_out_share)]
    for name, rows in (("comparisons", train), ("held_out", held_out), ("demonstrations", shown)):
        write_durably(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return {
        "comparisons": len(train),
        "held_out": len(held_out),
        "all_tied": len(compared) - len(ordered),
        "demonstrations": len(shown),
    }


def is_held_out(messages: Sequence[dict[str, str]], share: float) -> bool:
    """By the conversation alone, so a prompt is on one side for ever."""
    text = json.dumps([[message["role"], message["content"]] for message in messages])
    return int.from_bytes(hashlib.sha256(f"held out\0{text}".encode()).digest()[:8], "big") / 2**64 < share
