"""A whole turn of the loop on the real model:  python -m tests.benchmarks.cycle_by_rule runs/quickstart/sft/model

Serves the fine-tuned policy of `make quickstart`, has scripted people rank four answers to each prompt by the gold rule
through the service's API, runs `examples/cycle.toml` while they go on labelling, and then compares what serves with
what served, by the rule, on held-out prompts. About half an hour on two cores.
"""

import argparse
import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rayrlhf.config.load import load_job
from rayrlhf.cycle.config import CycleJob
from rayrlhf.cycle.run import Cycle
from rayrlhf.data.rows import read_prompts
from rayrlhf.quickstart.gold_rule import gold_score
from rayrlhf.quickstart.run import ANSWERS, EXAMPLES, compare
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.serving.releases import ReleaseBook
from rayrlhf.stages.generate import answer
from tests.system.labelled_service import LabelledService, Labelling


def rule(question, text):
    """The gold rule, for somebody who sees no finish reason: an answer that ends as a sentence does is finished."""
    return gold_score(RewardRequest(({"role": "user", "content": question},), text, "stop", None, {}))


@contextmanager
def timed(what):
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rankings", type=int, default=130)
    arguments = parser.parse_args()
    questions = [row.messages[-1]["content"] for row in read_prompts(str(EXAMPLES / "data" / "prompts.jsonl"))]
    folder = Path(tempfile.mkdtemp(prefix="cycle-"))
    print(f"everything is in {folder}", flush=True)
    with LabelledService(folder, arguments.model.absolute(), rule, max_tokens=48) as service:
        with timed(f"{arguments.rankings} rankings of four answers"):
            service.labelled(questions, arguments.rankings)
        paths = [f"service.directory={folder / 'service'}", f"run.directory={folder / 'runs'}"]
        job = load_job(CycleJob, EXAMPLES / "cycle.toml", [*paths, "canary.max_wait_s=1800"])
        with timed("the turn"), Labelling(service, questions, pause_s=5.0):
            decision = Cycle(job).run()
        ledger = ReleaseBook(folder / "service").read()
        first, serving = ledger.release(1), ledger.release(ledger.primary.version)
    print(decision, json.dumps(json.loads((folder / "runs/cycle/turn-0001/turn.json").read_text()), indent=1))
    prompts = read_prompts(str(EXAMPLES / "data" / "held_out_prompts.jsonl"))
    before, after = ([group[0] for group in answer(release.model, prompts, ANSWERS)] for release in (first, serving))
    print(f"release {serving.version} against release 1, by the rule: {asdict(compare(after, before))}")


if __name__ == "__main__":
    main()
