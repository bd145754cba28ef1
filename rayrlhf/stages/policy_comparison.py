"""A candidate against the policy that serves, on prompts that neither was trained on: what the gates of a cycle ask.

both answer the same prompts ──▶ reward model ──▶ win rate
                             ──▶ lengths, refusals
candidate's answers ──▶ log-probabilities under both ──▶ KL(candidate || serving), nats a response
demonstrations ──▶ log-probabilities under both ──▶ nats a token: what the candidate has forgotten

"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rayrlhf.config.jobs import RLJob
from rayrlhf.data.rows import Demonstration, PromptRow, Ranking
from rayrlhf.data.template import render_conversation
from rayrlhf.engines.models import load_tokenizer
from rayrlhf.errors import DataError
from rayrlhf.role_types import ReferenceWorker, RewardWorker
from rayrlhf.roles.reference import ReferenceRole
from rayrlhf.roles.reward import RewardRole
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.cluster import Placement, check_feasible, connect
from rayrlhf.runtime.worker_group import WorkerGroup, create_group, gather, gather_data
from rayrlhf.stages.evaluate import WinRate, win_rate
from rayrlhf.stages.generate import AnswerConfig, as_request, generate
from rayrlhf.types import Completion, Prompt, Trajectory, VersionSpan

_REFUSAL = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i (can(no|')t|won't)|as an ai\b|i must decline)", re.IGNORECASE
)
"""How assistants begin to refuse; looked for in the first 80 characters."""


@dataclass(frozen=True, slots=True)
class PolicyComparison:
    """What was measured; shares are of the answers."""

    win: WinRate
    kl_nats: float
    """Of a response, estimated on the candidate's samples."""
    length_ratio: float
    """Mean length of the candidate's answers in tokens over the serving policy's."""
    refusals: float
    serving_refusals: float
    capability_nats: float
    """Per token of the demonstrations; NaN without any."""
    serving_capability_nats: float
    samples: tuple[tuple[str, str, str], ...]
    """Prompt, serving policy's answer, candidate's answer: for people."""


@dataclass(frozen=True, slots=True)
class Contest:
    """The two policies (directories) and what they are asked."""

    candidate: str
    serving: str
    prompts: Sequence[PromptRow]
    capability: Sequence[Demonstration] = ()


def compare_policies(job: RLJob, contest: Contest) -> PolicyComparison:
    """Measure; `job` says how answers are drawn, which reward judges, and what the roles may use."""
    config = AnswerConfig(
        1, job.rollout.max_tokens, job.data.max_prompt_tokens, job.rollout.temperature, job.model.dtype, job.seed
    )
    ours, theirs = (
        [group[0] for group in generate(model, contest.prompts, config)]
        for model in (contest.candidate, contest.serving)
    )
    rewards = _score(job, [*_renamed(ours, "candidate"), *_renamed(theirs, "serving")])
    known = _known(job, contest.capability)
    asked = [*ours, *known]
    under_candidate, under_serving = (_logprobs(job, model, asked) for model in (contest.candidate, contest.serving))
    tokenizer = load_tokenizer(contest.serving)
    texts = [[as_request(tokenizer, t).response for t in rows] for rows in (ours, theirs)]
    gaps = [len(a.split()) - len(b.split()) for a, b in zip(*texts, strict=True)]
    return PolicyComparison(
        win=win_rate(rewards[: len(ours)], rewards[len(ours) :], gaps, job.seed),
        kl_nats=fmean(under_candidate[t.id] - under_serving[t.id] for t in ours),
        length_ratio=_tokens(ours) / max(1, _tokens(theirs)),
        refusals=fmean(map(is_refusal, texts[0])),
        serving_refusals=fmean(map(is_refusal, texts[1])),
        capability_nats=_nats_per_token(known, under_candidate),
        serving_capability_nats=_nats_per_token(known, under_serving),
        samples=tuple(
            (row.messages[-1]["content"], b, a) for row, a, b in list(zip(contest.prompts, *texts, strict=True))[:5]
        ),
    )


