"""Learner and critic ranks outside Ray, on a tiny real model: PPO-ptx's gradient, the critic's start and progress."""

import json

import pytest
import torch
import torch.multiprocessing as mp
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rayrlhf.role_types import LearnRequest
from rayrlhf.types import Completion, Message, Prompt, Reward, Rewards, TokenScores, Trajectory, VersionSpan
from tests import tiny
from tests.ports import free_port
from tests.system import jobs

RATE = 0.1
COEFFICIENTS = (0.0, 0.5, 1.0)
TEXT = "the sea is wide and the wind is cold."


def trajectories():
    """Eight answers; the first token says whether the answer is good."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(8):
        prompt = Prompt(str(i), (Message(role="user", content="x"),), tuple(range(5, 10 + i % 3)))
        tokens = (20 + i % 2, *torch.randint(4, 90, (6,), generator=generator).tolist())
        completion = Completion(tokens, (-4.0,) * 7, "stop", (VersionSpan(0, 7, 0),))
        rows.append(Trajectory(f"{i:03d}", f"g{i}", 0, prompt, completion))
    return rows


def rewards():
    return Rewards({t.id: Reward(float(2 * (int(t.id) % 2) - 1), {}, "ok") for t in trajectories()})


def scores(kind):
    return TokenScores(kind, {t.id: torch.full((7,), -4.0) for t in trajectories()})


def rendezvous():
    from rayrlhf.engines.process_group import Rendezvous

    return Rendezvous("127.0.0.1", free_port(), 1, 60.0)


def ppo(folder, policy, reward_model, **algorithm):
    trained = {"optimizer": "sgd", "learning_rate": RATE, "max_gradient_norm": None, "zero_stage": 2}
    return jobs.make(
        folder, policy,
        data={"pretraining": str(folder / "texts.jsonl")},
        algorithm={"kind": "ppo", **algorithm},
        learner=trained,
        critic={**trained, "optimizer": "adamw", "learning_rate": 3e-3, "threads": 1},
        reward={"function": None, "model": str(reward_model)},
    )  # fmt: skip


def learn(_, folder, policy, reward_model):
    """In a process of its own: the policy after one update with each coefficient, and the critic's progress."""
    from rayrlhf.roles.critic import CriticRole
    from rayrlhf.roles.learner import LearnerRole

    results = {"weights": {}, "explained": []}
    for coefficient in COEFFICIENTS:
        job = ppo(folder, policy, reward_model, ptx_coefficient=coefficient, ptx_rows=1)
        role = LearnerRole(job, str(folder), str(folder), 0)
        role.start(rendezvous(), None)
        _, own = role.logprobs(trajectories())
        metrics = role.learn(
            LearnRequest(0, 0.0), 1, trajectories(), rewards(), own, scores("reference"), scores("value")
        )
        role.export(str(folder / f"policy-{coefficient}"))
        results[coefficient] = metrics
    results["bad"] = learn_from_nan(role, folder)
    critic = CriticRole(ppo(folder, policy, reward_model), str(folder), 0)
    critic.start(rendezvous(), None)
    results["values"] = critic.values(trajectories())[1].by_id
    for step in range(12):
        request = LearnRequest(step, 0.0)
        _, values = critic.values(trajectories())
        done = critic.learn(request, 1, trajectories(), rewards(), scores("policy"), scores("reference"), values)
        results["explained"].append(done["critic/explained_variance"])
    torch.save(results, folder / "results.pt")


def learn_from_nan(role, folder):
    """One log-probability is NaN: (metrics, ids that are named, digests of the weights before and after)."""
    from rayrlhf.engines.training_state import weights_digest

    own = scores("policy")
    own.by_id["003"][2] = float("nan")
    before = weights_digest(role._engine)
    metrics = role.learn(LearnRequest(4, 0.0), 1, trajectories(), rewards(), own, scores("reference"), scores("value"))
    return metrics, role.bad_trajectories(), before, weights_digest(role._engine)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_policy, tiny_reward_model):
    folder = tmp_path_factory.mktemp("roles")
    (folder / "texts.jsonl").write_text(json.dumps({"text": TEXT}))
    mp.spawn(learn, (folder, tiny_policy, tiny_reward_model), nprocs=1)
    return folder, torch.load(folder / "results.pt")


def test_ppo_ptx_changes_the_gradient_by_exactly_its_coefficient(trained, tiny_policy):
    folder, results = trained
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    ids = torch.tensor([tiny.tokenizer()(TEXT)["input_ids"]])
    model(ids, labels=ids).loss.backward()
    after = {c: AutoModelForCausalLM.from_pretrained(folder / f"policy-{c}").state_dict() for c in COEFFICIENTS}
    for name, parameter in model.named_parameters():
        for coefficient in COEFFICIENTS[1:]:
            change = (after[0.0][name] - after[coefficient][name]) / RATE
            torch.testing.assert_close(change, coefficient * parameter.grad, atol=2e-6, rtol=1e-4)
    assert "policy/ptx_loss_nats" in results[1.0]
    assert "policy/ptx_loss_nats" not in results[0.0]


def test_at_the_first_update_the_ratio_is_one_and_nothing_is_clipped(trained):
    for coefficient in COEFFICIENTS:
        assert trained[1][coefficient]["policy/first_ratio_abs_deviation"] < 1e-6
        assert trained[1][coefficient]["policy/first_clip_fraction"] == 0


def test_the_critic_starts_as_the_reward_model_read_before_each_token(trained, tiny_reward_model):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_reward_model).eval()
    for row in trajectories():
        start = len(row.prompt.token_ids)
        with torch.no_grad():
            expected = [float(model(torch.tensor([row.token_ids[: start + t]])).logits) for t in range(7)]
        torch.testing.assert_close(trained[1]["values"][row.id], torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_explained_variance_of_the_critic_rises(trained):
    explained = trained[1]["explained"]
    assert explained[0] < 0.2
    assert explained[-1] > 0.5


def test_a_step_with_a_number_that_is_not_finite_is_not_applied_and_kept_for_inspection(trained):
    folder, results = trained
    metrics, ids, before, after = results["bad"]
    assert metrics["policy/skipped_updates"] == 1
    assert ids == ("003",)
    assert before == after
    with safe_open(folder / "step-000005-policy.safetensors", framework="pt") as kept:
        assert kept.metadata()["bad_trajectory_ids"] == "003"
        assert kept.metadata()["trajectory_ids"] == ",".join(t.id for t in trajectories())
        assert torch.isnan(kept.get_tensor("policy_logprobs")).sum() == 1
