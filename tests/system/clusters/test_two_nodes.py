"""PPO with every role, learner ranks and rollout workers on different Ray nodes, gloo across them."""

import pytest
import ray
import ray._private.state
import torch
from ray.cluster_utils import Cluster
from transformers import AutoModelForCausalLM

from rayrlhf.data.journal import Journal
from rayrlhf.errors import PlacementError
from rayrlhf.runtime.bundles import RoleBundle
from rayrlhf.runtime.cluster import check_feasible
from rayrlhf.stages.rl import run_rl
from tests.system import jobs

TINY = {"threads": 1, "micro_batch_tokens": 256}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_policy, tiny_reward_model):
    """One run of two steps; returns its folder and the nodes that its actors were on."""
    folder = tmp_path_factory.mktemp("two_nodes")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2, labels={"pool": "rewards"})
    ray.init(address=cluster.address, log_to_driver=False)
    job = jobs.make(
        folder, tiny_policy,
        algorithm={"kind": "ppo", "kl_coefficient": 0.05, "minibatches": 2},
        rollout={"workers": 2, "cpus": 1.2},
        learner={"ranks": 2, "zero_stage": 3, "spread": True},
        critic={"ranks": 2, "zero_stage": 2, "learning_rate": 1e-2, "cpus": 0.1, **TINY},
        reference={"cpus": 0.1, **TINY},
        reward={
            "function": None, "model": str(tiny_reward_model), "cpus": 0.1, "threads": 1,
            "node_labels": {"pool": "rewards"},
        },
        run={"steps": 3},
    )  # fmt: skip
    run_rl(job, "never")
    nodes = {"labelled": {node["NodeID"] for node in ray.nodes() if node["Labels"].get("pool") == "rewards"}}
    for actor in ray._private.state.actors().values():
        nodes.setdefault(actor["ActorClassName"].split(".")[-1], set()).add(actor["Address"]["NodeID"])
    yield folder, nodes
    ray.shutdown()
    cluster.shutdown()


def test_learner_ranks_and_rollout_workers_were_on_different_nodes(finished):
    _, nodes = finished
    assert len(nodes["LearnerRole"]) == 2
    assert len(nodes["RolloutRole"]) == 2


def test_a_role_with_node_labels_was_on_a_node_that_has_them(finished):
    _, nodes = finished
    assert nodes["RewardRole"] == nodes["labelled"]


def test_labels_that_no_node_has_are_said_before_anything_starts(finished):
    nowhere = RoleBundle("reward", 1, 0.1, 0.0, labels={"pool": "nowhere"})
    with pytest.raises(PlacementError, match=r"no node with the label pool=nowhere .*reward.node_labels"):
        check_feasible([nowhere])


def test_at_the_first_step_kl_is_zero_the_ratio_one_and_nothing_clipped(finished):
    first = jobs.metrics(finished[0])[0]
    assert abs(first["kl/sequence_nats"]) < 1e-4
    assert first["policy/first_ratio_abs_deviation"] < 1e-4
    assert first["policy/first_clip_fraction"] == 0


def test_after_every_sync_learner_and_workers_agree(finished):
    for row in jobs.metrics(finished[0]):
        assert row["weight_sync/logprob_difference_max_nats"] < 1e-4
        assert row["drift/abs_logprob_max_nats"] < 1e-4
        assert row["rollout/staleness_steps"] == 0


def test_the_policy_moves_away_from_the_reference(finished):
    assert abs(jobs.metrics(finished[0])[-1]["kl/sequence_nats"]) > 1e-3


def test_the_journal_has_every_trajectory_once_with_its_version(finished):
    for step in (1, 2, 3):
        rows = Journal(finished[0] / "runs" / "run" / "trajectories").rows(step)
        assert len({row["trajectory_id"] for row in rows}) == 16
        assert {tuple(row["policy_versions"]) for row in rows} == {(step - 1,)}
        assert {row["reward_status"] for row in rows} == {"ok"}


def test_the_export_is_the_trained_policy(finished, tiny_policy):
    trained = AutoModelForCausalLM.from_pretrained(finished[0] / "runs" / "run" / "model")
    initial = AutoModelForCausalLM.from_pretrained(tiny_policy)
    assert trained.lm_head.weight.data_ptr() == trained.model.embed_tokens.weight.data_ptr()
    assert not torch.equal(trained.lm_head.weight, initial.lm_head.weight)
