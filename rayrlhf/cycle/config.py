"""One turn of the loop as one config: where people's words are, how each stage trains, what a candidate has to show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from rayrlhf.config.base import Directory, Fraction, NonNegativeFloat, PathOrHubId, PositiveFloat, PositiveInt, Section
from rayrlhf.config.jobs import RewardJob, RLJob, RunName, Seed, SFTJob
from rayrlhf.config.load import validate_job
from rayrlhf.errors import ConfigError


class ServiceSource(Section):
    """The running service."""

    directory: str = Field("runs/service", description="its directory")


class CollectConfig(Section):
    """What people must have said before a turn begins."""

    min_comparisons: PositiveInt = Field(100, description="new ones since the last turn")
    min_demonstrations: PositiveInt = Field(20, description="new corrections; with fewer there is no fine-tuning")
    thumbs_up: bool = Field(False, description="answers with a thumb up are demonstrations too")
    min_agreement: Fraction | None = Field(None, description="only comparisons that others agree with so far")
    held_out_share: Fraction = Field(0.15, description="of the conversations, kept from the reward model's training")
    wait_s: NonNegativeFloat = Field(0.0, description="how long to wait for enough; 0: look once")


class CycleData(Section):
    """Prompts of the project's own."""

    prompts: PathOrHubId = Field(description="RL samples from these")
    held_out_prompts: PathOrHubId = Field(description="the gates compare the policies on these")
    capability: PathOrHubId | None = Field(None, description="demonstrations that must stay as likely as they were")


class GateConfig(Section):
    """What a candidate has to show before any user sees it."""

    prompts: PositiveInt = Field(64, description="held-out prompts to compare on, the first ones of the file")
    min_win_rate: Fraction = Field(
        0.5, description="the lower end of the win rate's 95 % interval, by the reward model"
    )
    max_kl_nats: PositiveFloat = Field(30.0, description="KL to the serving policy, of a response")
    max_length_ratio: PositiveFloat = Field(2.0, description="mean answer length over the serving policy's; and 1/this")
    max_refusal_rise: Fraction = Field(0.05, description="of the share of answers that begin as refusals do")
    max_capability_drop_nats: NonNegativeFloat = Field(0.1, description="per token of the capability demonstrations")
    max_accuracy_drop: Fraction = Field(0.02, description="of the reward model against the last one, on held-out pairs")


class CanaryConfig(Section):
    """What people have to say before everybody gets the candidate."""

    share: PositiveFloat = Field(0.1, lt=1, description="of the users")
    min_comparisons: PositiveInt = Field(30, description="of its answers with those of the serving policy")
    min_win_rate: Fraction = Field(0.5, description="share of those that it wins; a tie is half")
    max_wait_s: PositiveFloat = Field(86_400.0, description="with too few comparisons by then it is taken back")


class CycleRun(Section):
    """Where turns are."""

    directory: Directory = Field("runs", description="turns are in directory/name/turn-0001, …")


class CycleModel(Section):
    """What all stages share."""

    dtype: str = Field("float32", description="float32 or bfloat16")


class CycleJob(Section):
    """`rayrlhf cycle`. The tables `sft`, `reward`, `rl` hold what those jobs' TOMLs hold, less what a turn fills in."""

    name: RunName = Field("cycle", description="names the directory")
    seed: Seed = Field(0, description="every random draw derives from it")
    service: ServiceSource = ServiceSource()
    collect: CollectConfig = CollectConfig()
    data: CycleData
    model: CycleModel = CycleModel()
    sft: Mapping[str, Any] = Field({}, description="keys of an sft job")
    reward: Mapping[str, Any] = Field({}, description="keys of a reward job")
    rl: Mapping[str, Any] = Field({}, description="keys of an rl job")
    gates: GateConfig = GateConfig()
    canary: CanaryConfig = CanaryConfig()
    run: CycleRun = CycleRun()

    def check(self) -> None:
        """Find what is wrong with the stages' tables before anything is started.

        Raises:
            ConfigError: names the table and the key.

        """
        here = Path("turn")
        self.sft_job(here, "policy", here / "d.jsonl")
        self.reward_job(here, "policy", (here / "c.jsonl", None))
        self.rl_job(here, "policy", "reward")

    def sft_job(self, turn: Path, model: str, demonstrations: Path) -> SFTJob:
        """The turn's fine-tuning."""
        return validate_job(SFTJob, self._values("sft", turn, model, {"demonstrations": str(demonstrations)}), "sft")

    def reward_job(self, turn: Path, model: str, comparisons: tuple[Path, Path | None]) -> RewardJob:
        """The turn's reward model, from a policy or the last one; comparisons to train on and held-out ones."""
        train, held_out = comparisons
        data = {"comparisons": str(train)} | ({} if held_out is None else {"held_out": str(held_out)})
        return validate_job(RewardJob, self._values("reward", turn, model, data), "reward")

    def rl_job(self, turn: Path, model: str, reward_model: str) -> RLJob:
        """The turn's RL."""
        values = self._values("rl", turn, model, {"prompts": self.data.prompts})
        values["reward"] = {**values.get("reward", {}), "model": reward_model}
        return validate_job(RLJob, values, "rl")

    def _values(self, stage: str, turn: Path, model: str, data: dict[str, str]) -> dict[str, Any]:
        given: dict[str, Any] = dict(getattr(self, stage))
        filled = {
            "name": stage,
            "seed": self.seed,
            "model": {"path": model, "dtype": self.model.dtype},
            "data": data,
            "run": {"directory": str(turn)},
        }
        for key, value in filled.items():
            if not isinstance(value, dict):
                wrong = [key] if key in given else []
            else:
                wrong = [f"{key}.{name}" for name in value if name in given.get(key, {})]
            if wrong:
                raise ConfigError(f"{stage}.{wrong[0]}: the cycle fills it in; remove the key")
            given[key] = {**given.get(key, {}), **value} if isinstance(value, dict) else value
        return given
