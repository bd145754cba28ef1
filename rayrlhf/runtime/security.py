"""Whether a Ray cluster asks for a token, and whether ours is the right one.

A cluster without token authentication runs the code of anybody who reaches its ports (CVE-2023-48022), so none is
started or joined unless `--allow-insecure` says so. Ray itself would join one without a word, and would take twenty
seconds to refuse a wrong token.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import grpc
from ray._common.tls_utils import load_certs_from_env
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from rayrlhf.access.private_files import alone, replace_private
from rayrlhf.errors import PlacementError
from rayrlhf.runtime.environment import chosen, insecure_allowed, ray_auth_mode, ray_uses_tls, set_variables

TOKEN_PLACES = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"
PROBE_TIMEOUT_S = 10.0


class Access(Enum):
    """What a cluster answered to a caller without a token, and to one with ours."""

    OPEN = "it answers anybody"
    TOKEN_ACCEPTED = "it takes our token"
    TOKEN_MISSING = "it asks for a token and there is none here"
    TOKEN_REFUSED = "it refuses our token"
    UNREACHABLE = "it does not answer"


def secure_start() -> None:
    """Before a cluster is started here: it asks for a token, which is made where there is none.

    Raises:
        PlacementError: RAY_AUTH_MODE switches that off and `--allow-insecure` is not given, or there can be no token.

    """
    mode = ray_auth_mode()
    if mode in (None, "token"):
        if not _has_token():
            _make_token()
        _use("token")
    elif not insecure_allowed():
        raise PlacementError(
            f"RAY_AUTH_MODE = {mode}: a cluster that is started so runs anybody's code; unset it, or give "
            "--allow-insecure"
        )


def secure_join(address: str) -> None:
    """Before the cluster at `address` (host:port or auto) is joined.

    Raises:
        PlacementError: there is none, it is open to anybody, or there is no token here that it takes.

    """
    access = probe(address)
    if access is Access.OPEN:
        if not insecure_allowed():
            raise PlacementError(
                f"the Ray cluster at {address} is open: it asks nobody for a token and runs anybody's code. Start its "
                "nodes with RAY_AUTH_MODE=token and one token for all, or give --allow-insecure"
            )
        _use("disabled")
    elif access is Access.TOKEN_ACCEPTED:
        _use("token")
    elif access is Access.UNREACHABLE:
        raise PlacementError(f"no Ray cluster can be reached at {address}: the head's host:port is expected")
    else:
        raise PlacementError(f"the Ray cluster at {address}: {access.value}. It has to be in {TOKEN_PLACES}")


def probe(address: str, timeout_s: float = PROBE_TIMEOUT_S) -> Access:
    """Ask a cluster's head for its list of nodes, without a token and then with ours.

    Raises:
        PlacementError: the address is none.

    """
    where = _host_and_port(address)
    if where is None:
        return Access.UNREACHABLE
    code = _ask(where, {}, timeout_s)
    if code is grpc.StatusCode.OK:
        return Access.OPEN
    if code is not grpc.StatusCode.UNAUTHENTICATED:
        return Access.UNREACHABLE
    if not _has_token():
        return Access.TOKEN_MISSING
    header = AuthenticationTokenLoader.instance().get_token_for_http_header(ignore_auth_mode=True)
    code = _ask(where, header, timeout_s)
    return Access.TOKEN_ACCEPTED if code is grpc.StatusCode.OK else Access.TOKEN_REFUSED


def _has_token() -> bool:
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        return bool(loader.has_token(ignore_auth_mode=True))
    except AuthenticationError:  # RAY_AUTH_TOKEN_PATH names no file, or an empty one
        return False


def _make_token() -> None:
    """In Ray's own place. Ray would leave it readable by everybody on the machine."""
    if elsewhere := chosen("RAY_AUTH_TOKEN_PATH"):
        raise PlacementError(f"RAY_AUTH_TOKEN_PATH = {elsewhere['RAY_AUTH_TOKEN_PATH']}: no token is there; unset it")
    path = Path.home() / ".ray" / "auth_token"
    try:
        with alone(path):
            if not path.exists():
                replace_private(path, generate_new_authentication_token().encode())
    except OSError as error:
        raise PlacementError(
            f"there is no token for Ray, and none can be written to {path} ({error.strerror}): set RAY_AUTH_TOKEN"
        ) from None


def _host_and_port(address: str) -> str | None:
    if address.startswith("ray://"):
        raise PlacementError(f"{address}: Ray Client cannot run a job; use rayrlhf submit, or the head's host:port")
    try:
        return canonicalize_bootstrap_address(address)
    except ValueError:
        raise PlacementError(f"{address}: not the address of a Ray cluster; host:port or auto is expected") from None


def _ask(where: str, metadata: dict[str, str], timeout_s: float) -> grpc.StatusCode:
    with _channel(where) as channel:
        try:
            request = GetAllNodeInfoRequest(limit=1)
            NodeInfoGcsServiceStub(channel).GetAllNodeInfo(request, timeout=timeout_s, metadata=tuple(metadata.items()))
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def _channel(where: str) -> grpc.Channel:
    """As Ray makes it, except that it never adds the token by itself."""
    direct = [("grpc.enable_http_proxy", 0)]
    if not ray_uses_tls():
        return grpc.insecure_channel(where, options=direct)
    chain, key, authority = load_certs_from_env()
    return grpc.secure_channel(where, grpc.ssl_channel_credentials(authority, key, chain), options=direct)


def _use(mode: str) -> None:
    """Ray has read the variable when it was imported, and reads it again here."""
    set_variables({"RAY_AUTH_MODE": mode})
    Config.initialize("")
