import resource
import subprocess
import sys
from dataclasses import replace

import pytest

from rayrlhf.jobs.doctor.findings import Level
from rayrlhf.jobs.doctor.machine import GIB, MachineFacts, Space, container_memory, gather_machine, judge_machine
from tests.unit.jobs.doctor.findings import level_of, reds

PLENTY = Space(100 * GIB, 50 * GIB)
WELL = MachineFacts("host", 8, PLENTY, PLENTY, (65536, 65536), "/tmp", PLENTY, "/usr/bin/g++")


def test_a_machine_that_has_everything_is_green():
    assert {f.level for f in judge_machine(WELL)} == {Level.GREEN}


def test_a_tiny_limit_of_open_files_is_red():
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from rayrlhf.jobs.doctor.machine import *\n"
        "print([f.found for f in judge_machine(gather_machine()) if f.level == 'red'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "ulimit -n is 256 (hard limit 256), 4096 are needed" in done.stdout


def test_a_soft_limit_alone_is_yellow_and_no_limit_is_green():
    unlimited = resource.RLIM_INFINITY
    assert level_of(judge_machine(replace(WELL, files=(1024, 65536))), "open files") is Level.YELLOW
    assert level_of(judge_machine(replace(WELL, files=(unlimited, unlimited))), "open files") is Level.GREEN


@pytest.mark.parametrize(
    ("check", "changed", "remedy"),
    [
        ("/dev/shm", {"shm": Space(64 * 2**20, 64 * 2**20)}, "--shm-size"),
        ("/dev/shm", {"shm": None}, "emptyDir"),
        ("memory", {"memory": Space(4 * GIB, GIB)}, "larger machine"),
        ("temporary disk", {"disk": Space(10 * GIB, GIB)}, "TMPDIR"),
        ("C++ compiler", {"compiler": None}, "apt-get install g++"),
    ],
)
def test_what_is_short_is_red_with_its_remedy(check, changed, remedy):
    found = judge_machine(replace(WELL, **changed))
    assert level_of(found, check) is Level.RED
    assert remedy in reds(found)[0]


@pytest.mark.parametrize("name", ["VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE"])
def test_variables_that_let_vllm_run_what_it_is_sent_are_red_when_set(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert any(f"unset {name}" in told for told in reds(judge_machine(gather_machine())))
    monkeypatch.setenv(name, "0")
    assert level_of(judge_machine(gather_machine()), "unsafe variables") is Level.GREEN


def test_a_container_s_limit_counts_and_its_page_cache_does_not(tmp_path):
    assert container_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text(f"{8 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{5 * GIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {2 * GIB}\n")
    assert container_memory(tmp_path) == Space(8 * GIB, 5 * GIB)
    (tmp_path / "memory.max").write_text("max\n")
    assert container_memory(tmp_path) is None
