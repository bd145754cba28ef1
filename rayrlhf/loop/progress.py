"""The durable cursor of a run. Data order, seeds and schedules are functions of the step, so the step is the cursor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from rayrlhf.config.base import Section


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
)
"""Keys that say how a run is computed, not what: a resumed run may change them."""


def config_digest(job: Section) -> str:
    """Digest of what shapes a run's results: a checkpoint goes on only under the same one."""
    values = job.model_dump(mode="json")
    shaping = {key: value for key, value in values.items() if key not in ("name", "run", "checkpoint")}
    shaping["run"] = {key: values["run"][key] for key in ("epochs", "batch_rows") if key in values["run"]}
    if any(values.get(trained, {}).get("schedule", "constant") != "constant" for trained in ("learner", "critic")):
        shaping["run"]["steps"] = values["run"].get("steps")  # the schedule ends with the run
    return hashlib.sha256(json.dumps(_without_elastic(shaping), sort_keys=True).encode()).hexdigest()


def _without_elastic(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_elastic(item) for key, item in value.items() if key not in ELASTIC}


def sample_seed(run_seed: int, group_id: str, sample: int) -> int:
    """The seed of one sample: a function of the run, the prompt's use and the sample alone."""
    text = f"{run_seed}/{group_id}/{sample}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 2**31
