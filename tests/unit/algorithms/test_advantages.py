import pytest
import torch

from rayrlhf.algorithms.advantages import gae, group_advantages, token_rewards

T = torch.tensor


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, T(expected), atol=tolerance, rtol=0)


def test_gae_of_a_padded_batch_with_garbage_at_the_padding():
    rewards = T([[-0.01, 0.02, -0.03, 0.0, 1.0], [0.05, -0.02, -0.5, 9.9, -7.7]])
    values = T([[0.5, 0.4, 0.3, 0.6, 0.8], [0.1, 0.2, -0.3, 5.0, -4.0]])
    mask = T([[1.0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    advantages, returns = gae(rewards, values, mask, 1.0, 0.95)
    close(advantages, [[0.392051, 0.528475, 0.6405, 0.39, 0.2], [-0.5245, -0.71, -0.2, 0, 0]])
    close(returns, [[0.892051, 0.928475, 0.9405, 0.99, 1.0], [-0.4245, -0.51, -0.5, 0, 0]])


def test_gae_with_lambda_one_equals_monte_carlo_return_minus_value():
    rewards, values, mask = torch.randn(3, 6), torch.randn(3, 6), torch.ones(3, 6)
    advantages, _ = gae(rewards, values, mask, 1.0, 1.0)
    to_go = rewards.flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(advantages, to_go - values, atol=1e-5, rtol=1e-5)


def test_gae_with_lambda_zero_is_the_one_step_error():
    rewards, values, mask = torch.randn(2, 5), torch.randn(2, 5), torch.ones(2, 5)
    advantages, _ = gae(rewards, values, mask, 0.9, 0.0)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    torch.testing.assert_close(advantages, rewards + 0.9 * following - values)


def test_gae_passes_through_masked_tokens_inside_a_row():
    rewards, values = torch.randn(1, 5), torch.randn(1, 5)
    mask = T([[1.0, 1, 0, 0, 1]])
    with_gap, _ = gae(rewards, values, mask, 0.9, 0.8)
    keep = [0, 1, 4]
    without, _ = gae(rewards[:, keep], values[:, keep], torch.ones(1, 3), 0.9, 0.8)
    torch.testing.assert_close(with_gap[:, keep], without)


def test_token_rewards_clip_the_score_and_not_the_kl():
    policy, reference = T([[-1.0, -2.0, -0.5, -3.0]]), T([[-1.2, -1.5, -0.5, -3.3]])
    mask = T([[1.0, 1, 1, 0]])
    rewards = token_rewards(T([7.0]), policy, reference, mask, 0.02, (-5.0, 5.0))
    close(rewards, [[-0.004, 0.01, 5.0, 0.0]])


def test_token_rewards_of_a_fully_masked_row_are_zero():
    zeros = torch.zeros(1, 3)
    assert token_rewards(T([3.0]), zeros, zeros, zeros, 0.1).abs().sum() == 0


def test_group_advantages_by_hand():
    advantages = group_advantages(T([1.0, 3.0, 10.0, 10.0]), ["a", "a", "b", "b"], epsilon=1e-6)
    close(advantages, [-0.707106, 0.707106, 0.0, 0.0])


def test_group_advantages_do_not_depend_on_the_order_of_rows():
    scores, groups = torch.randn(8), ["a", "b", "a", "c", "b", "c", "a", "c"]
    order = torch.randperm(8)
    shuffled = group_advantages(scores[order], [groups[i] for i in order])
    torch.testing.assert_close(shuffled, group_advantages(scores, groups)[order])


def test_a_group_of_one_and_a_group_without_variance_get_exactly_zero():
    assert group_advantages(T([5.0, 0.1, 0.1, 0.1]), ["a", "b", "b", "b"]).tolist() == [0, 0, 0, 0]


def test_an_unscorable_sample_is_left_out_of_its_group():
    with_nan = group_advantages(T([1.0, float("nan"), 3.0]), ["a", "a", "a"])
    without = group_advantages(T([1.0, 3.0]), ["a", "a"])
    assert with_nan[1] == 0
    torch.testing.assert_close(with_nan[[0, 2]], without)


@pytest.mark.parametrize("normalise", [True, False])
def test_group_advantages_sum_to_zero(normalise):
    scores = torch.randn(12)
    advantages = group_advantages(scores, ["a"] * 5 + ["b"] * 7, normalise_std=normalise)
    assert advantages[:5].sum().abs() < 1e-5
    assert advantages[5:].sum().abs() < 1e-5
