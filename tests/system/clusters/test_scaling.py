"""Workers that come and go, and nodes that do: the run goes on and learns the same."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray.cluster_utils import Cluster

from rayrlhf.cli import main
from rayrlhf.errors import PlacementError
from rayrlhf.loop.scaling import ask_for_workers
from rayrlhf.role_types import Worker
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.cluster import Placement, check_feasible
from rayrlhf.runtime.worker_group import gather
from tests.system import faults
from tests.system.fake_run import At, FakeRun

PPO = {"algorithm": {"kind": "ppo"}, "checkpoint": {"every_steps": 5}}


@pytest.fixture(scope="module")
def cluster():
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def undisturbed(cluster, tmp_path_factory):
    """The learner's state after every step."""
    run = FakeRun(tmp_path_factory.mktemp("undisturbed"), run={"steps": 60}, **PPO)
    run.loop.run()
    return run.ask(run.roles.learner, "by_step")[0]


@pytest.fixture
def placed_run(tmp_path):
    """Makes a run on reservations, which are given back whatever happens: the cluster is the other tests' too."""
    made = []

    def make(**sections):
        made.append(FakeRun(tmp_path, placed=True, **PPO, **sections))
        return made[-1]

    yield make
    for run in made:
        run.placement.release()


def check(run, undisturbed, steps):
    assert run.history()[0] == undisturbed[steps]
    faults.check_journal(run.directory.trajectories, steps, 4, 4)


def happened(run, event, role):
    return sorted(e["rank"] for e in run.events() if e["event"] == event and e.get("role") == role)


def test_workers_are_added_and_removed_while_the_run_goes_on(undisturbed, tmp_path):
    root = tmp_path / "runs" / "run"
    more = At(2, lambda: ask_for_workers(str(root), ["rollout=3", "reward=2"]))
    fewer = At(50, lambda: ask_for_workers(str(root), ["rollout=1"]))
    run = FakeRun(tmp_path, work_s=0.05, watchers=[more, fewer], run={"steps": 60}, **PPO)
    run.loop.run()
    check(run, undisturbed, 60)
    assert happened(run, "worker_joined", "rollout") == [1, 2]
    assert happened(run, "worker_joined", "reward") == [1]
    assert happened(run, "worker_removed", "rollout") == [1, 2]
    assert run.roles.rollout.live == [0]
    assert "score" in run.ask(run.roles.reward, "seen")[1]
    assert "memory/rollout_2_mib" not in run.memory.rows[-1][1]


def test_workers_beyond_what_the_cluster_has_wait_and_the_run_goes_on(undisturbed, placed_run, tmp_path):
    def those_with_room_are_up():
        ready = [call.ref for call in run.loop.supervisor.workforce.joining("rollout")]
        assert len(ray.wait(ready, num_returns=len(ready) - 3, timeout=120)[1]) == 3

    root, few = tmp_path / "runs" / "run", {"cpus": 0.1}
    more = At(2, lambda: ask_for_workers(str(root), ["rollout=9"]))
    run = placed_run(
        work_s=0.1, watchers=[more, At(4, those_with_room_are_up)], rollout=few, reward=few, reference=few, critic=few,
        learner=few, run={"steps": 30, "start_timeout_s": 4.0},
    )  # fmt: skip
    run.loop.run()
    check(run, undisturbed, 30)
    assert happened(run, "worker_joined", "rollout") == [1, 2, 3, 4, 5]
    assert set(happened(run, "no_room", "rollout")) == {6, 7, 8}
    assert not [e for e in run.events() if e["event"] == "failure"]


def test_a_run_waits_for_the_nodes_that_a_growing_cluster_adds(cluster, capsys):
    """Reservations that wait are what an autoscaler reads."""
    wanted = [RoleBundle("rollout", 2, 0.5, 0.0, labels={"pool": "later"})]
    with pytest.raises(PlacementError, match="pool=later"):
        check_feasible(wanted)
    check_feasible(wanted, autoscaling=True)
    assert "waiting for nodes" in capsys.readouterr().out
    placement = Placement(wanted)
    with ThreadPoolExecutor(1) as threads:  # Ray starts a node in the main thread only
        waits = threads.submit(placement.wait, 60)
        try:
            time.sleep(2)
            assert not waits.done()
            cluster.add_node(num_cpus=1, labels={"pool": "later"})
            waits.result()
        finally:
            placement.release()


@pytest.mark.parametrize("text", ["learner=2", "rollout=0", "rollout=many", "rollout"])
def test_what_cannot_be_asked_for_is_refused(tmp_path, capsys, text):
    (tmp_path / "config.toml").touch()
    assert main(["workers", str(tmp_path), text]) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "workers.toml").exists()


def test_a_broken_request_changes_nothing_and_is_reported(undisturbed, tmp_path):
    root = tmp_path / "runs" / "run"
    run = FakeRun(
        tmp_path, watchers=[At(1, lambda: (root / "workers.toml").write_text("rollout = "))], run={"steps": 2}, **PPO
    )
    run.loop.run()
    check(run, undisturbed, 2)
    assert [e["message"] for e in run.events() if e["event"] == "scaling_refused"]


def test_the_roles_of_a_lost_node_are_placed_again(cluster, undisturbed, placed_run):
    first = cluster.add_node(num_cpus=1)
    small = {"cpus": 0.2}
    run = placed_run(
        work_s=0.05, rollout={"workers": 2, **small}, reward=small, reference=small, critic=small,
        learner={"ranks": 2, "spread": True, **small}, recovery={"backoff_s": 0.1},
        run={"steps": 30, "phase_timeout_s": 60.0},
        watchers=[At(8, lambda: (cluster.add_node(num_cpus=1), cluster.remove_node(first, allow_graceful=False)))],
    )  # fmt: skip
    there = placed_on(run, first.node_id)
    assert "learner" in there
    run.loop.run()
    check(run, undisturbed, 30)
    assert {e["role"] for e in run.events() if e["event"] == "recovered"} & there
    assert not placed_on(run, first.node_id)


def placed_on(run, node):
    calls = [call for group in run.roles.all for call in group.start(Worker.vitals)]
    return {call.role for call, vitals in zip(calls, gather(calls, 30, "test"), strict=True) if vitals.node == node}
