"""The config as pods read it: what the user wrote, with the labels and threads that the pods have.

Paths stay as they are written: relative ones begin at the shared volume, where the job runs. So values are taken from
the file and not from the validated job, whose paths are absolute on the machine that renders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.keys import JOB_MODELS
from rayrlhf.config.load import flat_keys, load_job, read_values
from rayrlhf.cycle.config import CycleJob
from rayrlhf.jobs.k8s.groups import Group, groups_of, labels_of
from rayrlhf.jobs.k8s.settings import KubernetesSettings
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.stages.bundles import role_bundles
from rayrlhf.stages.run_directory import toml_text

JOB_KINDS: Mapping[str, Any] = {**JOB_MODELS, "cycle": CycleJob}


class RunConfig:
    """A config file with its overrides, its job and the groups of pods that it needs."""

    def __init__(self, kind: str, path: str, overrides: Sequence[str], settings: KubernetesSettings) -> None:
        self.kind = kind
        self.job = load_job(JOB_KINDS[kind], path, overrides)
        self._values = read_values(path, overrides)
        self.bundles = _bundles(self.job)
        self.groups = groups_of(self.bundles, settings)

    @property
    def name(self) -> str:
        """The run's."""
        return str(self.job.name)

    @property
    def run_directory(self) -> str:
        """As it is written: a URL, or a path that begins at the volume if it is relative."""
        return str(self._values.get("run", {}).get("directory", "runs"))

    def absolute_paths(self) -> Iterator[tuple[str, str]]:
        """Keys that hold paths, as far as these begin with a slash."""
        for key, value in flat_keys(self._values).items():
            if isinstance(value, str) and value.startswith("/"):
                yield key, value

    @property
    def reward_port(self) -> int | None:
        """Of the reward service that the run asks, if it asks one."""
        url = self.job.reward.url if isinstance(self.job, RLJob) else None
        if url is None:
            return None
        parts = urlsplit(url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def service_directory(self) -> str:
        """Of a cycle: its service's, as it is written."""
        return str(self._values.get("service", {}).get("directory", "runs/service"))

    def toml(self) -> str:
        """The file for the pods."""
        tables = [self._values]
        if self.kind == "cycle":
            tables = [self._values.setdefault(stage, {}) for stage in ("sft", "reward", "rl")]
        for table, stage in zip(tables, ("sft", "reward", "rl"), strict=False):
            only = "learner" if self.kind in ("sft", "reward") or (self.kind == "cycle" and stage != "rl") else None
            for bundle in self.bundles:
                if only in (None, bundle.role):
                    group = next(group for group in self.groups if bundle.role in group.roles)
                    _place(table.setdefault(bundle.role, {}), bundle, group)
        return toml_text(self._values)


def _place(section: dict[str, Any], bundle: RoleBundle, group: Group) -> None:
    section["node_labels"] = labels_of(bundle, group)
    section.setdefault("threads", group.threads)


def _bundles(job: Any) -> list[RoleBundle]:
    """A job's roles; of a cycle those of its RL, with as many learner ranks as the greediest stage has."""
    if not isinstance(job, CycleJob):
        return role_bundles(job)
    job.check()
    turn = Path("turn")
    learners = [
        *role_bundles(job.sft_job(turn, "policy", turn / "d.jsonl")),
        *role_bundles(job.reward_job(turn, "policy", (turn / "c.jsonl", None))),
    ]
    found = role_bundles(job.rl_job(turn, "policy", "reward"))
    learner = next(bundle for bundle in found if bundle.role == "learner")
    for other in learners:
        learner = RoleBundle(
            "learner",
            max(learner.count, other.count),
            max(learner.cpus, other.cpus),
            max(learner.gpus, other.gpus),
            together=True,
            spread=learner.spread or other.spread,
            labels={**other.labels, **learner.labels},
        )
    return [learner if bundle.role == "learner" else bundle for bundle in found]
