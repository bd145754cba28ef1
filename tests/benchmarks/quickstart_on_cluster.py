"""The quickstart's PPO through `rayrlhf submit`:  python -m tests.benchmarks.quickstart_on_cluster runs/quickstart

Needs the fine-tuned policy and the reward model that `make quickstart` left in the folder. Starts two Ray nodes that
ask for a token, on this machine; the rollout worker fits on the second one only. Prints what the submission said and
how the run compares to the one that the quickstart made in its own processes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.system.token_cluster import ROOT, TokenCluster, rayrlhf

COMPARED = (
    "reward/mean",
    "kl/sequence_nats",
    "rollout/response_tokens_mean",
    "weight_sync/logprob_difference_max_nats",
)


def submit(quickstart, folder):
    """Submit, and submit again when it is over; the class names of actors by node, and what was said."""
    home = folder / "home"
    home.mkdir(parents=True)
    values = {
        "model.path": quickstart / "sft" / "model",
        "reward.model": quickstart / "reward" / "model",
        "rollout.cpus": 1.2,
        "run.directory": folder / "runs",
    }
    overrides = [f"{key}={value}" for key, value in values.items()]
    cluster = TokenCluster(home)
    try:
        cluster.add_node()
        words = ["submit", "examples/ppo.toml", *overrides, "--address", cluster.address]
        said = []
        for _ in range(2):
            began = time.monotonic()
            done = rayrlhf(*words, home=home, cwd=ROOT, timeout=3000)
            said.append((done.returncode, time.monotonic() - began, (done.stdout + done.stderr).strip().splitlines()))
        nodes = {}
        for actor in cluster.state("actors"):
            nodes.setdefault(actor["node_id"][:8], []).append(actor["class_name"].split(".")[-1])
        return said, nodes
    finally:
        cluster.kill()


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def show(quickstart, run, said, nodes):
    for code, seconds, lines in said:
        print(
            f"exit code {code} after {seconds:.0f} s; its first and last words:",
            *lines[:4],
            "…",
            *lines[-4:],
            sep="\n  ",
        )
    for node, actors in nodes.items():
        print(f"node {node}: {', '.join(sorted(actors))}")
    here, there = rows(quickstart / "ppo"), rows(run)
    for name in COMPARED:
        print(
            f"{name}: {' '.join(f'{row[name]:.4g}' for row in there)}   (quickstart: {here[-1][name]:.4g} at the end)"
        )
    weights, wanted = (load_file(path / "model" / "model.safetensors") for path in (run, quickstart / "ppo"))
    far = max(float((weights[name] - value).abs().max()) for name, value in wanted.items())
    same = all(torch.equal(weights[name], value) for name, value in wanted.items())
    print(f"weights bit by bit those of the quickstart: {same}; the largest difference {far:.2g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("quickstart", type=Path)
    quickstart = parser.parse_args().quickstart.resolve()
    with tempfile.TemporaryDirectory() as folder:
        said, nodes = submit(quickstart, Path(folder))
        show(quickstart, Path(folder) / "runs" / "ppo", said, nodes)


if __name__ == "__main__":
    main()
