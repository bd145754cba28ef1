"""Who may use a Ray cluster? Asks its address without a token and with ours, before Ray is joined.

Joining takes Ray minutes where nobody answers, and it says the same thing whatever is wrong; this takes seconds.
"""

from __future__ import annotations

import socket
from enum import StrEnum

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.doctor.findings import Check, Finding

METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
TIMEOUT_S = 5.0
ADDRESS, TOKEN = Check("cluster", "address"), Check("cluster", "token")


class Access(StrEnum):
    """What the cluster says to us."""

    UNREACHABLE = "unreachable"
    NO_CLUSTER = "no cluster"
    OPEN = "open"
    TOKEN_MISSING = "token missing"
    TOKEN_WRONG = "token wrong"
    GRANTED = "granted"


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of a cluster's address.

    Raises:
        ConfigError: it is no `host:port`.

    """
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {address}: host:port is expected, as `ray start --head` prints it (port 6379)")
    return host, int(port)


def probe_access(address: str, token: str | None) -> Access:
    """Two calls that change nothing: the first without a token."""
    import grpc

    try:
        socket.create_connection(parse_address(address), timeout=TIMEOUT_S).close()
    except OSError:
        return Access.UNREACHABLE
    with grpc.insecure_channel(address) as channel:
        refused = _ask(channel, None)
        if refused is None:
            return Access.OPEN
        if refused is not grpc.StatusCode.UNAUTHENTICATED:
            return Access.NO_CLUSTER
        if token is None:
            return Access.TOKEN_MISSING
        return Access.GRANTED if _ask(channel, token) is None else Access.TOKEN_WRONG


def _ask(channel: object, token: str | None) -> object:
    """The status code of a refusal; None: it answered."""
    import grpc

    metadata = [("authorization", f"Bearer {token}")] if token else None
    try:
        channel.unary_unary(METHOD)(b"", timeout=TIMEOUT_S, metadata=metadata)  # type: ignore[attr-defined]
    except grpc.RpcError as error:
        return error.code()
    return None


def judge_access(access: Access, address: str, *, allow_insecure: bool = False) -> list[Finding]:
    """Reachable, and only for those with a token."""
    where = "RAY_AUTH_TOKEN, the file named by RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"
    reached = ADDRESS.green(f"{address} answers")
    match access:
        case Access.UNREACHABLE:
            remedy = "correct --address, start the head (`ray start --head`), or open its port to this machine"
            return [ADDRESS.red(f"nobody answers at {address}", remedy)]
        case Access.NO_CLUSTER:
            remedy = "give the port of `ray start --head` (6379), not the dashboard's or the client's"
            return [ADDRESS.red(f"what answers at {address} is no Ray cluster", remedy)]
        case Access.OPEN:
            told = "the cluster is open: whoever reaches its ports can run code on it"
            if allow_insecure:
                return [reached, TOKEN.yellow(f"{told} (--allow-insecure)", "restart it with RAY_AUTH_MODE=token")]
            remedy = "restart it with RAY_AUTH_MODE=token and a token; --allow-insecure checks it all the same"
            return [reached, TOKEN.red(told, remedy)]
        case Access.TOKEN_MISSING:
            return [reached, TOKEN.red("the cluster wants a token, and there is none here", f"put it into {where}")]
        case Access.TOKEN_WRONG:
            return [reached, TOKEN.red("the cluster refuses the token that is here", f"put the cluster's into {where}")]
        case Access.GRANTED:
            return [reached, TOKEN.green("needed, and the one that is here is right")]
