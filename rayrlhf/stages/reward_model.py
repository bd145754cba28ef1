"""`rayrlhf reward`: a reward model from comparisons and rankings, with InstructGPT's loss and honest metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rayrlhf.algorithms.bag_of_words import BagOfWords
from rayrlhf.algorithms.objectives import LossTerms
from rayrlhf.algorithms.preferences import preference_metrics, ranking_loss
from rayrlhf.config.jobs import RewardJob
from rayrlhf.data.rows import Ranking, read_rankings
from rayrlhf.data.template import render_conversation
from rayrlhf.engines.export import export_model
from rayrlhf.engines.model_files import require_weights
from rayrlhf.engines.models import (
    Normalisation,
    TokenScalars,
    load_scalar,
    load_tokenizer,
    scalar_shapes,
)
from rayrlhf.engines.training import TrainingEngine
from rayrlhf.engines.weight_source import WeightSource
from rayrlhf.errors import DataError
from rayrlhf.rewards.model import pad_rows
from rayrlhf.stages.supervised import SupervisedResult, run_supervised
from rayrlhf.stages.supervised_task import gather_objects, rank_share
from rayrlhf.types import Message


@dataclass(frozen=True, slots=True)
class RankedRows:
    """One prompt's answers as token rows, and the pairs (winner, loser) among them."""

    rows: tuple[tuple[int, ...], ...]
    response_lengths: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class RankedBatch:
    """Whole prompts in one forward pass: padded rows [R, T], each row's last position [R], each prompt's rows."""

    input_ids: torch.Tensor
    last: torch.Tensor
    prompts: tuple[tuple[slice, RankedRows], ...]


def run_reward(job: RewardJob, resume: str = "auto") -> SupervisedResult:
    """Fit, measure, normalise, export."""
    return run_supervised(job, RewardTask, resume)


class RewardTask:
    """The mean over prompts of each prompt's mean pair loss (arXiv 2203.02155, eq. 1)."""

    def __init__(self, job: RewardJob) -> None:
        self._job = job
        require_weights(job.model.path, job.model.digest)
        self._tokenizer = load_tokenizer(job.model.path)
        assert job.data.comparisons is not None
        self.items = self._render(job.data.comparisons)
        self.held_out = self._render(job.data.held_out) if job.data.held_out else []

    def load(self) -> nn.Module:
        """The policy's backbone with a new head, or a reward model to go on with."""
        module = load_scalar(self._job.model, self._job.model.path, head="normal", seed=self._job.seed)
        module.normalisation = Normalisation()
        return module

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The policy's backbone and a scalar head."""
        return scalar_shapes(self._job.model.path)

    def length(self, item: RankedRows) -> int:
        """All answers of the prompt, padded."""
        return len(item.rows) * max(len(row) for row in item.rows)

    def batches(self, items: Sequence[RankedRows], engine: TrainingEngine) -> list[RankedBatch]:
        """Whole prompts, as many as fit micro_batch_tokens; a prompt that does not fit goes alone."""
        groups: list[list[RankedRows]] = []
        for item in sorted(items, key=self.length, reverse=True):
            rows = sum(len(i.rows) for i in groups[-1]) + len(item.rows) if groups else 0
            widest = max(len(r) for i in [*groups[-1], item] for r in i.rows) if groups else 0
            if groups and rows * widest <= self._job.learner.micro_batch_tokens:
                groups[-1].append(item)
            else:
                groups.append([item])
        return [_batch(group, engine.device) for group in groups]

    def objective(self, step_items: Sequence[RankedRows]) -> Callable[[nn.Module, RankedBatch], LossTerms]:
        """Each prompt counts once; prompts of ties alone do not count."""
        prompts = max(1, sum(bool(item.pairs) for item in step_items))
        centering = self._job.centering_coefficient

        def loss(module: nn.Module, batch: RankedBatch) -> LossTerms:
            scores = _scores(module, batch)
            losses = [ranking_loss(scores[rows], item.pairs, centering) for rows, item in batch.prompts]
            total = torch.stack(losses).sum() / prompts
            return LossTerms(total, {"reward_model/loss_nats": float(total.detach())})

        return loss

    def evaluate(self, engine: TrainingEngine) -> dict[str, float]:
        """Held-out metrics, and the normalisation of what will be exported (from held-out answers, else training's)."""
        measured = self._score_all(self.held_out or self.items, engine)
        scores = torch.tensor([s for item_scores, _ in measured for s in item_scores])
        std = float(scores.std(unbiased=False)) if self._job.normalisation == "mean_std" else 1.0
        mean = float(scores.mean()) if self._job.normalisation != "none" else 0.0
        self._normalisation = Normalisation(mean, std or 1.0)
        if not self.held_out:
            return {}
        pairs = [(s[w], s[lo], i.response_lengths[w], i.response_lengths[lo]) for s, i in measured for w, lo in i.pairs]
        metrics = preference_metrics(*(torch.tensor(column) for column in zip(*pairs, strict=True)))
        found = {f"held_out/{name}": float(value) for name, value in asdict(metrics).items()}
        found["held_out/collapsed"] = float(metrics.collapsed)
        found["held_out/bag_of_words_accuracy"] = self._bag_of_words_accuracy()
        return found

    def export(self, engine: TrainingEngine, folder: Path) -> None:
        """A sequence-classification model; plain transformers pads, and finds the last token by comparing with pad."""
        model = engine.module.model
        model.config.num_labels = 1
        model.config.pad_token_id = padding_id(self._tokenizer)
        self._tokenizer.pad_token_id = model.config.pad_token_id
        export_model(model, WeightSource(model), self._tokenizer, folder, engine.rank == 0, self._normalisation)

    def _score_all(self, items: Sequence[RankedRows], engine: TrainingEngine) -> list[tuple[list[float], RankedRows]]:
        batches = self.batches(rank_share(items, engine), engine)

        def forward(module: nn.Module, batch: RankedBatch) -> list[tuple[list[float], RankedRows]]:
            scores = _scores(module, batch)
            return [(scores[rows].tolist(), item) for rows, item in batch.prompts]

        mine = [pair for batch in engine.forward_each(batches, forward) for pair in batch]
        return [pair for part in gather_objects(mine) for pair in part][: len(items)]

    def _bag_of_words_accuracy(self) -> float:
        """What counting words reaches on the held-out pairs (a tie counts one half)."""
        baseline = BagOfWords.fit([pair for item in self.items for pair in _answer_pairs(item)])
        held_out = [pair for item in self.held_out for pair in _answer_pairs(item)]
        margins = [baseline.score(chosen) - baseline.score(rejected) for chosen, rejected in held_out]
        return sum(1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins) / len(margins)

    def _render(self, source: str) -> list[RankedRows]:
        limit = self._job.data.max_sequence_tokens
        rankings = read_rankings(source)
        kept = [item for ranking in rankings if (item := render_ranking(self._tokenizer, ranking, limit)) is not None]
        if not kept:
            raise DataError(f"{source}: every answer is longer than data.max_sequence_tokens = {limit}")
        if not any(item.pairs for item in kept):
            raise DataError(f"{source}: every row is a tie, so there is nothing to learn or to measure")
        if len(kept) < len(rankings):
            print(f"{source}: left out {len(rankings) - len(kept)} of {len(rankings)} rows (an answer is too long)")
        return kept


