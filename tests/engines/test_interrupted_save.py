"""SIGKILL at twenty points of a save: what can be loaded afterwards is always one whole checkpoint."""

import os
import signal
import sys

import pytest
import torch

from rayrlhf.data.durable import digest_file
from rayrlhf.engines.training_state import TrainingSnapshot, load_module_weights
from rayrlhf.loop.checkpoint import CheckpointStore, verify
from rayrlhf.loop.progress import Progress
from rayrlhf.role_types import SavedFile

POINTS = 20
FILE_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir"}


def module(step=0):
    made = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(step)
    return made


def save(store, step):
    """The files of a save, written by what writes them in a run: two parts, two ranks each, rotation at the end."""
    folder, files = store.begin(step), {}
    parameters = list(module(step).named_parameters())
    for part in ("policy", "critic"):
        for rank in range(2):
            tensors = {f"weight/{name}": p.detach() for i, (name, p) in enumerate(parameters) if i % 2 == rank}
            file = TrainingSnapshot(tensors, rank, 2, step).write(folder / part)
            files[f"{part}/{file.name}"] = SavedFile(file.name, *digest_file(file))
    store.complete(folder, Progress(step, step, 0.0), files)
    store.rotate()


def in_child(work):
    """The signal that ended a forked process which did `work`, 0 if none."""
    if (pid := os.fork()) == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def count_operations(store, folder):
    def work():
        seen = []
        sys.addaudithook(lambda event, _: seen.append(event) if event in FILE_OPERATIONS else None)
        save(store, 2)
        (folder / "count").write_text(str(len(seen)))

    assert in_child(work) == 0
    return int((folder / "count").read_text())


def save_and_die(store, before):
    """A save that is killed right before its `before`-th (0-based) file operation."""
    left = [before]

    def hook(event, _):
        if event in FILE_OPERATIONS:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    def work():
        sys.addaudithook(hook)
        save(store, 2)

    return in_child(work)


def stores(folder, name):
    store = CheckpointStore(folder / name, 1, {"seed": 7})
    save(store, 1)
    return store


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("count")
    return count_operations(stores(folder, "checkpoints"), folder)


@pytest.mark.parametrize("point", range(POINTS))
def test_the_newest_checkpoint_is_whole_and_the_next_save_works(tmp_path, operations, point):
    assert operations >= POINTS
    store = stores(tmp_path, "checkpoints")
    assert save_and_die(store, point * (operations - 1) // (POINTS - 1)) == -signal.SIGKILL
    newest = store.newest()
    step = verify(newest).progress.step
    assert step in (1, 2)
    for part in ("policy", "critic"):
        loaded = module()
        load_module_weights(loaded, newest / part)
        assert all((parameter == step).all() for parameter in loaded.parameters())
    save(store, 3)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]


def test_both_outcomes_occur(tmp_path, operations):
    """Killed early the old checkpoint is the newest, killed late the new one."""
    found = set()
    for point in (0, operations - 1):
        store = stores(tmp_path, str(point))
        save_and_die(store, point)
        found.add(verify(store.newest()).progress.step)
    assert found == {1, 2}
