"""What the parts of a service are called on Ray Serve."""

from __future__ import annotations

from rayrlhf.serving.releases import Slot

INGRESS = "ingress"
"""The application of the HTTP side, and its deployment."""
POLICY = "PolicyServer:policy"
"""The deployment of a slot; Ray puts the class before the name."""


def app_name(slot: Slot) -> str:
    """The application of a slot."""
    return f"policy-{slot}"
