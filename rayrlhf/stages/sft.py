"""`rayrlhf sft`: supervised fine-tuning. Every assistant turn is learned, its end-of-turn token included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from rayrlhf.algorithms.objectives import LossTerms, cross_entropy_objective
from rayrlhf.config.jobs import SFTJob
from rayrlhf.data.batching import micro_batches
from rayrlhf.data.rows import read_demonstrations
from rayrlhf.data.template import RenderedConversation, render_conversation
from rayrlhf.engines.export import export_model
from rayrlhf.engines.model_files import require_weights
from rayrlhf.engines.models import load_policy, load_tokenizer, policy_shapes
from rayrlhf.engines.training import TrainingEngine
from rayrlhf.engines.weight_source import WeightSource
from rayrlhf.errors import DataError
from rayrlhf.stages.supervised import SupervisedResult, run_supervised
from rayrlhf.stages.supervised_task import gather_objects, rank_share


def run_sft(job: SFTJob, resume: str = "auto") -> SupervisedResult:
    """Fine-tune and export."""
    return run_supervised(job, SFTTask, resume)


class SFTTask:
    """Cross-entropy on the responses, the mean over the tokens of an optimizer step."""

    def __init__(self, job: SFTJob) -> None:
        self._job = job
        require_weights(job.model.path, job.model.digest)
        self._tokenizer = load_tokenizer(job.model.path)
        assert job.data.demonstrations is not None
        self.items = self._render(job.data.demonstrations)
        self.held_out = self._render(job.data.held_out) if job.data.held_out else []

    def load(self) -> nn.Module:
        """The policy."""
        return load_policy(self._job.model)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The policy's."""
        return policy_shapes(self._job.model.path)

    def length(self, item: RenderedConversation) -> int:
        """Tokens of the row."""
        return len(item.token_ids)

    def batches(
        self, items: Sequence[RenderedConversation], engine: TrainingEngine
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(ids, mask), right-padded."""
        groups = micro_batches([len(item.token_ids) for item in items], self._job.learner.micro_batch_tokens)
        return [padded([items[i] for i in group], engine.device) for group in groups]

    def objective(
        self, step_items: Sequence[RenderedConversation]
    ) -> Callable[[nn.Module, tuple[torch.Tensor, torch.Tensor]], LossTerms]:
        """Cross-entropy over all trained tokens of the step."""
        tokens = float(sum(item.response_tokens for item in step_items))

        def loss(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> LossTerms:
            logprobs, _ = module(*batch)
            return cross_entropy_objective(logprobs, batch[1], tokens)

        return loss

    def evaluate(self, engine: TrainingEngine) -> dict[str, float]:
        """Held-out loss, nats a token."""
        if not self.held_out:
            return {}

        def forward(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float]:
            logprobs, _ = module(*batch)
            return float((logprobs * batch[1]).sum()), float(batch[1].sum())

        sums = engine.forward_each(self.batches(rank_share(self.held_out, engine), engine), forward)
        total = [sum(column) for column in zip(*(s for part in gather_objects(sums) for s in part), strict=True)]
        return {"held_out/loss_nats": -total[0] / total[1]}

    def export(self, engine: TrainingEngine, folder: Path) -> None:
        """A causal language model with tokenizer and template."""
        model = engine.module.model
        export_model(model, WeightSource(model), self._tokenizer, folder, engine.rank == 0)

    def _render(self, source: str) -> list[RenderedConversation]:
        limit = self._job.data.max_sequence_tokens
        rows = [render_conversation(self._tokenizer, d.conversation) for d in read_demonstrations(source)]
        kept = [row for row in rows if len(row.token_ids) <= limit and row.response_tokens]
        if not kept:
            raise DataError(f"{source}: all {len(rows)} rows are longer than data.max_sequence_tokens = {limit}")
        if len(kept) < len(rows):
            dropped = [
                n for n, row in enumerate(rows, start=1) if len(row.token_ids) > limit or not row.response_tokens
            ]
            print(f"{source}: left out {len(dropped)} of {len(rows)} rows (too long), the first is row {dropped[0]}")
        return kept


def padded(items: Sequence[RenderedConversation], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids [B, T] and the mask of trained tokens [B, T]."""
    width = max(len(item.token_ids) for item in items)
    ids = torch.zeros(len(items), width, dtype=torch.long)
    mask = torch.zeros(len(items), width)
    for row, item in enumerate(items):
        ids[row, : len(item.token_ids)] = torch.tensor(item.token_ids)
        mask[row, : len(item.token_ids)] = torch.tensor(item.trained, dtype=torch.float32)
    return ids.to(device), mask.to(device)
