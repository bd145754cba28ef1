import asyncio
from contextlib import suppress

import pytest

from rayrlhf.serving.gate import Gate


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def hold(gate, log, name, until):
    async with gate.passing():
        log.append(f"{name} in")
        await until.wait()
    log.append(f"{name} out")


def test_it_closes_when_all_are_out_and_keeps_newcomers_waiting():
    async def story():
        gate, log, done = Gate(), [], asyncio.Event()
        inside = [asyncio.create_task(hold(gate, log, n, done)) for n in ("a", "b")]
        await settle()

        async def close():
            async with gate.closed(5):
                log.append("closed")

        closing = asyncio.create_task(close())
        await settle()
        late = asyncio.create_task(hold(gate, log, "late", done))
        await settle()
        assert log == ["a in", "b in"]
        assert gate.is_closed
        done.set()
        await asyncio.gather(*inside, closing, late)
        assert log.index("closed") > log.index("b out")
        assert log.index("late in") > log.index("closed")

    asyncio.run(story())


def test_it_opens_again_when_not_all_come_out_in_time():
    async def story():
        gate, log, done = Gate(), [], asyncio.Event()
        inside = asyncio.create_task(hold(gate, log, "a", done))
        await settle()
        with pytest.raises(TimeoutError):
            async with gate.closed(0.05):
                log.append("closed")
        assert not gate.is_closed
        async with asyncio.timeout(1), gate.passing():
            pass
        done.set()
        await inside
        assert log == ["a in", "a out"]

    asyncio.run(story())


def test_one_who_is_cancelled_or_fails_inside_is_out():
    async def story():
        gate, log = Gate(), []
        inside = asyncio.create_task(hold(gate, log, "a", asyncio.Event()))
        await settle()
        inside.cancel()
        with suppress(asyncio.CancelledError):
            await inside
        with suppress(ValueError):
            async with gate.passing():
                raise ValueError
        async with asyncio.timeout(1), gate.closed(1):
            pass

    asyncio.run(story())


def test_an_error_while_it_is_closed_opens_it():
    async def story():
        gate = Gate()
        with suppress(ValueError):
            async with gate.closed(1):
                raise ValueError
        async with asyncio.timeout(1), gate.passing():
            pass

    asyncio.run(story())
