import os

import pytest

from rayrlhf.runtime.environment import thread_count, vllm_variables


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
