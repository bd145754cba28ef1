"""How many replicas a slot has, in Serve's words."""

from __future__ import annotations

from typing import Any

from rayrlhf.serving.settings import ServiceSettings


def replicas(settings: ServiceSettings, *, is_canary: bool) -> dict[str, Any]:
    """A fixed number, or a range; Serve does not change one into the other, so a canary's range holds one number."""
    fewest = expected(settings, is_canary=is_canary)
    if settings.max_replicas is None:
        return {"num_replicas": fewest}
    most = fewest if is_canary else settings.max_replicas
    target = max(1, settings.max_concurrent // 2)
    return {
        "autoscaling_config": {"min_replicas": fewest, "max_replicas": most, "target_ongoing_requests": target},
    }


def expected(settings: ServiceSettings, *, is_canary: bool) -> int:
    """The fewest replicas with which a slot is ready."""
    return settings.canary_replicas if is_canary else settings.replicas
