"""`rayrlhf serve` as a process, and scripted people at its API who judge by a rule: for tests and benchmarks."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from itertools import cycle
from pathlib import Path

import httpx
import psutil

from rayrlhf.access.tokens import TokenFile
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


class LabelledService:
    """The process; `rule(question, answer)` says how good an answer is, as people who label would."""

    def __init__(self, folder, model, rule, max_tokens, **settings):
        self.folder, self.rule, self.max_tokens = folder, rule, max_tokens
        self.port = free_port()
        self.tokens = TokenFile(folder / "tokens.json")
        chosen = {
            "directory": folder / "service", "store": folder / "feedback.db", "tokens": folder / "tokens.json",
            "port": self.port, "cpus": 0.4, "dtype": "float32", "max_model_length": 256, "burst": 100_000,
            "requests_per_minute": 1e6,
        }  # fmt: skip
        settings = [f"{key}={value}" for key, value in (chosen | settings).items()]
        command = [sys.executable, "-m", "rayrlhf.cli", "serve", str(model), *settings]
        self.log = (folder / "serve.log").open("w+")
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=ROOT, env=environment)

    def __enter__(self):
        try:
            return self.wait()
        except BaseException:
            self.process.kill()
            raise

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.end()
        finally:
            if self.process.poll() is None:
                self.process.kill()

    def wait(self):
        for _ in range(600):
            assert self.process.poll() is None, self.text()
            if "answers;" in self.text():
                return self
            threading.Event().wait(0.5)
        raise AssertionError(self.text())

    def text(self):
        return (self.folder / "serve.log").read_text()

    def labeller(self):
        """A client for somebody who has not labelled yet: there is a cap on what one person does in a day."""
        token = self.tokens.issue(uuid.uuid4().hex, "labeller", 1)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=300)

    def label(self, prompt, client, answers=4):
        """Ask for answers and rank them by the rule; whether it made a comparison."""
        wanted = {"messages": [{"role": "user", "content": prompt}], "answers": answers, "max_tokens": self.max_tokens}
        response = client.post("/v1/tasks", json=wanted)
        if response.status_code == 409:
            return False
        assert response.status_code == 201, response.text
        task = response.json()
        scores = [self.rule(prompt, answer["text"]) for answer in task["answers"]]
        post = {
            "response_ids": [answer["response_id"] for answer in task["answers"]],
            "ranks": [1 + sum(other > score for other in set(scores)) for score in scores],
            "idempotency_key": uuid.uuid4().hex, "task_id": task["task_id"],
        }  # fmt: skip
        assert client.post("/v1/comparisons", json=post).status_code == 201
        return True

    def labelled(self, prompts, count, answers=4):
        """Collect rankings of this many answers to each of these prompts in turn."""
        client, made = self.labeller(), 0
        for prompt in cycle(prompts):
            made += self.label(prompt, client, answers)
            if made >= count:
                return

    def end(self):
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.text()
        _, alive = psutil.wait_procs(children, 30)
        assert [p.name() for p in alive] == []


class Labelling(threading.Thread):
    """Somebody goes on labelling, as people do while a canary is out; another one every `tasks_each`."""

    def __init__(self, service, prompts, pause_s=0.5, tasks_each=200):
        super().__init__(daemon=True)
        self.service, self.prompts, self.pause_s, self.tasks_each = service, cycle(prompts), pause_s, tasks_each
        self.stopped, self.error = threading.Event(), None

    def run(self):
        try:
            while not self.stopped.is_set():
                client = self.service.labeller()
                for _ in range(self.tasks_each):
                    if self.stopped.wait(self.pause_s):
                        return
                    self.service.label(next(self.prompts), client)
        except Exception as error:  # noqa: BLE001 (the test fails with it)
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join(300)
        assert self.error is None, self.error
