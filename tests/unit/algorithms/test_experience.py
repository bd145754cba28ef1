"""From scored trajectories to the batch: alignment, masks, and what a failed reward or a cut answer does."""

import pytest
import torch

from rayrlhf.algorithms.experience import ScoredStep, build_experience, rollout_metrics
from rayrlhf.config.sections import GRPOConfig, PPOConfig
from rayrlhf.types import Completion, Message, Prompt, Reward, Rewards, TokenScores, Trajectory, VersionSpan

PPO = PPOConfig(kind="ppo", whiten_advantages=False, gae_lambda=1.0)
GRPO = GRPOConfig(kind="grpo", normalise_std=False)
END = 2


def trajectory(id_, prompt, answer, group="g", reason="stop", behaviour=None):
    asked = Prompt(group, (Message(role="user", content="x"),), tuple(prompt))
    spans = (VersionSpan(0, len(answer), 0),)
    completion = Completion(tuple(answer), tuple(behaviour or [-1.0] * len(answer)), reason, spans)
    return Trajectory(id_, group, 0, asked, completion)


ROWS = [
    trajectory("a", [END, 5, END], [7, END], behaviour=[-1.5, -2.0]),  # eos = pad inside the prompt
    trajectory("b", [5], [7, 8, 9], reason="length"),
]
POLICY = {"a": torch.tensor([-1.0, -2.0]), "b": torch.tensor([-1.0, -1.0, -1.0])}
REFERENCE = {"a": torch.tensor([-1.5, -2.0]), "b": torch.tensor([-1.0, -2.0, -1.0])}
VALUES = {"a": torch.tensor([0.5, 0.25]), "b": torch.tensor([0.0, 0.0, 0.0])}


def step(rewards=(1.0, -1.0), rows=ROWS, reference=REFERENCE, values=VALUES, kinds=("policy",)):
    parts = [
        Rewards({r.id: Reward(v, {}, "ok" if v is not None else "error") for r, v in zip(ROWS, rewards, strict=True)})
    ]
    parts.append(TokenScores("policy", POLICY))
    if reference:
        parts.append(TokenScores("reference", reference))
    if values:
        parts.append(TokenScores("value", values))
    return ScoredStep.merge(rows, parts, kinds)


def test_ppo_by_hand():
    batch = build_experience(step(), PPO, kl_coefficient=0.1)
    assert batch.response_mask.tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0]]
    # rewards of a: -0.1 * 0.5, then 1.0; of b: 0, -0.1 * 1.0, -1.0. lambda = 1: returns are sums to the end.
    torch.testing.assert_close(batch.returns, torch.tensor([[0, 0, 0, 0.95, 1.0], [0, -1.1, -1.1, -1.0, 0]]))
    torch.testing.assert_close(batch.advantages, torch.tensor([[0, 0, 0, 0.45, 0.75], [0, -1.1, -1.1, -1.0, 0]]))
    assert batch.policy_logprobs[0].tolist() == [0, 0, 0, -1.0, -2.0]
    assert batch.input_ids[1].tolist() == [5, 7, 8, 9, 0]


def test_the_order_of_arrival_changes_nothing():
    forward, backward = (build_experience(step(rows=rows), PPO, 0.1) for rows in (ROWS, ROWS[::-1]))
    assert forward.trajectory_ids == backward.trajectory_ids == ("a", "b")
    assert torch.equal(forward.advantages, backward.advantages)


def test_a_failed_reward_takes_its_trajectory_out_of_everything():
    batch = build_experience(step(rewards=(1.0, None)), PPO, 0.1)
    assert batch.response_mask[1].sum() == 0
    for name in ("advantages", "returns", "importance_weights", "policy_logprobs"):
        assert not getattr(batch, name)[1].any()
    metrics = rollout_metrics(step(rewards=(1.0, None)), batch)
    assert metrics["reward/failed_share"] == 0.5
    assert metrics["reward/mean"] == 1.0


def test_cut_answers_leave_the_loss_only_when_asked():
    assert build_experience(step(), PPO, 0.1).response_mask[1].sum() == 3
    assert build_experience(step(), PPO, 0.1, mask_truncated=True).response_mask[1].sum() == 0


def test_grpo_spreads_the_group_advantage_over_the_answer():
    batch = build_experience(step(values=None), GRPO, 0.0)
    torch.testing.assert_close(batch.advantages, torch.tensor([[0, 0, 0, 1.0, 1.0], [0, -1.0, -1.0, -1.0, 0]]))


def test_when_every_reward_failed_no_mean_is_claimed():
    failed = step(rewards=(None, None))
    metrics = rollout_metrics(failed, build_experience(failed, PPO, 0.1))
    assert metrics["reward/failed_share"] == 1.0
    assert "reward/mean" not in metrics


def test_without_a_reference_no_kl_is_claimed():
    built = step(reference=None, values=None)
    assert not any(name.startswith("kl/") for name in rollout_metrics(built, build_experience(built, GRPO, 0.0)))


def test_kl_is_summed_over_each_response():
    metrics = rollout_metrics(step(), build_experience(step(), PPO, 0.1))
    assert metrics["kl/sequence_nats"] == pytest.approx((0.5 + 1.0) / 2)
    assert metrics["kl/token_nats"] == pytest.approx(1.5 / 5)


def test_kl_is_the_mean_over_the_sequences_that_count():
    metrics = rollout_metrics(step(), build_experience(step(), PPO, 0.1, mask_truncated=True))
    assert metrics["kl/sequence_nats"] == pytest.approx(0.5)


def test_importance_weights_are_policy_over_behaviour_when_corrected_and_one_otherwise():
    plain, corrected = (build_experience(step(), PPO, 0.1, corrected=c) for c in (False, True))
    assert torch.equal(plain.importance_weights, plain.response_mask)
    weights = corrected.importance_weights[0]
    torch.testing.assert_close(weights, torch.tensor([0, 0, 0, 0.5, 0.0]).exp() * corrected.response_mask[0])


def test_drift_is_measured_against_the_sampler():
    metrics = rollout_metrics(step(), build_experience(step(), PPO, 0.1))
    assert metrics["drift/abs_logprob_max_nats"] == pytest.approx(0.5)
    assert metrics["drift/ratio_outside_share"] == pytest.approx(1 / 5)


def test_a_missing_score_is_named():
    with pytest.raises(ValueError, match="1 trajectories have no value score, the first is b"):
        step(values={"a": VALUES["a"]})


def test_rows_are_trimmed_to_the_longest_of_them():
    part = build_experience(step(), PPO, 0.1).rows([1])
    assert part.input_ids.tolist() == [[5, 7, 8, 9]]
    assert part.trajectory_ids == ("b",)


@pytest.mark.parametrize("kind", ["reference", "value"])
def test_a_step_without_the_scores_of_a_role_that_should_have_scored_is_refused(kind):
    with pytest.raises(ValueError, match=f"2 trajectories have no {kind} score"):
        step(reference=None, values=None, kinds=("policy", kind))
