import asyncio
import time

import pytest

from rayrlhf.errors import ScorerLostError
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.rewards.wire import PROBE
from rayrlhf.serving.scoring_lane import ScoringLane
from tests.unit.rewards.services import SLOW_S, Letters, length, requests


def run(work, source, **settings):
    """What a coroutine of a lane returns; the lane is closed."""

    async def inside():
        lane = ScoringLane(source, **settings)
        try:
            return await asyncio.wait_for(work(lane), 30)
        finally:
            lane.close()
            source.close()

    return asyncio.run(inside())


def statuses(scored):
    return [one.reward.status for one in scored]


def test_what_several_clients_send_is_scored_together():
    source = Letters(together=100, each_s=0.2)

    async def work(lane):
        first = asyncio.create_task(lane.score(requests("a"), 5.0))
        await asyncio.sleep(0.05)
        return await asyncio.gather(first, *(lane.score(requests(word, word), 5.0) for word in ("bb", "ccc")))

    scores = run(work, source)
    assert [[one.reward.value for one in mine] for mine in scores] == [
        [length("a")], [length("bb")] * 2, [length("ccc")] * 2,
    ]  # fmt: skip
    assert source.scored == [["a"], ["bb", "bb", "ccc", "ccc"]]


def test_each_item_says_how_long_its_own_scoring_took():
    scored = run(lambda lane: lane.score(requests("a", "bb"), 5.0), Letters(together=1, each_s=0.2))
    assert all(0.2 <= one.scoring_s < 0.4 for one in scored)


def test_each_item_has_the_deadline_of_its_own_client():
    async def work(lane):
        return await asyncio.gather(
            lane.score(requests("slow"), 10 * SLOW_S), lane.score(requests("slow", "a"), SLOW_S / 2)
        )

    patient, hasty = run(work, Letters())
    assert statuses(patient) == ["ok"]
    assert statuses(hasty) == ["timeout", "ok"]


def test_a_late_item_is_answered_at_its_deadline_and_others_go_on_afterwards():
    async def work(lane):
        began = time.monotonic()
        late = await lane.score(requests("slow"), SLOW_S / 3)
        took_s = time.monotonic() - began
        return late, took_s, await lane.score(requests("a"), SLOW_S / 3)

    late, took_s, later = run(work, Letters())
    assert statuses(late) == ["timeout"]
    assert took_s < SLOW_S
    assert statuses(later) == ["ok"]  # the thread was busy for longer than this deadline: that was waiting


def test_an_item_whose_client_has_gone_is_not_scored():
    source = Letters(together=1, each_s=0.3)

    async def work(lane):
        first = asyncio.create_task(lane.score(requests("a"), 5.0))
        await asyncio.sleep(0.1)
        gone = asyncio.create_task(lane.score(requests("gone"), 5.0))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.gather(first, lane.score(requests("bb"), 5.0))

    run(work, source)
    assert source.scored == [["a"], ["bb"]]


def test_scoring_that_does_not_end_loses_the_lane_and_everybody_is_told():
    said = []

    async def work(lane):
        calls = [lane.score(requests("hang", "a"), 0.2), lane.score(requests("bb"), 0.2)]
        answered = await asyncio.gather(*calls, return_exceptions=True)
        for call in (lane.score(requests("c"), 1.0), lane.check(1.0)):
            with pytest.raises(ScorerLostError):
                await call
        return answered

    answered = run(work, Letters(together=2), grace_s=0.3, on_lost=said.append)
    assert [type(error) for error in answered] == [ScorerLostError] * 2
    assert said == ["scoring has not ended within 0.5 s"]


def test_the_item_that_hangs_alone_has_timed_out_before_the_lane_is_lost():
    said = []

    async def work(lane):
        late = await lane.score(requests("hang"), 0.2)
        await asyncio.sleep(1.0)
        return late

    assert statuses(run(work, Letters(), grace_s=0.3, on_lost=said.append)) == ["timeout"]
    assert len(said) == 1


def test_a_check_scores_before_whatever_waits():
    source = Letters(together=1, each_s=0.1)

    async def work(lane):
        waiting = asyncio.create_task(lane.score(requests(*"abcdefgh"), 5.0))
        await asyncio.sleep(0.15)
        await lane.check(5.0)
        await waiting

    run(work, source)
    assert [PROBE.response] in source.scored[:5]


def test_a_check_fails_when_nothing_can_be_scored():
    class Broken(Letters):
        def _score(self, response):
            raise RuntimeError("CUDA error")

    with pytest.raises(ScorerLostError, match="the probe has no score: RuntimeError: CUDA error"):
        run(lambda lane: lane.check(5.0), Broken())


def test_a_source_that_loses_an_item_is_not_believed():
    class Short(Letters):
        def score(self, requests: list[RewardRequest]):
            return super().score(requests)[1:]

    with pytest.raises(ScorerLostError):
        run(lambda lane: lane.score(requests("a", "bb"), 5.0), Short())
