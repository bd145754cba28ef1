"""Rewards from a Python function, called in a process of its own: a call that hangs is killed, a crash is a status."""

from __future__ import annotations

import importlib
import math
import multiprocessing as mp
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from rayrlhf.errors import ConfigError
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.types import Reward, RewardStatus


def import_function(path: str) -> Callable[[RewardRequest], Any]:
    """The function at `package.module:name`.

    Raises:
        ConfigError: no such module or name, or it cannot be called.

    """
    module_name, colon, name = path.partition(":")
    if not colon or not name:
        raise ConfigError(f"reward.function = {path!r}: expected `package.module:name`")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(f"reward.function = {path!r}: {type(error).__name__}: {error}") from None
    except AttributeError:
        raise ConfigError(f"reward.function = {path!r}: {module_name} has no {name!r}") from None
    if not callable(function):
        raise ConfigError(f"reward.function = {path!r}: is not a function")
    return function


class FunctionReward:
    """Calls the function one request at a time, so the deadline never includes waiting for others."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self.last_failure = ""
        self._process: Any = None
        self._pipe: Connection | None = None

    def score(self, requests: list[RewardRequest]) -> list[Reward]:
        """One reward a request; a timeout or an exception is a status of that request alone."""
        return [self._score_one(request) for request in requests]

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = self._pipe = None

    def _score_one(self, request: RewardRequest) -> Reward:
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(request)
            if not self._pipe.poll(self._timeout_s):
                self.close()
                return self._failed("timeout", f"no answer within {self._timeout_s:g} s")
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.close()
            return self._failed("error", "the function's process died")
        if isinstance(answer, str):
            return self._failed("error", answer)
        value = sum(answer.values())
        if not math.isfinite(value):
            return self._failed("error", f"the function returned {answer}")
        return Reward(value, answer, "ok")

    def _failed(self, status: RewardStatus, reason: str) -> Reward:
        self.last_failure = reason
        print(reason, file=sys.stderr)
        return Reward(None, {}, status)

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._path, theirs), daemon=True)
        self._process.start()
        theirs.close()
        ready = self._pipe.poll(120) and self._pipe.recv() == "ready"
        if not ready:
            self.close()
            raise ConfigError(f"reward.function = {self._path!r}: its process did not start")


def _serve(path: str, pipe: Connection) -> None:
    function = import_function(path)
    pipe.send("ready")
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = function(request)
            components = answer if isinstance(answer, Mapping) else {"function": answer}
            pipe.send({str(name): float(value) for name, value in components.items()})
        except Exception:  # noqa: BLE001 (a user's function may raise anything; it becomes a status)
            pipe.send(traceback.format_exc())
