"""Answers of a policy to prompts, through the same rollout workers that training uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayrlhf.data.prompts import render_prompts
from rayrlhf.data.rows import PromptRow
from rayrlhf.data.template import end_of_turn_ids
from rayrlhf.engines.generation_spec import GenerationSpec, Sampling
from rayrlhf.engines.model_files import require_weights
from rayrlhf.engines.models import generation_eos, load_tokenizer
from rayrlhf.errors import DataError
from rayrlhf.loop.progress import sample_seed
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.role_types import GenerationRequest, RolloutWorker
from rayrlhf.roles.rollout import RolloutRole, RolloutSetup
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.cluster import Placement, check_feasible, connect
from rayrlhf.runtime.environment import require_safe_vllm
from rayrlhf.runtime.worker_group import WorkerGroup, create_group, gather, gather_data
from rayrlhf.types import Trajectory


@dataclass(frozen=True, slots=True)
class AnswerConfig:
    """How answers are drawn; lengths in tokens."""

    samples: int = 1
    max_tokens: int = 64
    max_prompt_tokens: int = 512
    temperature: float = 1.0
    dtype: str = "float32"
    seed: int = 0
    timeout_s: float = 1800.0


def answer(model: str, rows: Sequence[PromptRow], config: AnswerConfig) -> list[list[RewardRequest]]:
    """For each prompt its answers as text, ready to be scored; overlong prompts are an error here."""
    tokenizer = load_tokenizer(model)
    return [[as_request(tokenizer, t) for t in group] for group in generate(model, rows, config)]


def generate(model: str, rows: Sequence[PromptRow], config: AnswerConfig) -> list[list[Trajectory]]:
    """For each prompt its answers as tokens."""
    require_safe_vllm()
    require_weights(model)
    connect()
    tokenizer = load_tokenizer(model)
    rendered = render_prompts(rows, tokenizer, config.max_prompt_tokens)
    if rendered.overlong_ids:
        raise DataError(f"prompt {rendered.overlong_ids[0]} is longer than {config.max_prompt_tokens} tokens")
    spec = GenerationSpec(model, config.dtype, config.max_prompt_tokens + config.max_tokens + 1, 64)
    stops = end_of_turn_ids(tokenizer, generation_eos(model))
    setup = RolloutSetup(spec, Sampling(config.max_tokens, config.temperature, stops))
    bundles = [RoleBundle("rollout", 1, 0.25, 0.0)]
    check_feasible(bundles)
    placement = Placement(bundles)
    try:
        placement.wait(config.timeout_s)
        workers: WorkerGroup[Any] = create_group(placement, "rollout", RolloutRole, 1, setup)
        gather(workers.start_ready(), config.timeout_s, "start")
        pending = []
        for prompt in rendered.prompts:
            seeds = tuple(sample_seed(config.seed, prompt.id, k) for k in range(config.samples))
            request = GenerationRequest(0, prompt.id, prompt, seeds)
            pending.append(workers.start_on(0, RolloutWorker.generate, request))
        groups: list[list[Trajectory]] = gather_data(pending, config.timeout_s, "generate")
    finally:
        placement.release()
    return groups


def as_request(tokenizer: Any, trajectory: Trajectory) -> RewardRequest:
    """A trajectory as text, as rewards see it."""
    prompt, completion = trajectory.prompt, trajectory.completion
    text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    return RewardRequest(prompt.messages, text, completion.finish_reason, prompt.answer, prompt.metadata)
