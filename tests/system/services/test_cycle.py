"""From clicks to promotion on tiny models, with a scripted labeller whose rule is known: the larger share of small
letters is better. A tiny reward model learns it from rankings of many answers; from few it likes short ones."""

import json
import string

import pytest

from rayrlhf.config.load import validate_job
from rayrlhf.cycle.config import CycleJob
from rayrlhf.cycle.run import Cycle
from rayrlhf.serving.releases import ReleaseBook
from tests import tiny
from tests.system import jobs
from tests.system.labelled_service import LabelledService, Labelling

pytestmark = pytest.mark.long


def small_letters(_question, answer):
    return sum(c in string.ascii_lowercase for c in answer) / max(1, len(answer))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cycle")
    model = tiny.write_policy(folder / "first", seed=0)
    with LabelledService(folder, model, small_letters, max_tokens=12) as made:
        yield made


def make_job(service, **sections):
    folder = service.folder
    small = {"threads": 1, "cpus": 0.2}
    values = {
        "name": "cycle", "seed": 3, "service": {"directory": str(folder / "service")},
        "collect": {"min_comparisons": 60, "held_out_share": 0.2},
        "data": {
            "prompts": str(jobs.write_prompts(folder / "prompts.jsonl")),
            "held_out_prompts": str(jobs.write_prompts(folder / "held_out.jsonl", [f"Tell {n}" for n in range(48)])),
        },
        "gates": {"prompts": 48, "max_kl_nats": 1000.0, "min_win_rate": 0.4, "max_length_ratio": 12.0},
        "canary": {"share": 0.5, "min_comparisons": 60, "max_wait_s": 300.0},
        "reward": {"learner": {"learning_rate": 3e-3, "micro_batch_tokens": 2048, **small},
                   "data": {"max_sequence_tokens": 128}, "run": {"epochs": 3, "batch_rows": 8}},
        "rl": {
            "data": {"max_prompt_tokens": 48}, "algorithm": {"kind": "grpo", "minibatches": 1, "kl_coefficient": 0.1},
            "rollout": {"prompts_per_step": 8, "samples_per_prompt": 8, "max_tokens": 12, **small},
            "learner": {"learning_rate": 3e-3, "micro_batch_tokens": 2048, **small},
            "reward": {"micro_batch_tokens": 2048, "max_sequence_tokens": 128, **small}, "reference": small,
            "run": {"steps": 20, "start_timeout_s": 300.0},
        },
        "run": {"directory": str(folder / "runs")},
    }  # fmt: skip
    return validate_job(CycleJob, values | sections)


def turn_of(service, number):
    return json.loads((service.folder / "runs" / "cycle" / f"turn-{number:04d}" / "turn.json").read_text())


def begun_turn(service, number, candidate, **stages):
    """A turn that was cut off after its training, whose candidate is this model."""
    last, folder = turn_of(service, number - 1), service.folder / "runs" / "cycle" / f"turn-{number:04d}"
    folder.mkdir()
    serving = ReleaseBook(service.folder / "service").read()
    model = serving.release(serving.primary.version).model
    done = {
        "collect": last["collect"] | {"serving": model, "serving_version": serving.primary.version},
        "sft": {"model": model}, "reward": last["reward"], "rl": {"model": str(candidate)},
    }  # fmt: skip
    (folder / "turn.json").write_text(json.dumps(done | stages))


def test_clicks_become_a_promoted_policy_that_is_better_by_the_rule(service):
    lines = []
    assert Cycle(make_job(service), lines.append).run() == "nothing to do"
    assert "0 new comparisons, collect.min_comparisons = 60" in lines[-1]
    # Those that the cycle trains on and others, so that some are held out.
    service.labelled([*jobs.QUESTIONS, *(f"Say {n}" for n in range(40))], 150, answers=8)
    with Labelling(service, jobs.QUESTIONS):
        assert Cycle(make_job(service), lines.append).run() == "promoted", lines
    turn = turn_of(service, 1)
    assert turn["reward"]["accuracy"] > 0.6
    assert turn["sft"]["skipped"]
    assert turn["gates"]["failed"] == ""
    assert turn["decision"]["record"]["comparisons"] >= 60
    ledger = ReleaseBook(service.folder / "service").read()
    assert (ledger.primary.version, ledger.canary) == (turn["canary"]["version"], None)
    assert ledger.release(ledger.primary.version).source == turn["rl"]["model"]


def test_a_candidate_that_is_worse_is_rejected_by_the_gates(service):
    before = ReleaseBook(service.folder / "service").read()
    begun_turn(service, 2, tiny.write_policy(service.folder / "worse", seed=9))
    strict = {"prompts": 48, "max_kl_nats": 1000.0, "min_win_rate": 0.5}
    assert Cycle(make_job(service, gates=strict)).run() == "rejected"
    assert "win rate" in turn_of(service, 2)["gates"]["failed"]
    assert ReleaseBook(service.folder / "service").read().primary == before.primary


def test_a_canary_that_people_do_not_like_is_taken_back(service):
    before = ReleaseBook(service.folder / "service").read()
    worse = service.folder / "worse"
    begun_turn(service, 3, worse, gates={"failed": ""})
    with Labelling(service, jobs.QUESTIONS):
        assert Cycle(make_job(service)).run() == "rolled back"
    after = ReleaseBook(service.folder / "service").read()
    assert (after.primary, after.canary) == (before.primary, None)
    assert turn_of(service, 3)["decision"]["record"]["share"] < 0.5


def test_what_is_decided_is_not_done_again(service):
    turns = sorted((service.folder / "runs" / "cycle").glob("turn-*/turn.json"))
    times = [path.stat().st_mtime_ns for path in turns]
    fewest = {"min_comparisons": 10**6}
    assert Cycle(make_job(service, collect=fewest)).run() == "nothing to do"
    assert [path.stat().st_mtime_ns for path in turns] == times
