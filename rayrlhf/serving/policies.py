"""The policies that serve, as the ingress reaches them: Serve handles, sticky users, Serve's failures by our names."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, cast

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Counter

from rayrlhf.errors import RequestRefusedError
from rayrlhf.serving.answering import ReplicaLostError
from rayrlhf.serving.names import POLICY, app_name
from rayrlhf.serving.releases import Serving, Slot

_LOST = (RayActorError, RequestCancelledError, DeploymentUnavailableError)


class _NoSuchSlotError(Exception):
    """The slot's application is not there, yet or any more."""


class ServedPolicies:
    """Implements `answering.Policies`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._primary: Serving | None = None
        self._canary: Serving | None = None
        self._handles: dict[str, DeploymentHandle[Any]] = {}
        self._lost = Counter("rayrlhf_replicas_lost", "Requests whose replica was lost.", tag_keys=("slot",))
        self._asked = Counter("rayrlhf_requests_to_policies", "Requests given to replicas.", tag_keys=("slot", "kind"))

    def route(self, primary: Serving, canary: Serving | None) -> None:
        """Send users here from now on."""
        self._primary, self._canary = primary, canary

    @property
    def slots(self) -> Sequence[str]:
        """See `Policies`."""
        return [serving.slot for serving in (self._primary, self._canary) if serving is not None]

    def slot_of(self, user: str) -> str:
        """A share of the users, drawn anew for each canary, gets the canary."""
        assert self._primary is not None
        canary = self._canary
        if canary is not None and _draw(f"{canary.version}:{user}") < canary.share:
            return canary.slot
        return self._primary.slot

    async def parts(self, kind: str, body: Mapping[str, Any], slot: str) -> AsyncGenerator[Any, None]:
        """See `Policies`. A slot that was given up meanwhile is the primary's."""
        assert self._primary is not None
        chosen = slot if slot in self.slots else self._primary.slot
        deadline, response = time.monotonic() + self._timeout_s, None
        self._asked.inc(tags={"slot": chosen, "kind": kind})
        try:
            response = self._handle(chosen).answer.remote(kind, dict(body))
            while True:
                try:
                    part = await asyncio.wait_for(anext(response), max(0.0, deadline - time.monotonic()))
                except StopAsyncIteration:
                    response = None
                    return
                yield part
        except TimeoutError:
            raise RequestRefusedError(f"no whole answer within {self._timeout_s:g} s", 504, "timeout") from None
        except BackPressureError as error:
            raise RequestRefusedError("too many requests are waiting", 503, "overloaded", retry_after_s=2) from error
        except (*_LOST, _NoSuchSlotError) as error:
            self._lost.inc(tags={"slot": chosen})
            raise ReplicaLostError(str(error)) from error
        except RayTaskError as error:
            if "EngineDead" in f"{type(error.cause).__name__}{error}":
                self._lost.inc(tags={"slot": chosen})
                raise ReplicaLostError("the replica's engine is dead") from error
            raise
        finally:
            if response is not None:  # nobody reads on: the replica need not write on
                response.cancel()

    def _handle(self, slot: str) -> DeploymentHandle[Any]:
        if slot not in self._handles:
            try:
                handle = serve.get_deployment_handle(POLICY, app_name(cast(Slot, slot)))
            except KeyError as error:
                raise _NoSuchSlotError(slot) from error
            self._handles[slot] = handle.options(stream=True)
        return self._handles[slot]


def _draw(text: str) -> float:
    """Uniform in [0, 1), and always the same for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
