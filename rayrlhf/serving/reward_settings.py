"""How a reward model is served: every key with its default. No torch, no Ray."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rayrlhf.config.base import NonNegativeFloat, PositiveFloat, PositiveInt
from rayrlhf.serving.settings import Here, ListeningSettings


class RewardServiceSettings(ListeningSettings):
    """One service. Its model and its tokens are seen by all its nodes."""

    tokens: Here = Field("runs/feedback/tokens.json", description="bearer tokens, as `rayrlhf feedback token` issues")
    gpus: NonNegativeFloat = Field(0.0, description="GPUs that one replica reserves, and computes on if it has any")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the weights")
    micro_batch_tokens: PositiveInt = Field(4096, description="padded tokens of one forward pass")
    max_sequence_tokens: PositiveInt = Field(2048, description="longest sequence; the left of the prompt is cut")
    max_queued: PositiveInt = Field(4096, description="answers that wait to be scored; more are told 503")
    requests_per_minute: PositiveFloat = Field(6000.0, description="of one user, in the long run")
    burst: PositiveInt = Field(1000, description="requests of one user at once")

    @model_validator(mode="after")
    def _sequences_fit(self) -> Self:
        if self.max_sequence_tokens > self.micro_batch_tokens:
            raise ValueError(
                f"max_sequence_tokens = {self.max_sequence_tokens} does not fit micro_batch_tokens = "
                f"{self.micro_batch_tokens}"
            )
        return self
