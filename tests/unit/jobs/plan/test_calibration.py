"""A calibration gives back what it was made from, and is refused on another machine."""

from dataclasses import replace

import pytest

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.plan import calibration, work
from rayrlhf.jobs.plan.calibration import calibrated, fit_all
from rayrlhf.jobs.plan.costs import seconds
from rayrlhf.jobs.plan.geometry import MicroBatch
from rayrlhf.jobs.plan.measuring import Measurements
from tests.unit.jobs.plan.shapes import BILLION, LAPTOP

TRUTH = LAPTOP.all_cores
SHAPES = [
    replace(BILLION, layers=layers, tensors=9 * layers, hidden=hidden, intermediate=3 * hidden, key_value=hidden,
            vocabulary=vocabulary, parameters=13 * layers * hidden**2 + vocabulary * hidden,
            layer_matrices=13 * layers * hidden**2)
    for layers, hidden, vocabulary in ((2, 64, 2048), (8, 128, 2048), (4, 256, 4096), (2, 512, 8192))
]  # fmt: skip


def points(truth, ranks=1, stage=2):
    made = []
    for shape in SHAPES:
        for rows, length in ((4, 32), (16, 48), (16, 128)):
            amount = work.model_pass(shape, MicroBatch(rows, length, rows * length // 2))
            made += [(kind, amount, seconds(amount, truth[kind])) for kind in ("forward", "backward")]
        amount = work.update(shape, ranks, stage)
        made += [(kind, amount, seconds(amount, truth[kind])) for kind in ("update", "snapshot", "write")]
    shared = [{"gathering": work.gathering(s, 2, 4), "reduction": work.reduction(s, 2, stage, 4)} for s in SHAPES]
    per_shape = len(made) // len(SHAPES)
    return [{"kind": k, "work": w, "seconds": t} | shared[i // per_shape] for i, (k, w, t) in enumerate(made)]


def engine_points():
    loads = ((1, 24, 16), (8, 24, 32), (32, 24, 32), (32, 24, 4), (8, 160, 4))
    amounts = [work.generation(s, (prompt,) * n, answer, 64, 4) for s in SHAPES for n, prompt, answer in loads]
    found = [{"kind": "rollout", "work": a, "seconds": seconds(a, TRUTH["rollout"])} for a in amounts]
    pushes = [work.push(s, 4) for s in SHAPES]
    found += [{"kind": "sync", "work": a, "seconds": seconds(a, TRUTH["sync"])} for a in pushes]
    mib = [{"calls": 1, "weights": 4 * s.parameters / 2**20, "vocabulary": s.vocabulary} for s in SHAPES]
    return found + [{"kind": "engine_memory", "work": a, "seconds": 1500 + 3 * a["weights"]} for a in mib]


@pytest.fixture(scope="module")
def measured():
    loop = {
        "phases": {"rollout": 0.9, "score": 0.5, "learn": 0.7, "weight_sync": 0.6, "commit": 0.01, "between": 0.02},
        "memory_mib": {"learner": 700.0, "critic": 600.0, "reference": 550.0, "reward": 600.0, "rollout": 3000.0},
    }
    training = {1: points(LAPTOP.one_thread), 2: points(TRUTH)}
    pairs = {2: points(LAPTOP.one_thread), 3: points(LAPTOP.one_thread, stage=3)}
    crowded = {"phases": dict.fromkeys(loop["phases"], 9.9), "memory_mib": {}}
    return Measurements(training, pairs, engine_points(), [], loop, crowded)


@pytest.fixture(scope="module")
def found(measured):
    return fit_all(measured, "float32", LAPTOP)


def test_the_fit_predicts_its_own_points(found, measured):
    for point in measured.training[2]:
        assert seconds(point["work"], found["all_cores"][point["kind"]]) == pytest.approx(point["seconds"], rel=0.02)
    for point in measured.rollout:
        if point["kind"] == "rollout":
            assert seconds(point["work"], found["all_cores"]["rollout"]) == pytest.approx(point["seconds"], rel=0.02)


def test_what_arithmetic_does_not_explain_is_fixed(found):
    assert 0 < found["fixed"]["rollout"] < 0.9
    assert found["fixed"]["commit"] == pytest.approx(0.01)
    assert found["base_mib"]["learner"] < 700
    assert found["base_mib"]["rollout"] == pytest.approx(3000 - 1024, abs=10)
    assert found["engine_memory"]["weights"] == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize(("seconds", "share"), [(0.0, 0.0), (9.9, 1.5)])
def test_what_roles_cost_each_other_is_a_bounded_share(measured, seconds, share):
    crowded = {"phases": dict.fromkeys(measured.crowded["phases"], seconds), "memory_mib": {}}
    found = fit_all(replace(measured, crowded=crowded), "float32", LAPTOP)
    assert found["crowding"]["learn"] == share


def test_a_file_serves_its_own_machine_and_dtype_only(tmp_path, monkeypatch, measured):
    monkeypatch.setattr(calibration, "measure", lambda dtype, cores, say: measured)
    file = tmp_path / "deep" / "calibration.json"
    calibration.calibrate(file, "float32", LAPTOP, print)
    machine = calibrated(file, "float32", LAPTOP)
    assert not machine.is_estimate
    assert machine.assumptions[0].startswith("calibrated here on")
    assert calibrated(file, "bfloat16", LAPTOP) is None
    assert calibrated(tmp_path / "other.json", "float32", LAPTOP) is None
    with pytest.raises(ConfigError, match="this one has 4"):
        calibrated(file, "float32", replace(LAPTOP, cores=4))