def pair_accuracy(job: RLJob, rankings: Sequence[Ranking]) -> float:
    """The share of people's pairs that `job.reward` orders as they did; a tie of scores is half."""
    asked = [Demonstration(ranking.messages, response) for ranking in rankings for response in ranking.responses]
    scores = iter(_score(job, _known(job, asked)))
    rows = [[next(scores) for _ in ranking.responses] for ranking in rankings]
    margins = [row[w] - row[lo] for row, ranking in zip(rows, rankings, strict=True) for w, lo in ranking.pairs]
    return fmean(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in margins)


def is_refusal(text: str) -> bool:
    """Whether an answer begins as refusals do."""
    return _REFUSAL.search(text[:80].replace("’", "'")) is not None


def _renamed(trajectories: Sequence[Trajectory], who: str) -> list[Trajectory]:
    """Both answer the same prompts, so their ids are the same."""
    return [Trajectory(f"{who}-{t.id}", t.group_id, t.sample_index, t.prompt, t.completion) for t in trajectories]


def _score(job: RLJob, trajectories: Sequence[Trajectory]) -> list[float]:
    """Rewards in order; one that could not be had fails the comparison."""
    role = _OneWorker("reward", RewardRole, (job, None))
    found = _ask(role, job, RewardWorker.score, trajectories).by_id
    failed = next((id for id, reward in found.items() if reward.value is None), None)
    if failed is not None:
        raise DataError(f"the reward model gave no score for {failed}: the policies cannot be compared")
    return [float(found[t.id].value) for t in trajectories]


def _logprobs(job: RLJob, model: str, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """log p of each response under a model, by id, in nats."""
    under = job.model_copy(update={"reference": job.reference.model_copy(update={"model": model})})
    role = _OneWorker("reference", ReferenceRole, (under,))
    scores = _ask(role, under, ReferenceWorker.logprobs, trajectories).by_id
    return {id: float(values.sum()) for id, values in scores.items()}


@dataclass(frozen=True, slots=True)
class _OneWorker:
    """A role with one worker, for one call."""

    name: str
    cls: type
    arguments: tuple[Any, ...]


def _ask(role: _OneWorker, job: RLJob, method: Any, trajectories: Sequence[Trajectory]) -> Any:
    connect()
    config = getattr(job, role.name)
    bundles = [RoleBundle(role.name, 1, config.cpus, config.gpus)]
    check_feasible(bundles)
    placement = Placement(bundles)
    try:
        placement.wait(job.run.start_timeout_s)
        workers: WorkerGroup[Any] = create_group(placement, role.name, role.cls, 1, *role.arguments)
        gather(workers.start_ready(), job.run.start_timeout_s, "start")
        [answer] = gather_data([workers.start_on(0, method, list(trajectories))], job.run.phase_timeout_s, role.name)
    finally:
        placement.release()
    return answer


def _known(job: RLJob, demonstrations: Sequence[Demonstration]) -> list[Trajectory]:
    """Demonstrations as trajectories, whose response is what a person wrote."""
    tokenizer = load_tokenizer(job.model.path)
    rows = []
    for number, demonstration in enumerate(demonstrations):
        rendered = render_conversation(tokenizer, demonstration.conversation)
        prompt = Prompt(f"known-{number}", demonstration.messages, rendered.token_ids[: rendered.answer_start])
        response = rendered.token_ids[rendered.answer_start :]
        completion = Completion(response, (0.0,) * len(response), "stop", (VersionSpan(0, len(response), 0),))
        rows.append(Trajectory(prompt.id, prompt.id, 0, prompt, completion))
    return rows


def _nats_per_token(trajectories: Sequence[Trajectory], logprobs: dict[str, float]) -> float:
    if not trajectories:
        return float("nan")
    return -sum(logprobs[t.id] for t in trajectories) / _tokens(trajectories)


def _tokens(trajectories: Sequence[Trajectory]) -> int:
    return sum(len(t.completion.token_ids) for t in trajectories)