def render_ranking(tokenizer: PreTrainedTokenizerBase, ranking: Ranking, max_tokens: int) -> RankedRows | None:
    """Token rows that end with the end-of-turn token; the left of the prompt is cut, never the answer."""
    rows, lengths = [], []
    for response in ranking.responses:
        rendered = render_conversation(tokenizer, (*ranking.messages, Message(role="assistant", content=response)))
        length = len(rendered.token_ids) - rendered.answer_start
        if length >= max_tokens:
            return None
        rows.append(rendered.token_ids[-max_tokens:])
        lengths.append(length)
    return RankedRows(tuple(rows), tuple(lengths), ranking.pairs)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A pad token that is no end-of-sequence token, so that plain transformers does not drop the last token."""
    ends = {tokenizer.eos_token_id}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in ends:
        return int(tokenizer.pad_token_id)
    ends.add(tokenizer.bos_token_id)
    special = sorted(i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i not in ends)
    return int(special[0]) if special else int(tokenizer.eos_token_id)


def _batch(items: Sequence[RankedRows], device: torch.device) -> RankedBatch:
    rows = [row for item in items for row in item.rows]
    prompts, start = [], 0
    for item in items:
        prompts.append((slice(start, start + len(item.rows)), item))
        start += len(item.rows)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    return RankedBatch(pad_rows(rows).to(device), last, tuple(prompts))


def _answer_pairs(item: RankedRows) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    answers = [row[-length:] for row, length in zip(item.rows, item.response_lengths, strict=True)]
    return [(answers[winner], answers[loser]) for winner, loser in item.pairs]


def _scores(module: nn.Module | TokenScalars, batch: RankedBatch) -> torch.Tensor:
    scalars: torch.Tensor = module(batch.input_ids)
    return scalars[torch.arange(len(batch.last), device=batch.last.device), batch.last]
