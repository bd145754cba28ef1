"""How a policy is served, and what all services share: every key with its default. No torch, no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rayrlhf.config.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


def _absolute(where: str) -> str:
    return where if "://" in where else str(Path(where).absolute())


Here = Annotated[str, AfterValidator(_absolute)]
"""A path, made absolute, because replicas have other working directories; a URL as it is."""


class ListeningSettings(Section):
    """Where a service listens, how many replicas it has, and what one of its users may ask for."""

    host: str = Field("127.0.0.1", description="address to listen on; there is no TLS here")
    port: PositiveInt = Field(8000, description="port to listen on")
    metrics_port: PositiveInt | None = Field(
        None, description="Prometheus metrics of a Ray cluster that is started here; unset: a free port, which is said"
    )
    replicas: PositiveInt = Field(1, description="copies of the model; with max_replicas, the fewest")
    max_replicas: PositiveInt | None = Field(None, description="scale up to as many with the load; unset: fixed")
    cpus: NonNegativeFloat = Field(1.0, description="CPUs that one replica reserves")
    threads: PositiveInt | None = Field(None, description="CPU: compute threads of one replica; unset: its cpus")
    node_labels: dict[str, str] = Field({}, description="replicas only on nodes with these Ray labels")
    requests_per_minute: PositiveFloat = Field(120.0, description="of one user at one ingress, in the long run")
    burst: PositiveInt = Field(30, description="requests of one user at once")

    @property
    def thread_count(self) -> int:
        """Compute threads of one replica."""
        return self.threads or max(1, int(self.cpus))

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: at least replicas ({self.replicas}) is expected")
        return self


class ServiceSettings(ListeningSettings):
    """One service of a policy. Its directory, store, keys and tokens are seen by all its nodes."""

    name: str = Field("policy", description="the model's id in requests")
    directory: Here = Field("runs/service", description="where its releases are written down")
    store: Here = Field("runs/feedback/feedback.db", description="the feedback store: SQLite file or PostgreSQL URL")
    keys: Here | None = Field(None, description="signing keys; unset: beside the store")
    tokens: Here | None = Field(None, description="bearer tokens; unset: beside the store")
    canary_replicas: PositiveInt = Field(1, description="replicas of a canary, until everybody gets it")
    ingresses: PositiveInt = Field(1, description="replicas of the HTTP side")
    gpus: NonNegativeFloat = Field(0.0, description="GPUs of one tensor-parallel rank; 0: vLLM's CPU build")
    tensor_parallel: PositiveInt = Field(1, description="ranks of one replica")
    kv_cache_gib: PositiveInt = Field(1, description="CPU: GiB of KV cache of one replica")
    gpu_memory_share: PositiveFloat = Field(0.9, description="GPU: share of its memory that vLLM takes")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the weights that compute")
    max_model_length: PositiveInt | None = Field(None, description="tokens of prompt and answer; unset: the model's")
    max_concurrent: PositiveInt = Field(64, description="requests that one replica answers at once")
    max_queued: NonNegativeInt = Field(128, description="requests that wait in one ingress; more are told 503")
    enforce_eager: bool = Field(True, description="no compilation: starts faster, serves slower on GPUs")
    request_timeout_s: PositiveFloat = Field(600.0, description="deadline of one answer")
