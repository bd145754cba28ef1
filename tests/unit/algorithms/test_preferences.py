import pytest
import torch

from rayrlhf.algorithms.preferences import bradley_terry_losses, preference_metrics, ranking_loss, wilson_interval

CHOSEN, REJECTED = torch.tensor([1.2, 0.0, -0.5, 2.0]), torch.tensor([0.7, 0.0, 0.5, -1.0])


def test_bradley_terry_by_hand():
    assert float(bradley_terry_losses(CHOSEN, REJECTED).mean()) == pytest.approx(0.632268, abs=1e-5)
    margin = torch.tensor([0.0, 0.5, 1.0, 1.0])
    assert float(bradley_terry_losses(CHOSEN, REJECTED, margin).mean()) == pytest.approx(0.925502, abs=1e-5)


def test_centering_adds_its_term():
    losses = [ranking_loss(torch.stack([c, r]), [(0, 1)], 0.01) for c, r in zip(CHOSEN, REJECTED, strict=True)]
    assert float(torch.stack(losses).mean()) == pytest.approx(0.643793, abs=1e-5)


def test_bradley_terry_does_not_overflow():
    loss = bradley_terry_losses(torch.tensor([-1e4]), torch.tensor([1e4]))
    assert float(loss) == pytest.approx(2e4)


def test_a_ranking_is_the_mean_over_its_pairs():
    scores = torch.tensor([2.0, 1.0, 0.0])
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(float(bradley_terry_losses(scores[w], scores[loser])) for w, loser in pairs) / 3
    assert float(ranking_loss(scores, pairs)) == pytest.approx(expected)


def test_a_ranking_of_ties_has_no_loss_and_no_gradient():
    scores = torch.tensor([2.0, 1.0], requires_grad=True)
    ranking_loss(scores, []).backward()
    assert scores.grad.tolist() == [0, 0]


def test_accuracy_counts_a_tie_as_one_half():
    lengths = torch.tensor([1, 2, 3, 4])
    metrics = preference_metrics(CHOSEN, REJECTED, lengths, lengths - 1)
    assert metrics.accuracy == pytest.approx(0.625)
    assert metrics.longer_wins == 1.0


def test_a_collapsed_reward_model_is_noticed():
    chosen, rejected = torch.full((100,), 1e-4), torch.zeros(100)
    lengths = torch.ones(100, dtype=torch.long)
    assert preference_metrics(chosen, rejected, lengths, lengths).collapsed
    assert not preference_metrics(chosen * 1e5, rejected, lengths, lengths).collapsed


def test_wilson_interval():
    low, high = wilson_interval(174, 300)
    assert low == pytest.approx(0.523483, abs=1e-5)
    assert high == pytest.approx(0.634494, abs=1e-5)
