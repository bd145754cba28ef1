"""`rayrlhf serve --role reward`: check the model, start the application, stay until asked to leave."""

from __future__ import annotations

import signal
import socket
import threading
from pathlib import Path

from ray import serve

from rayrlhf.errors import ConfigError, RunError
from rayrlhf.runtime.cluster import RoleBundle, check_feasible, connect
from rayrlhf.serving.reward_service import reward_application
from rayrlhf.serving.reward_settings import RewardServiceSettings
from rayrlhf.serving.served_model import check_reward_model

APPLICATION = "reward"


def serve_reward(model: str, settings: RewardServiceSettings, ray_address: str | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; `ray_address`: the cluster, unset: a new one on this machine.

    Raises:
        ModelError, ConfigError, PlacementError: found before anything is started.
        RunError: the replicas did not come up.

    """
    start_reward_service(model, settings, ray_address)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray, which sets handlers of its own
        signal.signal(number, lambda *_: asked.set())
    asked.wait()
    stop_reward_service()


def start_reward_service(model: str, settings: RewardServiceSettings, ray_address: str | None = None) -> str:
    """Return the URL once there are replicas that score."""
    served = check_reward_model(model)
    _require_free(settings.host, settings.port)
    connect(ray_address)
    check_feasible([RoleBundle("reward", settings.replicas, settings.cpus, settings.gpus)])
    serve.start(http_options={"host": settings.host, "port": settings.port})
    try:
        application = reward_application(str(Path(model).absolute()), settings, served)
        serve.run(application, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        stop_reward_service()
        raise RunError(f"the reward service did not start: {error}") from None
    url = f"http://{settings.host}:{settings.port}"
    print(f"{url} scores with {served.model} ({served.digest})", flush=True)
    if not Path(settings.tokens).exists():
        print(f"nobody has a token yet: rayrlhf feedback token NAME --tokens {settings.tokens}", flush=True)
    return url


def stop_reward_service() -> None:
    """End the application and Serve on this cluster."""
    serve.shutdown()


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror}") from None
