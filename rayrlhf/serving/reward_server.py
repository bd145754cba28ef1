"""`rayrlhf serve --role reward`: check the model, start the application, stay until asked to leave."""

from __future__ import annotations

import signal
import socket
import threading
from dataclasses import dataclass

from ray import serve

from rayrlhf.errors import ConfigError, RunError
from rayrlhf.runtime.cluster import RoleBundle, check_feasible, connect
from rayrlhf.serving.reward_service import RewardServiceSettings, reward_application
from rayrlhf.serving.served_model import check_reward_model

APPLICATION = "reward"


@dataclass(frozen=True, slots=True)
class ServeAddress:
    """Where HTTP is listened for, and on which cluster."""

    host: str = "127.0.0.1"
    port: int = 8000
    ray_address: str | None = None
    """Unset: a Ray cluster of its own."""


def serve_reward(settings: RewardServiceSettings, address: ServeAddress) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        ModelError, ConfigError, PlacementError: found before anything is started.
        RunError: the replicas did not come up.

    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    start_reward_service(settings, address)
    while not asked.wait(1.0):  # a wait without an end would not let the signal's handler run
        pass
    stop_reward_service()


def start_reward_service(settings: RewardServiceSettings, address: ServeAddress) -> str:
    """Return the URL once the service has scored."""
    served = check_reward_model(settings.model)
    _require_free(address)
    connect(address.ray_address)
    check_feasible([RoleBundle("reward", settings.replicas, settings.cpus, settings.gpus)])
    serve.start(http_options={"host": address.host, "port": address.port}, logging_config={"log_level": "WARNING"})
    try:
        serve.run(reward_application(settings, served), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        stop_reward_service()
        raise RunError(f"the reward service did not start: {error}") from None
    url = f"http://{address.host}:{address.port}"
    print(f"{url} scores with {served.model} ({served.digest}); {settings.replicas} replica(s)")
    if not settings.tokens.exists():
        print(f"nobody has a token yet: rayrlhf feedback token NAME --tokens {settings.tokens}")
    return url


def stop_reward_service() -> None:
    """End the application and Serve on this cluster."""
    serve.shutdown()


def _require_free(address: ServeAddress) -> None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise ConfigError(f"{address.host}:{address.port} cannot be listened on: {error.strerror}") from None
