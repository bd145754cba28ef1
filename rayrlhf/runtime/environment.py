"""The one module that reads and writes `os.environ`, and that sets how many threads a process computes with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rayrlhf.errors import ConfigError


def set_variables(variables: Mapping[str, str]) -> None:
    """Set environment variables of this process (and of the children it will start)."""
    os.environ.update(variables)


def set_if_unset(variables: Mapping[str, str]) -> None:
    """The same, for what whoever started the process may have decided."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def own_ray_address() -> str:
    """The cluster that this process was started on as a Ray job; else `local`: a new one."""
    return os.environ.get("RAY_ADDRESS") or "local"


def child_environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """This process's variables with some changed; None takes one away."""
    changed = {**os.environ, **changes}
    return {name: value for name, value in changed.items() if value is not None}


def chosen(*names: str) -> dict[str, str]:
    """Those of the variables that are set and not empty."""
    return {name: value for name in names if (value := os.environ.get(name))}


def ray_auth_mode() -> str | None:
    """Ray's own setting of its authentication: token, disabled, or unset."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() or None


def ray_uses_tls() -> bool:
    """Whether Ray's processes talk TLS to each other."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def insecure_allowed() -> bool:
    """Whether Ray clusters that ask for no token may be started and joined; `--allow-insecure` sets it."""
    return os.environ.get("RAYRLHF_ALLOW_INSECURE") == "1"


def allow_insecure() -> None:
    """For this process and those that it starts."""
    set_variables({"RAYRLHF_ALLOW_INSECURE": "1"})


def dashboard_address() -> str | None:
    """Where Ray's own tools find the cluster's dashboard."""
    return os.environ.get("RAY_API_SERVER_ADDRESS") or None


def cluster_token() -> tuple[str, str]:
    """The token for a cluster's dashboard, empty where there is none, and where it is from: Ray's places and order."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    try:
        return Path(path).expanduser().read_text().strip(), path
    except OSError:
        return "", path


def driver_cpus() -> float:
    """CPUs that Ray has reserved for this process, the driver of a job of `rayrlhf submit`."""
    return float(os.environ.get("RAYRLHF_DRIVER_CPUS") or 0)


def planned_faults() -> str:
    """Faults that a test asks for (see `runtime/faults.py`)."""
    return os.environ.get("RAYRLHF_FAULTS", "[]")


def feedback_store() -> str | None:
    """The feedback store's path or URL, where a command line would show its password to the whole machine."""
    return os.environ.get("RAYRLHF_FEEDBACK_STORE") or None


def feedback_keys() -> str | None:
    """The keys that sign response ids, newest first: `id:hex,id:hex`."""
    return os.environ.get("RAYRLHF_FEEDBACK_KEYS") or None


def reward_token() -> str | None:
    """The bearer token for `reward.url`."""
    return os.environ.get("RAYRLHF_REWARD_TOKEN", "").strip() or None


def kuberay_crds() -> str | None:
    """The folder with KubeRay's custom resource definitions."""
    return os.environ.get("KUBERAY_CRDS") or None


def api_server() -> str | None:
    """The Kubernetes API server of the cluster that this pod runs in."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def node_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0))


def thread_count(wanted: int | None, processes: int = 1) -> int:
    """Compute threads of one process of a role: `wanted`, or the node's cores shared among the role's `processes`."""
    return wanted or max(1, node_cores() // processes)


def quiet_process(threads: int) -> dict[str, str]:
    """Variables for a role's process. Ray would set OMP_NUM_THREADS to the actor's CPUs, silently one thread."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def rank_variables(rank: int, world_size: int, address: str, port: int, local_rank: int) -> dict[str, str]:
    """What DeepSpeed expects to find about its process group."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(local_rank),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


UNSAFE_VLLM = {
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "vLLM unpickles what it is sent",
    "VLLM_SERVER_DEV_MODE": "vLLM opens routes that run any of its methods",
}
"""Variables, and what comes of setting one."""


def require_safe_vllm() -> None:
    """Refuse to start engines where vLLM is told to run what others send it.

    Raises:
        ConfigError: names the variable.

    """
    for name, danger in UNSAFE_VLLM.items():
        if os.environ.get(name, "0").strip() not in ("", "0"):
            raise ConfigError(f"{name} is set in the environment; with it {danger}: unset {name}")


def vllm_variables(
    threads: int, tensor_parallel: int, kv_cache_gib: int, engine: int = 0, eager: bool = True
) -> dict[str, str]:
    """vLLM's CPU settings, with cores of its own for each tensor-parallel rank of the node's `engine` (0-based).

    Without `eager` torch's compiler may run; the one-off compile of the sampler takes half a minute.
    """
    cores = sorted(os.sched_getaffinity(0))
    per_rank = max(1, threads // tensor_parallel)
    bindings = []
    for rank in range(tensor_parallel):
        start = (engine * tensor_parallel + rank) * per_rank
        mine = [cores[(start + i) % len(cores)] for i in range(per_rank)]
        bindings.append(",".join(str(core) for core in sorted(set(mine))))
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(bindings),
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        **dict.fromkeys(UNSAFE_VLLM, "0"),
    } | ({"TORCHDYNAMO_DISABLE": "1"} if eager else {})


def serving_variables(threads: int, kv_cache_gib: int) -> dict[str, str]:
    """vLLM's settings in a replica of a service. Replicas do not know of each other, so no cores are bound."""
    return quiet_process(threads) | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TORCHDYNAMO_DISABLE": "1",
        **dict.fromkeys(UNSAFE_VLLM, "0"),
    }
