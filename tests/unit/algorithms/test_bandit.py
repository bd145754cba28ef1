"""The strongest tests of the whole objective: algorithms must reach their closed-form fixed points."""

import torch

from rayrlhf.algorithms.experience import ScoredStep, build_experience
from rayrlhf.algorithms.masked import Denominators
from rayrlhf.algorithms.objectives import policy_objective
from rayrlhf.config.sections import GRPOConfig, PPOConfig
from rayrlhf.types import Completion, Prompt, Reward, Rewards, TokenScores, Trajectory, VersionSpan

REFERENCE, REWARD, BETA = torch.tensor([0.5, 0.3, 0.2]), [1.0, 0.0, -1.0], 0.5
ROWS = 1000
OPTIMUM = torch.tensor([0.918672, 0.074597, 0.00673])


def arms(counts, policy, value):
    """One-token answers, each arm as often as the policy would draw it: the expectation instead of a sample."""
    rows, rewards, old, reference, values = [], {}, {}, {}, {}
    for arm, count in enumerate(counts):
        for _ in range(count):
            id_ = f"{len(rows):06d}"
            completion = Completion((arm,), (float(policy[arm].log()),), "stop", (VersionSpan(0, 1, 0),))
            rows.append(Trajectory(id_, "g", len(rows), Prompt("p", (), (7,)), completion))
            rewards[id_] = Reward(REWARD[arm], {}, "ok")
            old[id_], reference[id_] = policy[arm].log().view(1), REFERENCE[arm].log().view(1)
            values[id_] = torch.tensor([value])
    return ScoredStep(
        tuple(rows), Rewards(rewards), TokenScores("policy", old), TokenScores("reference", reference),
        TokenScores("value", values),
    )  # fmt: skip


def train(algorithm, kl, steps, rate):
    logits = REFERENCE.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        policy = logits.detach().softmax(-1)
        counts = (policy * ROWS).round().int().clamp(min=1).tolist()
        baseline = sum(float(policy[a]) * (REWARD[a] - kl * float((policy[a] / REFERENCE[a]).log())) for a in range(3))
        batch = build_experience(arms(counts, policy, baseline), algorithm, kl)
        logprobs = torch.zeros_like(batch.policy_logprobs)
        logprobs[:, 1] = logits.log_softmax(-1)[batch.input_ids[:, 1]]
        terms = policy_objective(
            logprobs, torch.zeros_like(logprobs), batch, algorithm, Denominators.of(batch.response_mask)
        )
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
    return logits.detach().softmax(-1)


def test_the_gradient_at_the_reference_is_the_closed_form():
    algorithm = PPOConfig(kind="ppo", whiten_advantages=False)
    batch = build_experience(arms([1000, 600, 400], REFERENCE, 0.3), algorithm, BETA)
    logits = REFERENCE.log().clone().requires_grad_()
    logprobs = torch.zeros_like(batch.policy_logprobs)
    logprobs[:, 1] = logits.log_softmax(-1)[batch.input_ids[:, 1]]
    terms = policy_objective(
        logprobs, torch.zeros_like(logprobs), batch, algorithm, Denominators.of(batch.response_mask)
    )
    terms.loss.backward()
    torch.testing.assert_close(-logits.grad, torch.tensor([0.35, -0.09, -0.26]), atol=1e-5, rtol=0)


def test_ppo_with_kl_in_the_reward_reaches_the_optimum_of_the_kl_bandit():
    policy = train(PPOConfig(kind="ppo", whiten_advantages=False), BETA, steps=80, rate=0.3)
    assert (policy - OPTIMUM).abs().max() < 0.01


def test_grpo_with_k3_reaches_its_own_fixed_point():
    """With advantages A_a = (r_a - E r) / s and the loss beta * k3 (whose on-policy gradient is that of
    KL(ref || pi)), the stationary point is pi_a (A_a / beta - 1) + ref_a = 0 up to the simplex constraint:
    grad_a = pi_a A_a + beta (ref_a - pi_a) = 0, hence pi_a = beta ref_a / (beta - A_a(pi)).
    """
    beta = 2.0
    algorithm = GRPOConfig(kind="grpo", kl_coefficient=beta, aggregation="token_mean", normalise_std=True)
    policy = train(algorithm, beta, steps=80, rate=0.3)
    reward = torch.tensor(REWARD)
    mean = (policy * reward).sum()
    std = ((policy * (reward - mean) ** 2).sum() * ROWS / (ROWS - 1)).sqrt()
    advantage = (reward - mean) / std
    residual = policy * advantage + beta * (REFERENCE - policy)
    assert residual.abs().max() < 0.01
    assert policy[0] > REFERENCE[0] + 0.05
