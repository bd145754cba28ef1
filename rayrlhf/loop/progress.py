"""The durable cursor of a run, and which changes of its config a resumed run may make.

Data order, seeds and schedules are functions of the step, so the step is the cursor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rayrlhf.config.base import Section
from rayrlhf.config.load import flat_keys


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` steps are done; `version` is the policy that they made; `kl_coefficient` is the controller's state."""

    step: int
    version: int
    kl_coefficient: float

    def after_step(self, kl_coefficient: float) -> Progress:
        """One more step done."""
        return replace(self, step=self.step + 1, version=self.version + 1, kl_coefficient=kl_coefficient)


ELASTIC = frozenset(
    {"cpus", "gpus", "threads", "workers", "ranks", "spread", "zero_stage", "tensor_parallel", "micro_batch_tokens"}
    | {"max_concurrent", "gpu_memory_share", "kv_cache_gib", "enforce_eager", "bucket_mib", "timeout_s"}
    | {"max_failed_share", "logprob_tolerance", "queue_timeout_s", "digest"}
)
"""Keys that say how a run is computed, or when it stops, not what it computes: a resumed run may change them."""
AROUND = frozenset({"name", "run", "checkpoint", "recovery"})
"""Sections around the computation."""
COMPARED_BY_CONTENT = frozenset({"data.prompts", "reward.url"})
"""What may move: the checkpoint, or the run, has a digest of what was there."""
UPLOADED = re.compile(r"^/.*/working_dir_files/_ray_pkg_[0-9a-f]+/")
"""Where a Ray job has its copy of the working directory: elsewhere on another cluster, or after another upload."""
SHAPING_RUN_KEYS = frozenset({"run.epochs", "run.batch_rows"})


@dataclass(frozen=True, slots=True)
class ConfigChanges:
    """Keys whose values differ from the saved config's, each as a sentence."""

    harmless: tuple[str, ...]
    harmful: tuple[str, ...]


def config_changes(saved: Mapping[str, Any], job: Section) -> ConfigChanges:
    """Compare a job with the config that a run was started with (`model_dump(mode="json")`)."""
    values = job.model_dump(mode="json")
    before, now = _set_keys(saved), _set_keys(values)
    scheduled = any(values.get(part, {}).get("schedule", "constant") != "constant" for part in ("learner", "critic"))
    harmless: list[str] = []
    harmful: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            change = f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
            shapes = _shapes_results(key) or (key == "run.steps" and scheduled)  # a schedule ends with the run
            (harmful if shapes else harmless).append(change)
    return ConfigChanges(tuple(harmless), tuple(harmful))


def _shapes_results(key: str) -> bool:
    section, _, leaf = key.partition(".")
    around = section in AROUND or leaf in ELASTIC or key in COMPARED_BY_CONTENT or ".node_labels." in key
    return key in SHAPING_RUN_KEYS or not around


def _set_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _comparable(value) for key, value in flat_keys(values).items() if value is not None}


def _comparable(value: Any) -> Any:
    """A value as it is compared: JSON has no tuples, and what was uploaded has its place in the working directory."""
    if isinstance(value, str):
        return UPLOADED.sub("", value)
    return list(value) if isinstance(value, tuple) else value


def sample_seed(run_seed: int, group_id: str, sample: int) -> int:
    """The seed of one sample: a function of the run, the prompt's use and the sample alone."""
    text = f"{run_seed}/{group_id}/{sample}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 2**31
