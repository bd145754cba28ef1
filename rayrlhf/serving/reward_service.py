"""A reward model on Ray Serve.

    HTTP ──▶ RewardIngress (the door, the routes) ──▶ RewardReplica × N (a ModelReward in a ScoringLane)

A replica whose scoring does not end leaves, and Serve starts another one. What it was given comes back to the ingress
as lost, and the client sends it again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from rayrlhf.access.door import Door
from rayrlhf.access.tokens import TokenFile
from rayrlhf.config.sections import ModelConfig
from rayrlhf.errors import ModelError, ScorerLostError
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.rewards.wire import Scored, ServedModel
from rayrlhf.runtime.environment import quiet_process, set_variables
from rayrlhf.serving.reward_routes import LIMITS, reward_router
from rayrlhf.serving.reward_settings import RewardServiceSettings
from rayrlhf.serving.scaling import scale
from rayrlhf.serving.served_model import model_digest

HEALTH_PERIOD_S = 5.0
HEALTH_TIMEOUT_S = 120.0
"""A check waits until what is being scored is done, so this is longer than scoring."""
PROBE_TIMEOUT_S = 60.0
ONGOING = 32
"""Requests that a replica has at a time: enough to fill its batches, few enough to lose little with it."""
START_ATTEMPTS = 3


def reward_application(model: str, settings: RewardServiceSettings, served: ServedModel) -> serve.Application:
    """The application: an ingress over replicas of the model in a local directory, which was checked."""
    replica = serve.deployment(
        RewardReplica,
        ray_actor_options=_replica_options(settings),
        max_ongoing_requests=ONGOING,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        max_constructor_retry_count=START_ATTEMPTS,
        **scale(settings.replicas, settings.max_replicas, ONGOING // 8),
    )
    ingress = serve.deployment(
        serve.ingress()(RewardIngress),
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=settings.max_queued,
    )
    return ingress.bind(replica.bind(model, settings, served), settings, served)


def _replica_options(settings: RewardServiceSettings) -> dict[str, Any]:
    reserved = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    return reserved | ({"label_selector": settings.node_labels} if settings.node_labels else {})


class RewardReplica:
    """One copy of the model; batches what several clients send."""

    def __init__(self, model: str, settings: RewardServiceSettings, served: ServedModel) -> None:
        set_variables(quiet_process(settings.thread_count))
        import torch

        from rayrlhf.rewards.model import ModelReward
        from rayrlhf.serving.scoring_lane import ScoringLane

        torch.set_num_threads(settings.thread_count)
        found = model_digest(Path(model))
        if found != served.digest:
            raise ModelError(f"{model}: on this node it is another model ({found}, not {served.digest})")
        config = ModelConfig(path=model, dtype=settings.dtype)
        source = ModelReward(model, config, settings.micro_batch_tokens, settings.max_sequence_tokens)
        self._lane = ScoringLane(source, on_lost=_leave)

    async def score(self, requests: Sequence[RewardRequest], timeout_s: float) -> list[Scored]:
        """See `Scorer`."""
        return await self._lane.score(requests, timeout_s)

    async def check_health(self) -> None:
        """Serve asks now and then; the answer is a score, not a pulse."""
        await self._lane.check(PROBE_TIMEOUT_S)


class RewardIngress:
    """What HTTP reaches."""

    def __init__(self, replicas: Any, settings: RewardServiceSettings, served: ServedModel) -> None:
        limits = replace(LIMITS, requests_per_minute=settings.requests_per_minute, burst=settings.burst)
        door = Door(TokenFile(Path(settings.tokens)), limits)
        self._router = reward_router(_Replicas(replicas), served, door, settings.max_queued)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve in the replica."""
        app = FastAPI(openapi_url=None)
        app.include_router(self._router)
        return app


@dataclass(frozen=True)
class _Replicas:
    """The replicas as a `Scorer`: whichever has the fewest requests is asked."""

    handle: Any

    async def score(self, requests: Sequence[RewardRequest], timeout_s: float) -> list[Scored]:
        try:
            scored: list[Scored] = await self.handle.score.remote(requests, timeout_s)
        except (RayError, RayServeException) as error:
            print(f"a reward replica was lost: {error}", file=sys.stderr)
            raise ScorerLostError("the replica that scored these items was lost") from error
        return scored


def _leave(reason: str) -> None:
    print(f"this replica is lost: {reason}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)
