"""The Serve application of one slot: replicas of `PolicyServer` for what the ledger says the slot serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment

from rayrlhf.engines.generation_spec import whole_prompts
from rayrlhf.runtime.environment import serving_variables
from rayrlhf.serving.policy_server import DRAIN_S, PolicyServer
from rayrlhf.serving.releases import ReleaseBook
from rayrlhf.serving.scaling import replicas
from rayrlhf.serving.settings import ServiceSettings


def build(args: dict[str, Any]) -> Application:
    """What Serve calls for `import_path`; `args` are JSON: the settings and the slot."""
    settings = ServiceSettings.model_validate(args["settings"])
    book = ReleaseBook(Path(settings.directory))
    model = book.read().slots[args["slot"]]
    config = LLMConfig(
        model_loading_config={"model_id": settings.name, "model_source": book.read().release(model.version).model},
        engine_kwargs=_engine(settings),
        deployment_config=_deployment(settings, model.version),
        accelerator_config={"kind": "gpu" if settings.gpus else "cpu"},
        placement_group_config={"bundle_per_worker": _bundle(settings)},
        runtime_env={"env_vars": serving_variables(settings.thread_count, settings.kv_cache_gib)},
        experimental_configs={"stream_batching_interval_ms": 0},
    )
    return build_llm_deployment(config, deployment_cls=PolicyServer, bind_kwargs={"book": book, "slot": args["slot"]})


def _engine(settings: ServiceSettings) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "dtype": settings.dtype,
        "max_num_seqs": settings.max_concurrent,
        "tensor_parallel_size": settings.tensor_parallel,
        "enforce_eager": settings.enforce_eager,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "worker_extension_cls": "rayrlhf.weight_sync.reload.ReloadExtension",
        **whole_prompts(settings.gpus > 0),
    }
    if settings.max_model_length is not None:
        chosen["max_model_len"] = settings.max_model_length
    if settings.gpus:
        chosen["gpu_memory_utilization"] = settings.gpu_memory_share
    return chosen


def _deployment(settings: ServiceSettings, version: int) -> dict[str, Any]:
    return {
        "name": "policy",
        **replicas(settings, is_canary=False),
        "user_config": {"version": version},
        "ray_actor_options": {"num_cpus": 0},
        "max_ongoing_requests": settings.max_concurrent,
        "max_queued_requests": settings.max_queued,
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 60.0,
        "graceful_shutdown_timeout_s": DRAIN_S,
        **({"placement_group_bundle_label_selector": [settings.node_labels]} if settings.node_labels else {}),
    }


def _bundle(settings: ServiceSettings) -> dict[str, float]:
    cpus = settings.cpus / settings.tensor_parallel
    return {"CPU": cpus, "GPU": settings.gpus} if settings.gpus else {"CPU": cpus}
