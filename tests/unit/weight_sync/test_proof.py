from dataclasses import replace

import pytest

from rayrlhf.errors import WeightSyncError
from rayrlhf.role_types import HeldWeights, SentWeights
from rayrlhf.weight_sync.proof import SyncTolerance, prove_logprobs, prove_weights

SENT = SentWeights({"a.weight": 1, "b.weight": 2}, 10, 1)
HELD = HeldWeights(3, ({"a.weight": 1, "b.weight": 2},), ({"a": 1e-6, "lm_head": 2e-6},))
WANTED = [-1.00001, -2.0]


TOLERANCE = SyncTolerance.of("float32")


def check(held):
    return prove_weights(3, SENT, {0: HELD, 1: held}, TOLERANCE)


def probe(*logprobs):
    return prove_logprobs(3, {0: [-1.0, -2.0], 1: logprobs}, WANTED, TOLERANCE)


def test_equal_weights_are_proven():
    assert check(HELD) == 2e-6
    assert probe(-1.0, -2.0) == pytest.approx(1e-5)


def test_rounding_in_float32_is_no_mismatch():
    """SmolLM2-135M differed by 1.05e-4 nats in one push of many; that has ended a run."""
    assert probe(-1.0, -2.000105) == pytest.approx(1.05e-4)


@pytest.mark.parametrize("logprobs", [(-1.0, -2.002), (-1.0, -2.1), (-1.0, float("nan"))])
def test_another_answer_to_the_probe_is_named(logprobs):
    with pytest.raises(WeightSyncError, match="worker 1, version 3: log-probabilities of the probe differ"):
        probe(*logprobs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "rollout worker 1, version 3: it says that it has version 2"),
        ({"digests": ({"a.weight": 1, "b.weight": 9},)}, "rank 0: tensor b.weight is not what was sent"),
        ({"digests": ({"a.weight": 1},)}, "tensor b.weight"),
        ({"deviations": ({"a": 1e-6, "lm_head": 0.1},)}, "layer lm_head does not compute with the weights"),
        ({"deviations": ({"a": float("nan")},)}, "layer a does not compute"),
    ],
)
def test_every_mismatch_is_named(change, message):
    with pytest.raises(WeightSyncError) as error:
        check(replace(HELD, **change))
    assert message in str(error.value)
