"""The rule that stands in for people must not be won by length alone, nor by one sentence for everything."""

import pytest

from rayrlhf.data.rows import read_prompts
from rayrlhf.quickstart.gold_rule import gold, gold_score
from rayrlhf.rewards.requests import RewardRequest

QUESTION = "Why do leaves turn red in autumn?"


def request(response, question=QUESTION, finish="stop"):
    return RewardRequest(({"role": "user", "content": question},), response, finish, None, {})


def sentence(words):
    return " ".join(f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(words)) + "."


def test_a_good_answer_has_the_highest_score():
    good = "Leaves turn red in autumn because their green chlorophyll fades and other pigments begin to show."
    assert gold_score(request(good)) == pytest.approx(3.0)


def test_it_is_not_monotone_in_length():
    scores = [gold_score(request(sentence(n))) for n in (2, 20, 58)]
    assert scores[1] > scores[0]
    assert scores[1] > scores[2]


def test_no_fixed_sentence_satisfies_it():
    prompts = read_prompts("examples/data/held_out_prompts.jsonl")
    fixed = "Leaves turn red in autumn because their green chlorophyll fades and other pigments begin to show."
    topics = [gold(request(fixed, p.messages[-1]["content"]))["topic"] for p in prompts]
    assert sum(topics) / len(topics) < 0.1


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (request(sentence(20)), request(sentence(20), finish="length")),
        (request(sentence(20)), request(sentence(20)[:-1])),
        (request("red leaves turn in autumn now and then again."), request("some words that are of no use at all.")),
        (request(sentence(20)), request("so it is " * 7 + ".")),
        (request("yes."), request("")),
    ],
)
def test_each_component_counts(better, worse):
    assert gold_score(better) > gold_score(worse)
