"""How many replicas a deployment has, in Serve's words."""

from __future__ import annotations

from typing import Any

from rayrlhf.serving.settings import ServiceSettings


def scale(fewest: int, most: int | None, ongoing: int) -> dict[str, Any]:
    """A fixed number; with `most`, a range in which replicas have about `ongoing` requests each."""
    if most is None:
        return {"num_replicas": fewest}
    return {
        "autoscaling_config": {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": ongoing},
    }


def replicas(settings: ServiceSettings, *, is_canary: bool) -> dict[str, Any]:
    """Of a slot. Serve does not change a number into a range, so a canary's range holds one number."""
    fewest, most = expected(settings, is_canary=is_canary), settings.max_replicas
    if is_canary and most is not None:
        most = fewest
    return scale(fewest, most, max(1, settings.max_concurrent // 2))


def expected(settings: ServiceSettings, *, is_canary: bool) -> int:
    """The fewest replicas with which a slot is ready."""
    return settings.canary_replicas if is_canary else settings.replicas
