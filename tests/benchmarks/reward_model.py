"""A reward model from SmolLM2-135M on real human comparisons, beside the baselines that it has to beat.

    RAYRLHF_DATA=<folder with hh_harmless/ and pandalm/> python -m tests.benchmarks.reward_model pandalm

The folder's data sets have `train.jsonl` and `dev.jsonl` in the comparison schema; they are not part of the project.
Further words are overrides, such as `run.epochs=2`.
"""

import os
import sys
import time
from pathlib import Path

from rayrlhf.config.jobs import RewardJob
from rayrlhf.config.load import load_job
from rayrlhf.quickstart.initial_model import write_initial_model
from rayrlhf.stages.reward_model import run_reward

SETTINGS = [
    "data.max_sequence_tokens=256",
    "learner.micro_batch_tokens=2048",
    "learner.learning_rate=2e-5",
    "learner.warmup_steps=3",
    "run.batch_rows=16",
]


def main(arguments: list[str]) -> int:
    root = os.environ.get("RAYRLHF_DATA")
    if not root or not arguments or not (Path(root) / arguments[0] / "dev.jsonl").is_file():
        print(__doc__, "\nRAYRLHF_DATA is unset, or has no such data set.", sep="", file=sys.stderr)
        return 2
    name, folder = arguments[0], Path(root) / arguments[0]
    model = write_initial_model(Path("models") / "smollm2-135m")
    overrides = [
        f"name=benchmark-{name}",
        f"model.path={model}",
        f"data.comparisons={folder / 'train.jsonl'}",
        f"data.held_out={folder / 'dev.jsonl'}",
        *SETTINGS,
        *arguments[1:],
    ]
    started = time.monotonic()
    metrics = run_reward(load_job(RewardJob, "examples/reward.toml", overrides)).metrics
    low, high = metrics["held_out/accuracy_low"], metrics["held_out/accuracy_high"]
    print(
        f"{name}: {metrics['held_out/pairs']:.0f} pairs · reward model {metrics['held_out/accuracy']:.1%} "
        f"[{low:.1%}, {high:.1%}] · bag of words {metrics['held_out/bag_of_words_accuracy']:.1%} · "
        f"the longer wins {metrics['held_out/longer_wins']:.1%} · loss {metrics['held_out/nll']:.3f} nats · "
        f"{(time.monotonic() - started) / 60:.0f} min"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
