from types import SimpleNamespace

import pytest

from rayrlhf.errors import RecoveryError, StorageError
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress
from rayrlhf.loop.saver import MAX_FAILED_SAVES, CheckpointSaver
from rayrlhf.observability.events import EventLog


class AwayStore(CheckpointStore):
    """A store that is away for its first `times` operations of one kind."""

    def __init__(self, folder, method, times):
        super().__init__(folder, 2, {})
        self.left = {method: times}

    def _fail(self, method):
        if self.left.get(method, 0) > 0:
            self.left[method] -= 1
            raise StorageError(5, "no route", "s3://bucket/runs")

    def begin(self, step):
        self._fail("begin")
        return super().begin(step)

    def complete(self, *args):
        self._fail("complete")
        super().complete(*args)


@pytest.fixture(params=["begin", "complete"])
def saver(request, tmp_path):
    def make(times):
        shown = []
        store = AwayStore(tmp_path, request.param, times)
        return CheckpointSaver(SimpleNamespace(training=[]), store, EventLog(show=shown.append)), store, shown

    return make


def save(saver, step):
    saver.write(Progress(step, step, 0.0), ())
    saver.poll()


def test_a_save_that_the_driver_cannot_write_is_noted_and_the_next_one_counts(saver):
    saver, store, shown = saver(times=1)
    save(saver, 1)
    assert (saver.busy, store.newest()) == (False, None)
    assert "step-000001 was not saved" in shown[0]
    assert "no route" in shown[0]
    save(saver, 2)
    assert store.newest().name == "step-000002"


def test_a_store_that_stays_away_ends_the_run_with_its_name(saver):
    saver, _, _ = saver(times=10)
    for step in range(1, MAX_FAILED_SAVES):
        save(saver, step)
    with pytest.raises(RecoveryError, match=r"cannot be written.*s3://bucket/runs: no route"):
        save(saver, MAX_FAILED_SAVES)
