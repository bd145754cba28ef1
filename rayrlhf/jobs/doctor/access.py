"""Does the cluster answer, and only those with its token? Asked before Ray is joined, which is slow to say no."""

from __future__ import annotations

import socket

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.doctor.findings import Check, Finding
from rayrlhf.runtime.security import TOKEN_PLACES, Access

TIMEOUT_S = 5.0
ADDRESS, TOKEN = Check("cluster", "address"), Check("cluster", "token")


def require_address(address: str) -> None:
    """Refuse what is no cluster's address.

    Raises:
        ConfigError: it is neither `host:port` nor `auto`.

    """
    host, colon, port = address.rpartition(":")
    is_pair = "://" not in address and colon and host and port.isdigit() and 0 < int(port) < 65536
    if address != "auto" and not is_pair:
        raise ConfigError(f"--address {address}: host:port is expected, as `ray start --head` prints it (port 6379)")


def somebody_listens(address: str) -> bool:
    """Whether a connection can be made at all; `auto` is not tried."""
    if address == "auto":
        return True
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT_S).close()
    except OSError:
        return False
    return True


def judge_access(access: Access, address: str, *, listens: bool, allow_insecure: bool = False) -> list[Finding]:
    """Reachable, and only for those with a token. `listens`: somebody does, at the address."""
    reached = ADDRESS.green(f"{address} answers")
    match access:
        case Access.UNREACHABLE if listens:
            remedy = "give the port of `ray start --head` (6379), not the dashboard's or the client's"
            return [ADDRESS.red(f"what answers at {address} is no Ray cluster", remedy)]
        case Access.UNREACHABLE:
            remedy = "correct --address, start the head (`ray start --head`), or open its port to this machine"
            return [ADDRESS.red(f"nobody answers at {address}", remedy)]
        case Access.OPEN:
            told = "the cluster is open: whoever reaches its ports can run code on it"
            if allow_insecure:
                return [reached, TOKEN.yellow(f"{told} (--allow-insecure)", "restart it with RAY_AUTH_MODE=token")]
            remedy = "restart it with RAY_AUTH_MODE=token and one token; --allow-insecure looks at it all the same"
            return [reached, TOKEN.red(told, remedy)]
        case Access.TOKEN_ACCEPTED:
            return [reached, TOKEN.green("needed, and the one that is here is right")]
        case _:
            return [reached, TOKEN.red(access.value, f"put the cluster's token into {TOKEN_PLACES}")]
