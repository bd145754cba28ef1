import uuid
from types import SimpleNamespace

import pytest

from rayrlhf.data.durable import as_path, entries, read_bytes
from rayrlhf.errors import StorageError
from rayrlhf.loop import watchdog
from rayrlhf.loop.watchdog import Watchdog
from rayrlhf.observability.events import EventLog


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return (tmp_path if request.param == "local" else as_path(f"memory://{uuid.uuid4().hex}")) / "stacks"


def stall(folder):
    """What is shown of a wait in which nothing answers."""
    shown = []
    dog = Watchdog(SimpleNamespace(vitals={}), folder, 0.0, EventLog(show=shown.append))
    dog.begin("learn of step 3")
    for _ in range(2):
        dog.looked(["learner 0, learn"], answered=False, late=False)
    return shown


def test_a_stall_is_written_once_and_names_who_is_waited_for(folder):
    (message,) = stall(folder)
    (file,) = entries(folder)
    assert f"waiting for learner 0, learn (stacks of all roles: {file})" in message
    assert read_bytes(file).startswith(b"learn of step 3: no answer for ")


def test_a_stall_whose_stacks_cannot_be_written_is_shown_and_the_run_goes_on(folder, monkeypatch):
    def refuse(path, data):
        raise StorageError(5, "no route", str(path))

    monkeypatch.setattr(watchdog, "write_durably", refuse)
    (message,) = stall(folder)
    assert "could not be written" in message
    assert "no route" in message
