from dataclasses import replace

import pytest

from rayrlhf.errors import WeightSyncError
from rayrlhf.role_types import HeldWeights, SentWeights
from rayrlhf.weight_sync.proof import SyncTolerance, prove

SENT = SentWeights({"a.weight": 1, "b.weight": 2}, 10, 1)
HELD = HeldWeights(3, ({"a.weight": 1, "b.weight": 2},), ({"a": 1e-6, "lm_head": 2e-6},), (-1.0, -2.0))
WANTED = [-1.00001, -2.0]


def check(held):
    return prove(3, SENT, {0: HELD, 1: held}, WANTED, SyncTolerance.of("float32"))


def test_equal_weights_are_proven():
    assert check(HELD).max_logprob_difference_nats == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "rollout worker 1, version 3: it says that it has version 2"),
        ({"digests": ({"a.weight": 1, "b.weight": 9},)}, "rank 0: tensor b.weight is not what was sent"),
        ({"digests": ({"a.weight": 1},)}, "tensor b.weight"),
        ({"deviations": ({"a": 1e-6, "lm_head": 0.1},)}, "layer lm_head does not compute with the weights"),
        ({"deviations": ({"a": float("nan")},)}, "layer a does not compute"),
        ({"probe_logprobs": (-1.0, -2.1)}, "log-probabilities of the probe differ"),
        ({"probe_logprobs": (-1.0, float("nan"))}, "log-probabilities of the probe differ"),
    ],
)
def test_every_mismatch_is_named(change, message):
    with pytest.raises(WeightSyncError) as error:
        check(replace(HELD, **change))
    assert message in str(error.value)
