import math

import pytest
import torch

from rayrlhf.algorithms.kl import AdaptiveKL, kl_estimate
from rayrlhf.algorithms.losses import (
    clip_fraction_indicator,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    truncated_importance_weights,
)
from rayrlhf.algorithms.masked import Denominators, aggregate, masked_mean, whiten

T = torch.tensor
RATIOS, ADVANTAGES = [1.5, 0.5, 1.5, 0.5, 1.1, 4.0], [1.0, 1.0, -1.0, -1.0, 2.0, -1.0]


def close(actual, expected):
    torch.testing.assert_close(actual, T(expected), atol=1e-5, rtol=0)


def test_clipped_policy_loss_by_hand():
    logprobs, old, advantages = T(RATIOS).log(), torch.zeros(6), T(ADVANTAGES)
    losses = clipped_policy_loss(logprobs, old, advantages)
    close(losses, [-1.2, -0.5, 1.5, 0.8, -2.2, 4.0])
    close(losses.mean(), 0.4)
    close(clip_fraction_indicator(logprobs, old, advantages, (0.2, 0.2)).mean(), 1 / 3)


def test_dual_clip_bounds_the_loss_of_bad_tokens():
    losses = clipped_policy_loss(T(RATIOS).log(), torch.zeros(6), T(ADVANTAGES), dual_clip=3.0)
    close(losses, [-1.2, -0.5, 1.5, 0.8, -2.2, 3.0])


def test_policy_gradient_at_ratio_one_is_minus_the_advantage():
    logprobs = torch.randn(5, requires_grad=True)
    advantages = torch.randn(5)
    clipped_policy_loss(logprobs, logprobs.detach(), advantages).sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


def test_kl_estimators_and_their_gradients():
    logprobs, reference = T([-1.0, -2.0, -0.5, -3.0]), T([-1.2, -1.5, -0.5, -4.0])
    expected = {
        "k1": ([0.2, -0.5, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
        "k2": ([0.02, 0.125, 0.0, 0.5], [0.2, -0.5, 0.0, 1.0]),
        "k3": ([0.018731, 0.148721, 0.0, 0.367879], [0.181269, -0.648721, 0.0, 0.632121]),
    }
    for estimator, (value, gradient) in expected.items():
        leaf = logprobs.clone().requires_grad_()
        estimate = kl_estimate(leaf, reference, estimator)
        estimate.sum().backward()
        close(estimate.detach(), value)
        close(leaf.grad, gradient)


def test_adaptive_kl_moves_towards_its_target():
    controller, coefficient = AdaptiveKL(6.0, 10_000), 0.15
    for kl, expected in [(9.0, 0.151536), (6.5, 0.152183), (2.0, 0.150624), (6.0, 0.150624)]:
        coefficient = controller.update(coefficient, kl, 512)
        assert coefficient == pytest.approx(expected, abs=1e-6)


def test_loss_aggregations_by_hand():
    losses = T([[1.0, 2, 3, 4], [2, 0, 0, 0], [0, 0, 0, 0]])
    mask = T([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    counts = Denominators.of(mask)
    close(aggregate(losses, mask, "token_mean", counts), 2.4)
    close(aggregate(losses, mask, "sequence_mean_token_sum", counts), 6.0)
    close(aggregate(losses, mask, "sequence_mean_token_mean", counts), 2.25)
    close(aggregate(losses, mask, "sequence_mean_token_sum_norm", counts, max_length=4), 3.0)
    close(aggregate(losses, mask, "sequence_sum_norm", Denominators(counts.tokens, 3), max_length=4), 1.0)


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean_token_sum", "sequence_mean_token_mean"])
def test_splitting_a_batch_changes_no_aggregation(how):
    losses, mask = torch.randn(6, 5), (torch.rand(6, 5) > 0.4).float()
    counts = Denominators.of(mask)
    whole = aggregate(losses, mask, how, counts)
    parts = sum(aggregate(losses[i : i + 2], mask[i : i + 2], how, counts) for i in (0, 2, 4))
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean_token_sum", "sequence_mean_token_mean"])
def test_a_masked_token_gets_zero_gradient_even_when_it_is_nan(how):
    losses = torch.randn(2, 3)
    losses[0, 1] = math.nan
    losses.requires_grad_()
    mask = T([[1.0, 0, 1], [1, 1, 0]])
    aggregate(losses, mask, how, Denominators.of(mask)).backward()
    assert losses.grad[0, 1] == 0
    assert losses.grad[1, 2] == 0
    assert torch.isfinite(losses.grad).all()


def test_clipped_value_loss_by_hand():
    loss = clipped_value_loss(T([1.0, 0.0]), T([0.5, 0.0]), T([2.0, 0.0]), 0.2)
    close(loss, [0.5 * (0.7 - 2.0) ** 2, 0.0])


def test_truncated_importance_weights():
    log_ratio = T([[math.log(3), math.log(0.1), 0.0, math.log(1.5)], [0.2, 0.2, 0.2, 9.0]])
    mask = T([[1.0, 1, 1, 1], [1, 1, 1, 0]])
    weights = truncated_importance_weights(log_ratio, torch.zeros_like(log_ratio), mask, 2.0)
    close(weights, [[2.0, 0.1, 1.0, 1.5], [1.221403, 1.221403, 1.221403, 0.0]])


def test_whitened_advantages_have_mean_zero_and_variance_one_on_valid_tokens():
    values, mask = torch.randn(4, 7) * 3 + 2, (torch.rand(4, 7) > 0.3).float()
    white = whiten(values, mask)
    assert masked_mean(white, mask).abs() < 1e-5
    assert white[mask > 0].std() == pytest.approx(1, abs=1e-4)
    assert white[mask == 0].abs().sum() == 0


def test_explained_variance_is_one_for_perfect_values_and_zero_for_a_constant():
    returns, mask = torch.randn(3, 4), torch.ones(3, 4)
    assert explained_variance(returns, returns, mask) == pytest.approx(1)
    assert explained_variance(torch.zeros(3, 4), returns, mask) == pytest.approx(0)
