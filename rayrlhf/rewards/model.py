"""Rewards from a sequence-classification model with its own tokenizer and chat template.

Messages and the decoded answer are rendered anew, so policy and reward model may have different vocabularies. The score
is read at the last token, found by length, with the normalisation that is stored beside the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from rayrlhf.config.sections import ModelConfig
from rayrlhf.data.batching import micro_batches
from rayrlhf.data.template import render_conversation
from rayrlhf.engines.models import TokenScalars, load_scalar, load_tokenizer
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.types import Message, Reward


class ModelReward:
    """A reward model in memory."""

    def __init__(self, path: str, model: ModelConfig, micro_batch_tokens: int, max_sequence_tokens: int) -> None:
        self._tokenizer = load_tokenizer(path)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = load_scalar(model, path).to(self._device).eval()
        self._micro_batch_tokens = micro_batch_tokens
        self._max_tokens = max_sequence_tokens
        self.last_failure = ""

    def score(self, requests: list[RewardRequest]) -> list[Reward]:
        """One reward a request."""
        rows = [self._render(request) for request in requests]
        scores = score_rows(self._module, rows, self._micro_batch_tokens, self._device)
        return [self._reward(float(score)) for score in scores]

    def parts(self, requests: Sequence[RewardRequest]) -> list[list[int]]:
        """Places of the requests that go through the model together."""
        return micro_batches([len(self._render(request)) for request in requests], self._micro_batch_tokens)

    def close(self) -> None:
        """Nothing was started."""

    def _render(self, request: RewardRequest) -> tuple[int, ...]:
        answer = Message(role="assistant", content=request.response)
        return render_conversation(self._tokenizer, (*request.messages, answer)).token_ids[-self._max_tokens :]

    def _reward(self, score: float) -> Reward:
        if not math.isfinite(score):
            self.last_failure = f"the reward model's score is {score}"
            return Reward(None, {}, "error")
        return Reward(score, {"reward_model": score}, "ok")


@torch.no_grad()
def score_rows(
    module: TokenScalars, rows: list[tuple[int, ...]], micro_batch_tokens: int, device: torch.device
) -> torch.Tensor:
    """The scalar at the last token of each row, float32 [N] on the CPU, in the order of the rows."""
    scores = torch.zeros(len(rows))
    for group in micro_batches([len(row) for row in rows], micro_batch_tokens):
        input_ids = pad_rows([rows[i] for i in group]).to(device)
        last = torch.tensor([len(rows[i]) - 1 for i in group], device=device)
        scalars = module(input_ids)
        scores[group] = scalars[torch.arange(len(group), device=device), last].float().cpu()
    return scores


def pad_rows(rows: list[tuple[int, ...]]) -> torch.Tensor:
    """Right-padded ids [B, T]; what the padding holds is never looked at."""
    width = max(len(row) for row in rows)
    return torch.tensor([list(row) + [0] * (width - len(row)) for row in rows])
