"""The batch geometry of a step: how many rows, how long, and in which micro-batches each rank takes them.

Lengths come from the prompts themselves where their file and tokenizer can be read; answers are as long as the caller
says, or as long as they may be. Knows nothing of hardware.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayrlhf.config.jobs import RLJob
from rayrlhf.data.batching import micro_batches, split_among_ranks
from rayrlhf.errors import InputError


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts and answers, and where the numbers come from."""

    prompt: tuple[int, ...]
    """A sample of prompt lengths, in the order of the file."""
    answer: float
    source: str


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A padded batch: rows x length tokens, of which `answers` are projected onto the vocabulary."""

    rows: int
    length: int
    answers: int

    @property
    def tokens(self) -> int:
        """Padded tokens."""
        return self.rows * self.length


@dataclass(frozen=True, slots=True)
class StepGeometry:
    """One step of an RL job; all lengths in tokens."""

    prompts: tuple[int, ...]
    """Prompt length of every trajectory."""
    answer: float
    source: str

    @property
    def trajectories(self) -> int:
        """Rows of a step."""
        return len(self.prompts)

    @property
    def answer_tokens(self) -> float:
        """Sampled tokens of a step."""
        return self.trajectories * self.answer

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of a step, those of a group counted for every sample."""
        return sum(self.prompts)

    def share(self, ranks: int, minibatches: int = 1) -> tuple[int, ...]:
        """Prompt lengths of the rows of the busiest rank in one of `minibatches`."""
        mine = self.prompts[:: max(1, minibatches)]
        shares = split_among_ranks([self._length(p) for p in mine], ranks)
        return tuple(mine[i] for i in max(shares, key=lambda share: sum(self._length(mine[i]) for i in share)))

    def micro_batches(self, prompts: Sequence[int], max_tokens: int) -> list[MicroBatch]:
        """How these rows go through a model, as `data/batching.py` packs them."""
        lengths = [self._length(prompt) for prompt in prompts]
        groups = micro_batches(lengths, max(max_tokens, max(lengths)))
        return [MicroBatch(len(g), max(lengths[i] for i in g), round(len(g) * self.answer)) for g in groups]

    def _length(self, prompt: int) -> int:
        return math.ceil(prompt + self.answer)


def step_geometry(job: RLJob, lengths: Lengths) -> StepGeometry:
    """A typical step: prompts of all lengths in the file, spread evenly."""
    wanted, found = job.rollout.prompts_per_step, sorted(lengths.prompt)
    chosen = [found[(2 * i + 1) * len(found) // (2 * wanted)] for i in range(wanted)]
    rows = tuple(prompt for prompt in chosen for _ in range(job.rollout.samples_per_prompt))
    return StepGeometry(rows, lengths.answer, lengths.source)


def read_lengths(job: RLJob, answer_tokens: float | None) -> Lengths:
    """Lengths of the job's prompts, rendered as the run renders them; the longest allowed where they cannot be read."""
    answer = float(min(answer_tokens or job.rollout.max_tokens, job.rollout.max_tokens))
    answers = f"answers of {answer:g} tokens ({'given' if answer_tokens else 'the longest, rollout.max_tokens'})"
    found = _rendered(job)
    if found is None:
        prompts: tuple[int, ...] = (job.data.max_prompt_tokens,)
        return Lengths(prompts, answer, f"prompts of data.max_prompt_tokens = {prompts[0]} tokens, {answers}")
    mean = sum(found) / len(found)
    return Lengths(found, answer, f"{len(found)} prompts of {mean:.0f} tokens on average, {answers}")


def _rendered(job: RLJob) -> tuple[int, ...] | None:
    """None where prompts or tokenizer are not on this machine."""
    source = job.data.prompts
    if source is None or not (Path(source).is_file() and Path(job.model.path).is_dir()):
        return None
    from rayrlhf.data.prompts import render_prompts
    from rayrlhf.data.rows import read_prompts
    from rayrlhf.engines.models import load_tokenizer

    try:
        tokenizer = load_tokenizer(job.model.path)
    except InputError:  # weights and config alone are enough for a plan
        return None
    prompts = render_prompts(read_prompts(source), tokenizer, job.data.max_prompt_tokens).prompts
    return tuple(len(prompt.token_ids) for prompt in prompts)
