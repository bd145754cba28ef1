"""A service in the foreground: its port is free before anything starts, signals end it, and it ends what it started."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Sequence

from ray import serve

from rayrlhf.errors import ConfigError


def require_free(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"{host}:{port} cannot be listened on: {error.strerror}: choose another port=") from None


def end_requested() -> threading.Event:
    """Is set by SIGTERM and Ctrl-C from now on. Call it after `connect`, because Ray sets handlers of its own."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    return asked


def end(applications: Sequence[str], *, is_shared: bool) -> None:
    """End a service; on a cluster that is others' too, its own applications and not Serve."""
    if not is_shared:
        serve.shutdown()
        return
    for name in applications:
        serve.delete(name)
