import random

import pytest
import torch

from rayrlhf.algorithms.bag_of_words import BagOfWords


def pairs(rng, count):
    """Answers of ten tokens; whoever has the most of tokens 0 to 4 is preferred."""
    made = []
    while len(made) < count:
        a, b = ([rng.randrange(40) for _ in range(10)] for _ in range(2))
        good_a, good_b = (len({t for t in answer if t < 5}) for answer in (a, b))
        if good_a != good_b:
            made.append((a, b) if good_a > good_b else (b, a))
    return made


def test_it_finds_a_rule_that_is_about_words():
    rng = random.Random(0)
    model = BagOfWords.fit(pairs(rng, 400))
    held_out = pairs(rng, 200)
    assert sum(model.score(c) > model.score(r) for c, r in held_out) / 200 > 0.95


def test_one_pair_has_the_weights_that_make_the_gradient_zero():
    """Chosen has token 0, rejected token 1: w = ±x with sigmoid(-2x) = penalty x."""
    model = BagOfWords.fit([([0, 2], [1, 2])], penalty=0.5)
    x = model.score([0])
    assert float(torch.sigmoid(torch.tensor(-2 * x))) == pytest.approx(0.5 * x, abs=1e-4)
    assert model.score([1]) == pytest.approx(-x, abs=1e-5)
    assert model.score([2, 99]) == 0


def test_equal_answers_teach_nothing():
    assert BagOfWords.fit([([1, 2], [2, 1])]).score([1, 2]) == 0
