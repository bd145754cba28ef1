"""The domain's nouns: what flows from prompts to the policy update. Knows no Ray and no engine.

    Prompt ──generate──▶ Trajectory(Completion) ──score──▶ Rewards, Logprobs, Values ──▶ ExperienceBatch ──▶ loss

Text exists only at the edges (rewards and people); in between there are token ids. Masks come from lengths and
finish reasons, never from a comparison with the pad token, so pad = eos, several eos ids, or an eos inside the
prompt change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]
"""`stop`: the policy wrote an end-of-sequence token (it is part of the completion). `length`: cut at max_tokens."""

RewardStatus = Literal["ok", "timeout", "error"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for an answer, rendered with the policy's chat template."""

    id: str
    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]
    answer: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """The tokens `start` (inclusive) to `end` (exclusive) of a completion were written by policy `version`."""

    start: int
    end: int
    version: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy wrote. `behaviour_logprobs[t]` is log p(token t) in nats, under the sampler's distribution."""

    token_ids: tuple[int, ...]
    behaviour_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    version_spans: tuple[VersionSpan, ...]

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.behaviour_logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.behaviour_logprobs)} log-probabilities")

    @property
    def policy_versions(self) -> tuple[int, ...]:
        """The policy versions that wrote this completion, oldest first."""
        return tuple(span.version for span in self.version_spans)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sampled answer to one prompt. Ids sort in the order in which the run uses them.

    `group_id` names the prompt's use in a step; its samples share it (`sample_index` 0 to K-1).
    """

    id: str
    group_id: str
    sample_index: int
    prompt: Prompt
    completion: Completion

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and response, the sequence that the learner reads."""
        return self.prompt.token_ids + self.completion.token_ids


@dataclass(frozen=True, slots=True)
class Reward:
    """The score of one trajectory. `value` is what the algorithm optimises; None when `status` is not ok."""

    value: float | None
    components: Mapping[str, float]
    status: RewardStatus


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards by trajectory id."""

    by_id: Mapping[str, Reward]


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Per-token numbers of one `kind` by trajectory id; each has one entry a response token.

    kind `policy` and `reference` are log-probabilities in nats (of the learner at the start of the step, and of the
    frozen reference); `value` is V of the state *before* the token.
    """

    kind: Literal["policy", "reference", "value"]
    by_id: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class ExperienceBatch:
    """Everything a loss needs for B trajectories, built once and complete; rows are in the order of their ids.

    Tensors are right-padded to the longest row, [B, T] unless said otherwise. Position t speaks of *token* t:
    `policy_logprobs[b, t]` is log p(token t | tokens < t), and `values[b, t]` is V of the state before token t.
    Positions with `response_mask` 0 (prompt and padding) hold 0.
    """

    trajectory_ids: tuple[str, ...]
    input_ids: torch.Tensor  # int64
    lengths: torch.Tensor  # int64 [B], prompt and response
    response_mask: torch.Tensor  # float32, 1 on generated tokens, the end-of-sequence token included
    policy_logprobs: torch.Tensor  # float32, the learner's own, at the start of the step
    behaviour_logprobs: torch.Tensor  # float32, the sampler's
    reference_logprobs: torch.Tensor  # float32; equal to policy_logprobs when the algorithm uses no reference
    values: torch.Tensor  # float32; 0 when the algorithm has no critic
    advantages: torch.Tensor  # float32
    returns: torch.Tensor  # float32; targets of the critic
    importance_weights: torch.Tensor  # float32, detached, 1 without correction

    def __len__(self) -> int:
        return len(self.trajectory_ids)

    def rows(self, indices: Sequence[int]) -> ExperienceBatch:
        """The given rows, trimmed to the longest of them."""
        import torch

        index = torch.as_tensor(indices, dtype=torch.long)
        width = int(self.lengths[index].max())
        tensors = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in ("trajectory_ids",)}
        tensors = {name: t[:, :width] if t.dim() == 2 else t for name, t in tensors.items()}
        return replace(self, trajectory_ids=tuple(self.trajectory_ids[i] for i in indices), **tensors)

    def masked(self) -> ExperienceBatch:
        """The same rows, none of which counts in a loss or a metric: for a rank that only has to take part."""
        import torch

        return replace(self, response_mask=torch.zeros_like(self.response_mask))

    def not_finite(self) -> tuple[str, ...]:
        """Ids of the rows with a NaN or an infinity: where one was measured, else where one was derived.

        Whitening and group means carry a bad number into the advantages of other rows, which are not to blame.
        """
        measured = (self.policy_logprobs, self.behaviour_logprobs, self.reference_logprobs, self.values)
        derived = (self.advantages, self.returns, self.importance_weights)
        return self._not_finite(measured) or self._not_finite(derived)

    def _not_finite(self, tensors: Sequence[torch.Tensor]) -> tuple[str, ...]:
        wrong = [not all(bool(tensor[row].isfinite().all()) for tensor in tensors) for row in range(len(self))]
        return tuple(id_ for id_, bad in zip(self.trajectory_ids, wrong, strict=True) if bad)

    def to(self, device: torch.device) -> ExperienceBatch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "trajectory_ids"}
        return replace(self, **moved)
