"""A gate that many pass at once, and that closes when all have come out: no answer is written by two policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """For one event loop. While it is closed, those who want to pass wait."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether somebody is closing it or has closed it."""
        return self._is_closed

    @property
    def inside(self) -> int:
        """How many are inside."""
        return self._inside

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Inside; the gate cannot be closed meanwhile."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_closed)
            self._inside += 1
        try:
            yield
        finally:
            # Not under the condition's lock, which a cancelled task could not wait for.
            self._inside -= 1
            if self._inside == 0:
                self._wake = asyncio.ensure_future(self._notify())

    @asynccontextmanager
    async def closed(self, timeout_s: float) -> AsyncIterator[None]:
        """Alone; newcomers wait from now on.

        Raises:
            TimeoutError: not all came out in time. The gate is open again.

        """
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_closed)
            self._is_closed = True
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._inside == 0)
            yield
        finally:
            self._is_closed = False
            self._wake = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
