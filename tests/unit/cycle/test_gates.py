import json
import math
from dataclasses import replace

import pytest

from rayrlhf.cycle.config import CanaryConfig, GateConfig
from rayrlhf.cycle.gates import canary_record, evidence, failed, gates_of
from rayrlhf.stages.evaluate import win_rate
from rayrlhf.stages.policy_comparison import PolicyComparison, is_refusal
from tests.unit.feedback.people import ask, ranking, service_at

GOOD = PolicyComparison(win_rate([1.0] * 40, [0.0] * 40, [0] * 40), 5.0, 1.1, 0.0, 0.0, 2.0, 2.0, ())


def test_a_good_candidate_passes_and_its_numbers_are_written_down():
    gates = gates_of(GOOD, GateConfig())
    assert failed(gates) == ""
    assert len(gates) == 5
    written = json.loads(json.dumps(evidence(GOOD, gates), allow_nan=False))
    assert written["measured"]["win"]["share"] == 1.0


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"win": win_rate([1.0, 0.0] * 20, [0.5] * 40, [0] * 40)}, "win rate"),
        ({"kl_nats": 31.0}, "KL"),
        ({"kl_nats": math.nan}, "KL"),
        ({"length_ratio": 2.1}, "length"),
        ({"length_ratio": 0.4}, "length"),
        ({"refusals": 0.1}, "rise of refusals"),
        ({"capability_nats": 2.2}, "capability"),
        ({"capability_nats": math.nan}, "capability"),
    ],
)
def test_each_gate_stays_shut_by_itself_and_says_what_was_found_and_wanted(changes, gate):
    words = failed(gates_of(replace(GOOD, **changes), GateConfig()))
    assert words.startswith(gate)
    assert "wanted" in words
    assert ";" not in words


def test_without_demonstrations_there_is_no_capability_gate():
    found = replace(GOOD, capability_nats=math.nan, serving_capability_nats=math.nan)
    gates = gates_of(found, GateConfig())
    assert [gate.name for gate in gates if "capability" in gate.name] == []
    assert failed(gates) == ""
    json.dumps(evidence(found, gates), allow_nan=False)


def test_a_canary_is_judged_by_its_pairs_with_the_serving_policy(tmp_path):
    with service_at(str(tmp_path / "feedback.db"), tmp_path) as service:
        old = ask(service, "Why?", "old 1", "old 2", version=1)
        new = ask(service, "Why?", "new 1", "new 2", version=2)
        other = ask(service, "Why?", "older", version=0)
        service.comparison(ranking([old[0], new[0], new[1]], [2, 1, 3]), "ada")
        service.comparison(ranking([old[1], new[1]], [1, 1]), "ada")
        service.comparison(ranking([other[0], new[0]], [1, 2]), "ada")
        record = canary_record(service.store.snapshot(), canary=2, primary=1)
    assert (record.comparisons, record.share) == (3, 0.5)
    assert record.low < 0.5 < record.high
    assert record.verdict(CanaryConfig(min_comparisons=4)) is None
    assert record.verdict(CanaryConfig(min_comparisons=3, min_win_rate=0.5)) is True
    assert record.verdict(CanaryConfig(min_comparisons=3, min_win_rate=0.51)) is False


def test_a_canary_that_nobody_judged_has_no_verdict(tmp_path):
    with service_at(str(tmp_path / "feedback.db"), tmp_path) as service:
        record = canary_record(service.store.snapshot(), canary=2, primary=1)
    assert record.comparisons == 0
    assert record.verdict(CanaryConfig()) is None


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't help.", "I cannot do that.", "As an AI model, …", "I’m unable"]
)
def test_refusals_are_known_by_how_they_begin(text):
    assert is_refusal(text)
    assert not is_refusal(f"The answer is four, and here is a long explanation of why that is so: {'x' * 50} {text}")


def test_an_answer_that_is_no_refusal_is_none():
    assert not is_refusal("Air scatters blue light most. You can see it at noon.")
