"""The HTTP side of a service: one door, OpenAI's routes, feedback, the page. A Serve application of its own.

It outlives policies: which slots serve whom comes as `user_config`, and slots come and go beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from rayrlhf.feedback.service import open_service
from rayrlhf.serving.http_app import http_app
from rayrlhf.serving.names import INGRESS
from rayrlhf.serving.policies import ServedPolicies
from rayrlhf.serving.releases import Serving
from rayrlhf.serving.settings import ServiceSettings


@serve.ingress()
class Ingress:
    """What Serve runs."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = ServiceSettings.model_validate(settings)
        self._policies = ServedPolicies(self._settings.request_timeout_s)
        self._service = open_service(
            self._settings.store, keys=_path(self._settings.keys), tokens=_path(self._settings.tokens)
        )

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Which slots serve whom."""
        canary = user_config.get("canary")
        self._policies.route(
            Serving.model_validate(user_config["primary"]),
            Serving.model_validate(canary) if canary is not None else None,
        )

    async def __serve_build_asgi_app__(self) -> FastAPI:
        return http_app(self._settings, self._service, self._policies)


def build(args: dict[str, Any]) -> Application:
    """What Serve calls for `import_path`."""
    return application(ServiceSettings.model_validate(args["settings"]))


def application(settings: ServiceSettings, routes: dict[str, Any] | None = None) -> Application:
    """The HTTP side. `routes`: which slots serve whom, where the deployment's own config does not say it."""
    deployment = serve.deployment(Ingress).options(
        name=INGRESS, num_replicas=settings.ingresses, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0.1},
        graceful_shutdown_timeout_s=60.0, **({} if routes is None else {"user_config": routes}),
    )  # fmt: skip
    return deployment.bind(settings.model_dump(mode="json"))


def _path(given: str | None) -> Path | None:
    return Path(given) if given is not None else None
