"""`rayrlhf serve --role reward`: check the model, start the application, stay until asked to leave."""

from __future__ import annotations

from pathlib import Path

from ray import serve

from rayrlhf.errors import RunError
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.cluster import check_feasible, connect, metrics_urls
from rayrlhf.serving.foreground import end, end_requested, require_free
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
    end_requested().wait()
    end([APPLICATION], is_shared=ray_address is not None)


def start_reward_service(model: str, settings: RewardServiceSettings, ray_address: str | None = None) -> str:
    """Return the URL once there are replicas that score."""
    served = check_reward_model(model)
    require_free(settings.host, settings.port)
    connect(ray_address, metrics_port=settings.metrics_port)
    bundle = RoleBundle("reward", settings.replicas, settings.cpus, settings.gpus, labels=settings.node_labels)
    check_feasible([bundle])
    serve.start(http_options={"host": settings.host, "port": settings.port})
    try:
        application = reward_application(str(Path(model).absolute()), settings, served)
        serve.run(application, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        end([APPLICATION], is_shared=ray_address is not None)
        raise RunError(f"the reward service did not start: {error}") from None
    url = f"http://{settings.host}:{settings.port}"
    print(f"metrics: {' '.join(metrics_urls())}")
    print(f"{url} scores with {served.model} ({served.digest})", flush=True)
    if not Path(settings.tokens).exists():
        print(f"nobody has a token yet: rayrlhf feedback token NAME --tokens {settings.tokens}", flush=True)
    return url
