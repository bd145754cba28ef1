"""The durable cursor of a run. Data order, seeds and schedules are functions of the step, so the step is the cursor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

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


def config_digest(job: Section) -> str:
    """Digest of everything that shapes a run's results (not of where it runs or how it is shown)."""
    return hashlib.sha256(job.model_dump_json().encode()).hexdigest()


def sample_seed(run_seed: int, group_id: str, sample: int) -> int:
    """The seed of one sample: a function of the run, the prompt's use and the sample alone."""
    text = f"{run_seed}/{group_id}/{sample}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 2**31
