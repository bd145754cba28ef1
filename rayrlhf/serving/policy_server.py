"""One replica of a served policy: Ray Serve's LLM server, whose weights can be exchanged while it serves.

    reconfigure({"version": 7}) ──▶ digests checked ──▶ gate closed: in-flight answers end, new ones wait
        ──▶ weights loaded, layers proven, prefix cache reset, test answer ──▶ gate open, release 7
        └─ anything wrong: the old weights are there again, and the board knows why

An answer is written by one release from its first to its last token.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from ray.util.metrics import Gauge

from rayrlhf.access.strict import explain
from rayrlhf.errors import ReleaseError
from rayrlhf.runtime.board import open_board
from rayrlhf.serving.gate import Gate
from rayrlhf.serving.policy_engine import PolicyEngine
from rayrlhf.serving.releases import Release, ReleaseBook, ReplicaState, Slot, check_files
from rayrlhf.weight_sync.proof import SyncTolerance

REQUESTS = {"chat": ChatCompletionRequest, "completions": CompletionRequest}
DRAIN_S = 300.0
LOAD_S = 1800.0
PROBE_S = 30.0
SAY_S = 5.0
STUCK_S = 600.0


class PolicyServer(LLMServer):
    """See the module. Constructed by Serve with what `policy_app` binds."""

    _default_engine_cls = PolicyEngine

    async def __init__(self, llm_config: LLMConfig, book: ReleaseBook, slot: Slot) -> None:  # type: ignore[misc]
        # Serve awaits constructors, as the base class has one.
        self._book, self._slot, self._gate = book, slot, Gate()
        self._last_sign = time.monotonic()
        self._broken = ""
        self._refused: tuple[int, str] | None = None
        self._gauge = Gauge("rayrlhf_policy_release", "The release that a replica serves.", ("slot", "replica"))
        # A replica that comes up later begins with what its slot serves by then.
        self._release = _current(book, slot)
        check_files(self._release)
        source = {"model_source": self._release.model}
        loading = llm_config.model_loading_config.model_copy(update=source)
        await super().__init__(llm_config.model_copy(update={"model_loading_config": loading}))
        await self._try_out()
        await self._say()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve this version; on failure the old one goes on. Never raises, because Serve would end the replica."""
        version, self._refused = int(user_config["version"]), None
        if version != self._release.version:
            try:
                await self._exchange(self._book.read().release(version))
            except Exception as error:  # noqa: BLE001 (whatever it is, the old release serves and the board says why)
                # A replica that is broken is replaced; its successor says whether it takes the release.
                self._refused = None if self._broken else (version, f"{type(error).__name__}: {error}")
        await self._say()

    async def answer(self, kind: str, body: dict[str, Any]) -> AsyncIterator[Any]:
        """The release's version; then, as they are ready, server-sent events (str), or one response (dict)."""
        try:
            request = REQUESTS[kind].model_validate(body)
        except ValidationError as error:
            yield _error(explain(error))
            return
        async with self._gate.passing():
            if self._broken:
                return  # nothing is said, so another replica is asked
            yield {"version": self._release.version}
            async with aclosing(await getattr(self, kind)(request)) as parts:
                async for part in parts:
                    self._last_sign = time.monotonic()
                    for event in part if isinstance(part, list) else [part]:
                        yield event if isinstance(event, str) else event.model_dump()

    async def check_health(self) -> None:
        """Raise unless the engine lives and has written something lately, or writes something now."""
        await super().check_health()
        if self._broken:
            raise RuntimeError(self._broken)
        await self._say()
        silent_s = time.monotonic() - self._last_sign
        if self._gate.inside:  # long answers are being written; a probe would only wait behind them
            if silent_s > STUCK_S:
                raise RuntimeError(f"nothing was written for {silent_s:.0f} s")
        elif silent_s > PROBE_S and not self._gate.is_closed:
            await self._probe()

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_S), self._gate.passing():
                await self._try_out()
        except TimeoutError:
            if not self._gate.is_closed:
                raise

    async def _exchange(self, release: Release) -> None:
        if release.shape != self._release.shape:
            raise ReleaseError(f"release {release.version} has another shape or tokenizer: it needs new replicas")
        await asyncio.to_thread(check_files, release)
        async with self._gate.closed(DRAIN_S):
            try:
                await self._while_alive(self._load(release))
            except Exception:
                await self._put_back()
                raise
            self._release = release

    async def _put_back(self) -> None:
        try:
            await asyncio.to_thread(check_files, self._release)
            await self._while_alive(self._load(self._release))
        except Exception as error:
            self._broken = f"neither the new nor the old release could be loaded: {error}"
            raise

    async def _while_alive(self, work: Coroutine[Any, Any, None]) -> None:
        """Await it as long as the engine lives: vLLM never answers calls that its engine took to the grave."""
        task = asyncio.ensure_future(work)
        try:
            async with asyncio.timeout(LOAD_S):
                while not (await asyncio.wait({task}, timeout=1.0))[0]:
                    await super().check_health()
            await task
        finally:
            task.cancel()

    async def _load(self, release: Release) -> None:
        deviations = await self.collective_rpc("reload_policy", args=(release.model,))
        # What is cached was computed by the old weights. The server's own method drops the verdict.
        if not await self.engine._engine_client.reset_prefix_cache(reset_running_requests=True):
            raise ReleaseError("the prefix cache could not be emptied: something was still being generated")
        if not max(deviations) <= SyncTolerance.of(self._llm_config.engine_kwargs["dtype"]).layer:
            raise ReleaseError(f"a layer does not compute with the weights that were loaded (off by {max(deviations)})")
        await self._try_out()

    async def _try_out(self) -> None:
        """Write a few tokens; a model that cannot, or whose numbers are not finite, is not served."""
        request = CompletionRequest(
            model=self._llm_config.model_id, prompt="Hello", max_tokens=4, temperature=0.0, logprobs=0
        )
        async for response in await self.completions(request):
            choices = getattr(response, "choices", None)
            if not choices:
                raise ReleaseError(f"the test generation failed: {response}")
            if not all(math.isfinite(value) for value in choices[0].logprobs.token_logprobs):
                raise ReleaseError("the test generation's log-probabilities are not finite")
        self._last_sign = time.monotonic()

    async def _say(self) -> None:
        """Tell the board. That it cannot be reached is no reason to stop serving."""
        refused, reason = self._refused or (None, "")
        state = ReplicaState(self._slot, self._release.version, refused, reason)
        replica = serve.get_replica_context().replica_id.unique_id
        self._gauge.set(self._release.version, tags={"slot": self._slot, "replica": replica})
        try:
            board = await asyncio.to_thread(open_board, str(self._book.directory))
            await asyncio.wait_for(board.say.remote(replica, state), SAY_S)
        except (RayError, TimeoutError, ValueError) as error:
            logging.getLogger(__name__).warning("the board cannot be reached: %s", error)


def _current(book: ReleaseBook, slot: Slot) -> Release:
    ledger = book.read()
    serving = ledger.slots.get(slot)
    if serving is None:
        raise ReleaseError(f"{book.path}: slot {slot} serves nothing")
    return ledger.release(serving.version)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": 400}}
