"""Which metrics belong on which chart, in which unit, under which words. Metrics without a place here get one each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from rayrlhf.report.numbers import PLAIN, SHARE, Unit

NATS = Unit("nats")
SECONDS = Unit("s")
Column = Mapping[int, float]
"""A metric's finite numbers by step."""


@dataclass(frozen=True, slots=True)
class ChartSpec:
    """A chart: metric names (`*` stands for the label) with their labels."""

    title: str
    meaning: str
    metrics: Mapping[str, str]
    unit: Unit = PLAIN
    spread: str = ""
    """A metric that is drawn as a band around the first line."""
    stacked: bool = False
    if_varies: bool = False
    """Shown only where it says something: where a number changes."""


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: finite values by step, and half the width of the band around it."""

    label: str
    values: Column
    spread: Column = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn together."""

    title: str
    meaning: str
    unit: Unit
    series: Sequence[Series]
    stacked: bool = False


LEARNING = (
    ChartSpec("Reward", "mean of a step's answers ± one deviation", {"reward/mean": "mean"}, spread="reward/std"),
    ChartSpec("KL to the reference", "summed over a response", {"kl/sequence_nats": "KL"}, NATS),
    ChartSpec("Loss", "a training step's objective", {"*/loss_nats": "*"}, NATS),
    ChartSpec("Policy loss", "mean over the step's updates", {"policy/loss": "policy"}),
    ChartSpec("Gradient norm", "before clipping", {"*/gradient_norm": "*"}),
    ChartSpec("Response length", "mean of a step's answers", {"rollout/response_tokens_mean": "mean"}, Unit("tokens")),
    ChartSpec("Answers cut at max_tokens", "share of a step's answers", {"rollout/truncated_share": "cut"}, SHARE),
    ChartSpec("Entropy", "of the policy's next token", {"policy/entropy_nats": "entropy"}, NATS),
    ChartSpec("Critic loss", "squared error of the values", {"critic/loss": "critic"}),
    ChartSpec("Explained variance", "of the returns, by the critic; 1 is perfect",
              {"critic/explained_variance": "critic"}),
    ChartSpec("Clipped ratios", "share of tokens", {"policy/clip_fraction": "all updates",
              "policy/first_clip_fraction": "first update"}, SHARE),
    ChartSpec("Learning rate", "", {"*/learning_rate": "*"}, if_varies=True),
    ChartSpec("KL coefficient", "set by the controller", {"kl/coefficient": "coefficient"}, if_varies=True),
    ChartSpec("Failed rewards", "share of a step's answers", {"reward/failed_share": "failed"}, SHARE, if_varies=True),
    ChartSpec("Skipped updates", "numbers that were not finite", {"*/skipped_updates": "*"}, if_varies=True),
)  # fmt: skip
SAMPLING = (
    ChartSpec("Drift", "sampler's log-probability of a token against the learner's",
              {"drift/abs_logprob_mean_nats": "mean", "drift/abs_logprob_p95_nats": "95th percentile",
               "drift/abs_logprob_max_nats": "largest"}, NATS),
    ChartSpec("Tokens off by more than 10 %", "ratio of learner and sampler outside 0.9 to 1.1",
              {"drift/ratio_outside_share": "outside"}, SHARE, if_varies=True),
    ChartSpec("Effective sample", "share of the tokens that importance weights leave",
              {"drift/effective_sample_share": "effective"}, SHARE, if_varies=True),
    ChartSpec("Proof of the weight push", "largest difference of log-probabilities",
              {"weight_sync/logprob_difference_max_nats": "difference"}, NATS),
    ChartSpec("Staleness", "age of the oldest policy that wrote an answer",
              {"rollout/staleness_steps": "oldest"}, Unit("steps"), if_varies=True),
)  # fmt: skip
COST = (
    ChartSpec("Time of a step", "seconds by phase", {"time/*_s": "*"}, SECONDS, stacked=True),
    ChartSpec("Tokens a second", "rollout or training, all workers together",
              {"rollout/tokens_per_s": "generated", "training/tokens_per_s": "trained"}, Unit("tok/s")),
    ChartSpec("Memory", "resident, the largest worker of each role", {"memory/*_mib": "*"}, Unit("GiB", 1 / 1024)),
)  # fmt: skip
GROUPS: Mapping[str, Sequence[ChartSpec]] = {
    "Learning": LEARNING,
    "Sampler and learner": SAMPLING,
    "Time and memory": COST,
}
PHASES = ("rollout", "score", "learn", "weight sync", "commit")
WITHOUT_MEANING = frozenset({"weight_sync/weights_digest"})
"""Numbers that only identify."""


@dataclass(frozen=True, slots=True)
class Charts:
    """All charts of a run by group, those of other metrics, and the metrics that never change."""

    groups: Mapping[str, Sequence[Chart]]
    other: Sequence[Chart]
    constant: Mapping[str, float]


def arrange(columns: Mapping[str, Column]) -> Charts:
    """Put every metric somewhere."""
    left = {name: column for name, column in columns.items() if column and name not in WITHOUT_MEANING}
    left = _by_role(left)
    groups = {}
    for group, specs in GROUPS.items():
        groups[group] = [chart for spec in specs if (chart := _take(spec, left)) is not None]
    varying = {name: column for name, column in left.items() if _varies(column)}
    other = [Chart(name, "", PLAIN, [Series(name, column)]) for name, column in sorted(varying.items())]
    constant = {name: next(iter(column.values())) for name, column in sorted(left.items()) if name not in varying}
    return Charts({group: charts for group, charts in groups.items() if charts}, other, constant)


def _take(spec: ChartSpec, left: dict[str, Column]) -> Chart | None:
    """The spec's chart, of metrics that then are no longer left; None where there are none."""
    found = dict(_matches(spec, left))
    if not found or (spec.if_varies and not any(_varies(left[name]) for name in found)):
        return None
    series = [Series(label, left.pop(name)) for name, label in found.items()]
    if spec.spread in left:
        series[0] = replace(series[0], spread=left.pop(spec.spread))
    if spec.stacked:
        series.sort(key=lambda s: PHASES.index(s.label) if s.label in PHASES else len(PHASES))
    return Chart(spec.title, spec.meaning, spec.unit, series, spec.stacked)


def _matches(spec: ChartSpec, left: Mapping[str, Column]) -> Iterator[tuple[str, str]]:
    """Names of metrics that the spec asks for, with their labels."""
    for pattern, label in spec.metrics.items():
        before, _, after = pattern.partition("*")
        for name in left:
            if fnmatchcase(name, pattern):
                star = name.removeprefix(before).removesuffix(after).replace("_", " ")
                yield name, label.replace("*", star)


def _by_role(columns: Mapping[str, Column]) -> dict[str, Column]:
    """`memory/learner_0_mib`, `memory/learner_1_mib`, … become `memory/learner_mib`, the largest at each step."""
    merged: dict[str, Column] = {}
    for name, column in columns.items():
        worker = re.fullmatch(r"memory/(\w+)_\d+_mib", name)
        if worker is None:
            merged[name] = column
            continue
        role = f"memory/{worker[1]}_mib"
        so_far = merged.get(role, {})
        steps = sorted(so_far.keys() | column.keys())
        merged[role] = {step: max(c[step] for c in (so_far, column) if step in c) for step in steps}
    return merged


def _varies(column: Column) -> bool:
    return len(set(column.values())) > 1
