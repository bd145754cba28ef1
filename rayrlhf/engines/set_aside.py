"""Batches that were not learned from, kept for people: every tensor of the batch, and which rows were wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from safetensors.torch import save

from rayrlhf.data.durable import write_durably
from rayrlhf.types import ExperienceBatch


def write_batch(folder: Path, step: int, model: str, batch: ExperienceBatch, bad_ids: Sequence[str]) -> Path:
    """Write `step-000012-policy.safetensors`; its metadata has the ids of all rows and of the bad ones."""
    tensors = {f.name: getattr(batch, f.name).contiguous() for f in fields(batch) if f.name != "trajectory_ids"}
    about = {"trajectory_ids": ",".join(batch.trajectory_ids), "bad_trajectory_ids": ",".join(bad_ids)}
    path = folder / f"step-{step:06d}-{model}.safetensors"
    write_durably(path, save(tensors, metadata=about))
    return path
