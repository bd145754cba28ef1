"""With packages of our own making first on the path of the process that imports them."""

import pytest

from rayrlhf.jobs.doctor.imports import IMPORTED, gather_imports, judge_imports
from tests.unit.jobs.doctor.findings import reds

TORCH = "class version: cuda = '13.0'\nclass cuda:\n    device_count = staticmethod(lambda: 2)\n"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder where every heavy package is an empty one, and torch says that it has two GPUs."""
    for name in IMPORTED:
        (tmp_path / f"{name}.py").write_text(TORCH if name == "torch" else "")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return tmp_path


def test_what_torch_sees_is_told(packages):
    facts = gather_imports()
    assert (facts.errors, facts.cuda, facts.devices) == ({}, "13.0", 2)
    assert reds(judge_imports(facts)) == []


def test_a_torchvision_of_another_build_is_red_and_may_go(packages):
    (packages / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (told,) = reds(judge_imports(gather_imports()))
    assert told.startswith("torchvision cannot be imported: RuntimeError: operator torchvision::nms does not exist")
    assert "pip uninstall torchvision" in told


def test_a_package_that_crashes_does_not_take_the_doctor_along(packages):
    (packages / "vllm.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    (told,) = reds(judge_imports(gather_imports()))
    assert "killed by signal 4" in told
