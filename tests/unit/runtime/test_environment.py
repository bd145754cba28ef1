import argparse
import os

import pytest

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import load_job
from rayrlhf.errors import ConfigError
from rayrlhf.runtime.environment import (
    UNSAFE_VLLM,
    require_safe_vllm,
    serving_variables,
    thread_count,
    vllm_variables,
)
from rayrlhf.serving.command_line import add_serve
from rayrlhf.stages.rl import prepare


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_every_engine_and_every_rank_of_a_node_has_cores_of_its_own(eight_cores):
    bound = [vllm_variables(4, 2, 1, engine)["VLLM_CPU_OMP_THREADS_BIND"] for engine in (0, 1)]
    assert bound == ["0,1|2,3", "4,5|6,7"]


def test_more_engines_than_cores_share_them(eight_cores):
    assert vllm_variables(8, 1, 1, engine=1)["VLLM_CPU_OMP_THREADS_BIND"] == "0,1,2,3,4,5,6,7"


def test_threads_are_the_nodes_cores_shared_by_its_processes(eight_cores):
    assert [thread_count(None, 1), thread_count(None, 3), thread_count(None, 99), thread_count(5, 3)] == [8, 2, 1, 5]


@pytest.mark.parametrize("name", UNSAFE_VLLM)
def test_what_makes_vllm_run_what_it_is_sent_is_refused_where_engines_are_started(name, monkeypatch):
    monkeypatch.setenv(name, "0")
    require_safe_vllm()
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"unset {name}"):
        prepare(load_job(RLJob, "examples/grpo.toml"))
    parser = argparse.ArgumentParser()
    add_serve(parser)
    arguments = parser.parse_args(["no-such-model"])
    with pytest.raises(ConfigError, match=f"unset {name}"):
        arguments.run_command(arguments)


def test_engines_and_replicas_are_told_that_it_is_off():
    """A node may have been started with another environment than the one that was checked."""
    for variables in (vllm_variables(1, 1, 1), serving_variables(1, 1)):
        assert [variables[name] for name in UNSAFE_VLLM] == ["0", "0"]
