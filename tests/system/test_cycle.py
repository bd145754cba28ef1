"""From clicks to promotion on tiny models, with a scripted labeller whose rule is known: more vowels are better."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import httpx
import psutil
import pytest

from rayrlhf.access.tokens import TokenFile
from rayrlhf.config.load import validate_job
from rayrlhf.cycle.config import CycleJob
from rayrlhf.cycle.run import Cycle
from rayrlhf.serving.releases import ReleaseBook
from tests import tiny
from tests.system import jobs

ROOT = Path(__file__).parents[2]


def vowels(text):
    return sum(c in "aeiou" for c in text)


class Service:
    """`rayrlhf serve` as a process, and a labeller at its API."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.tokens = TokenFile(folder / "tokens.json")
        model = tiny.write_policy(folder / "first", seed=0)
        settings = {
            "directory": folder / "service", "store": folder / "feedback.db", "tokens": folder / "tokens.json",
            "port": self.port, "cpus": 0.4, "dtype": "float32", "max_model_length": 256, "burst": 100_000,
            "requests_per_minute": 1e6,
        }  # fmt: skip
        command = [sys.executable, "-m", "rayrlhf.cli", "serve", str(model), *(f"{k}={v}" for k, v in settings.items())]
        self.log = (folder / "serve.log").open("w+")
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=ROOT, env=environment)
        self.client = self.labeller()

    def labeller(self):
        """A client for somebody who has not labelled yet: there is a cap on what one person does in a day."""
        token = self.tokens.issue(uuid.uuid4().hex, "labeller", 1)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=120)

    def wait(self):
        for _ in range(600):
            assert self.process.poll() is None, self.text()
            if "answers;" in self.text():
                return self
            threading.Event().wait(0.5)
        raise AssertionError(self.text())

    def text(self):
        return (self.folder / "serve.log").read_text()

    def label(self, prompt, client=None, answers=4):
        """Ask for answers and rank them by the rule; whether it made a comparison."""
        wanted = {"messages": [{"role": "user", "content": prompt}], "answers": answers, "max_tokens": 12}
        client = client or self.client
        response = client.post("/v1/tasks", json=wanted)
        if response.status_code == 409:
            return False
        assert response.status_code == 201, response.text
        task = response.json()
        scores = [vowels(answer["text"]) for answer in task["answers"]]
        post = {
            "response_ids": [answer["response_id"] for answer in task["answers"]],
            "ranks": [1 + sum(other > score for other in set(scores)) for score in scores],
            "idempotency_key": uuid.uuid4().hex, "task_id": task["task_id"],
        }  # fmt: skip
        assert client.post("/v1/comparisons", json=post).status_code == 201
        return True

    def end(self):
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.text()
        _, alive = psutil.wait_procs(children, 30)
        assert [p.name() for p in alive] == []


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    made = Service(tmp_path_factory.mktemp("cycle"))
    try:
        yield made.wait()
        made.end()
    finally:
        if made.process.poll() is None:
            made.process.kill()


def make_job(service, **sections):
    folder = service.folder
    small = {"threads": 1, "cpus": 0.2}
    values = {
        "name": "cycle", "seed": 3, "service": {"directory": str(folder / "service")},
        "collect": {"min_comparisons": 60, "held_out_share": 0.2},
        "data": {name: str(jobs.write_prompts(folder / f"{name}.jsonl")) for name in ("prompts", "held_out_prompts")},
        "gates": {"prompts": 8, "max_kl_nats": 1000.0, "min_win_rate": 0.4},
        "canary": {"share": 0.5, "min_comparisons": 60, "max_wait_s": 300.0},
        "reward": {"learner": {"learning_rate": 3e-3, "micro_batch_tokens": 2048, **small},
                   "data": {"max_sequence_tokens": 128}, "run": {"epochs": 3, "batch_rows": 8}},
        "rl": {
            "data": {"max_prompt_tokens": 48}, "algorithm": {"kind": "grpo", "minibatches": 1},
            "rollout": {"prompts_per_step": 8, "samples_per_prompt": 8, "max_tokens": 12, **small},
            "learner": {"learning_rate": 3e-3, "micro_batch_tokens": 2048, **small},
            "reward": {"micro_batch_tokens": 2048, "max_sequence_tokens": 128, **small}, "reference": small,
            "run": {"steps": 20, "start_timeout_s": 300.0},
        },
        "run": {"directory": str(folder / "runs")},
    }  # fmt: skip
    return validate_job(CycleJob, values | sections)


def labelled(service, count):
    """Comparisons of the prompts that the cycle trains on and of others, so that some are held out."""
    prompts = [*jobs.QUESTIONS, *(f"Say {n}" for n in range(40))]
    made = 0
    while made < count:
        made += service.label(prompts[made % len(prompts)])


class Labeller(threading.Thread):
    """Goes on labelling until it is stopped, as people do while a canary is out."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service, self.stopped, self.error = service, threading.Event(), None

    def run(self):
        client = self.service.labeller()
        try:
            for number in range(10_000):
                if self.stopped.wait(0.5):
                    return
                self.service.label(jobs.QUESTIONS[number % len(jobs.QUESTIONS)], client)
        except Exception as error:  # noqa: BLE001 (the test fails with it)
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join(60)
        assert self.error is None


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
    labelled(service, 64)
    with Labeller(service):
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
    strict = {"prompts": 8, "max_kl_nats": 1000.0, "min_win_rate": 0.5}
    assert Cycle(make_job(service, gates=strict)).run() == "rejected"
    assert "win rate" in turn_of(service, 2)["gates"]["failed"]
    assert ReleaseBook(service.folder / "service").read().primary == before.primary


def test_a_canary_that_people_do_not_like_is_taken_back(service):
    before = ReleaseBook(service.folder / "service").read()
    worse = service.folder / "worse"
    begun_turn(service, 3, worse, gates={"failed": ""})
    with Labeller(service):
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
