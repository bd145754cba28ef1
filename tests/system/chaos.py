"""Faults on purpose against whole runs with the real engines: the tool behind `make chaos` and the kill tests.

    python -m tests.system.chaos --seed 1 --random 100        all 35 kills of the matrix, then 100 random ones

A campaign is a list of faults against one run of a tiny PPO job (two rollout workers, two learner ranks, critic,
reference, reward model). Each driver kill is followed by one `--resume auto`. Afterwards the run is compared with an
undisturbed one: ids, groups, tokens, and the digest of the weights after every step. See docs/reliability.md.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from rayrlhf.data.journal import Journal
from rayrlhf.runtime.faults import Fault
from rayrlhf.stages.run_directory import RunDirectory, to_toml
from tests import tiny
from tests.system import faults, jobs

ROOT = Path(__file__).parents[2]
MARK = "RAYRLHF_CHAOS_RUN"
PROMPTS, SAMPLES = 4, 4


def make_job(folder, policy, reward_model, steps):
    small = {"threads": 1, "micro_batch_tokens": 256, "cpus": 0.1}
    return jobs.make(
        folder, policy,
        algorithm={"kind": "ppo", "kl_coefficient": 0.05, "minibatches": 2},
        rollout={"workers": 2, "prompts_per_step": PROMPTS, "samples_per_prompt": SAMPLES, "cpus": 0.1},
        learner={"ranks": 2, "zero_stage": 3, "cpus": 0.1},
        critic={"zero_stage": 2, "learning_rate": 1e-2, **small},
        reference=small,
        reward={"function": None, "model": str(reward_model), "cpus": 0.1, "threads": 1},
        checkpoint={"every_steps": 2},
        weight_sync={"timeout_s": 60.0, "bucket_mib": 1},
        recovery={"backoff_s": 0.1, "max_failures": 5},
        run={"steps": steps, "phase_timeout_s": 120.0, "start_timeout_s": 300.0},
    )  # fmt: skip


@dataclass
class Outcome:
    """What a campaign showed; `digests` are the weights after each step."""

    directory: RunDirectory
    tokens: dict[str, tuple[int, ...]]
    digests: dict[int, float]
    launches: int
    seconds: float
    events: list = field(default_factory=list)
    survivors: list = field(default_factory=list)
    driver_recoveries: list = field(default_factory=list)


def run(folder, policy, reward_model, steps, plan=()):
    """One campaign to its end; raises AssertionError where the run does not end by itself."""
    folder.mkdir(parents=True)
    job = make_job(folder, policy, reward_model, steps)
    config = folder / "job.toml"
    config.write_text(to_toml(job))
    waiting, launches, started, recoveries = list(plan), 0, time.monotonic(), []
    mark = uuid.uuid4().hex
    while True:
        launches += 1
        first_driver = next((i for i, fault in enumerate(waiting) if fault.role == "driver"), len(waiting))
        now, waiting = waiting[: first_driver + 1], waiting[first_driver + 1 :]
        code, first_step_s = launch(config, now, mark, folder / "log.txt")
        if launches > 1:
            recoveries.append(first_step_s)
        if code == 0:
            break
        assert code == -9, f"exit code {code}: {(folder / 'log.txt').read_text()[-3000:]}"
    outcome = look(RunDirectory(folder / "runs" / "run"), steps, launches, time.monotonic() - started)
    outcome.survivors, outcome.driver_recoveries = survivors(mark), recoveries
    return outcome


def launch(config, plan, mark, log):
    """Run the command; returns its exit code and the seconds to its first new step."""
    environment = {**os.environ, MARK: mark, "RAYRLHF_FAULTS": json.dumps([asdict(fault) for fault in plan])}
    command = [str(Path(sys.executable).with_name("rayrlhf")), "rl", str(config), "--resume", "auto"]
    rows = config.parent / "runs" / "run" / "metrics.jsonl"
    before, first, started = len(_lines(rows)), None, time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        while process.poll() is None:
            time.sleep(0.1)
            if first is None and len(_lines(rows)) > before:
                first = time.monotonic() - started
    return process.returncode, first or time.monotonic() - started


def survivors(mark, wait_s=30.0):
    """Processes of the run that are still there after `wait_s` seconds."""
    deadline = time.monotonic() + wait_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [" ".join(process.cmdline())[:100] for process in left]


def marked(mark):
    """Every process that was started, at whatever remove, with this mark in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def look(directory, steps, launches, seconds):
    """Read what a finished run left; its journal must be whole."""
    journal = faults.check_journal(directory.trajectories, steps, PROMPTS, SAMPLES)
    rows = [json.loads(line) for line in _lines(directory.metrics)]
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    digests = {row["step"]: row["weight_sync/weights_digest"] for row in rows if "weight_sync/weights_digest" in row}
    return Outcome(directory, tokens(journal), digests, launches, seconds, jobs.events(directory))


def tokens(journal: Journal):
    return {
        row["trajectory_id"]: tuple(row["response_token_ids"])
        for step in journal.committed_steps()
        for row in journal.rows(step)
    }


def compare(outcome, undisturbed):
    """(flipped samples, steps whose weights differ although all tokens up to them are the same)."""
    wanted = {id_: undisturbed.tokens[id_] for id_ in outcome.tokens}
    flipped = sorted(id_ for id_, found in outcome.tokens.items() if found != wanted[id_])
    last_same = min((int(id_[:6]) for id_ in flipped), default=10**9) - 1
    wrong = [s for s, d in outcome.digests.items() if s <= last_same and d != undisturbed.digests[s]]
    origin = [id_ for id_ in flipped if id_[:6] == flipped[0][:6]] if flipped else []
    return origin, wrong


def matrix_campaigns():
    """One campaign a role: a kill in each phase. Rollout workers take turns, so that the run waits for each."""
    for name in faults.ROLES:
        role, rank = faults.ROLES[name]
        ranks = [1, 0, 1, 0, 1] if role == "rollout" else [rank] * len(faults.PHASES)
        plan = [Fault(role, ranks[i], phase, 2 + 2 * i, after_s=0.05) for i, phase in enumerate(faults.PHASES)]
        yield name, plan, 4 + 2 * len(plan)


def random_campaigns(seed, each=25, apart=3):
    """Campaigns of `each` kills without an end, every `apart` steps, anywhere within a phase."""
    draw = random.Random(seed)
    for number in itertools.count(1):
        plan = []
        for i in range(each):
            role, rank = draw.choice(list(faults.ROLES.values()))
            rank = draw.randrange(2) if role in ("rollout", "learner") else rank
            plan.append(Fault(role, rank, draw.choice(faults.PHASES), 2 + apart * i, after_s=draw.uniform(0.0, 0.6)))
        yield f"random {number}", plan, 2 + apart * each


def campaigns(arguments, table):
    """The matrix, then random campaigns until so many kills have happened."""
    if not arguments.no_matrix:
        yield from matrix_campaigns()
    before = sum(table.kills.values())
    for campaign in random_campaigns(arguments.seed):
        if sum(table.kills.values()) - before >= arguments.random:
            return
        yield campaign


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=100, help="random kills after the matrix")
    parser.add_argument("--no-matrix", action="store_true")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs go; unset: a temporary folder")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="rayrlhf-chaos-"))
    policy, reward_model = tiny.write_policy(folder / "policy"), tiny.write_reward_model(folder / "reward")
    longest = max(steps for _, _, steps in [*matrix_campaigns(), next(random_campaigns(arguments.seed))])
    undisturbed = run(folder / "undisturbed", policy, reward_model, longest)
    print(f"undisturbed: {longest} steps in {undisturbed.seconds:.0f} s", flush=True)
    table = Table()
    for number, (name, plan, steps) in enumerate(campaigns(arguments, table)):
        outcome = run(folder / f"{number:02d}", policy, reward_model, steps, plan)
        table.add(name, outcome, *compare(outcome, undisturbed))
    table.print()
    return table.failures


class Table:
    """Collects outcomes; prints what docs/reliability.md shows."""

    def __init__(self):
        self.recovery_s, self.kills, self.phases, self.failures, self.flips = {}, {}, {}, 0, 0

    def add(self, name, outcome, flipped, wrong):
        kills = [event for event in outcome.events if event["event"] == "fault"]
        for event in kills:
            self.kills[event["role"]] = self.kills.get(event["role"], 0) + 1
            self.phases[event["phase"]] = self.phases.get(event["phase"], 0) + 1
        for event in outcome.events:
            if event["event"] == "recovered":
                self.recovery_s.setdefault(event["role"], []).append(event["took_s"])
        self.recovery_s.setdefault("driver", []).extend(outcome.driver_recoveries)
        self.flips += len(flipped)
        failed = bool(wrong or outcome.survivors)
        self.failures += failed
        print(
            f"{name}: {len(kills)} kills, {outcome.launches} launches, {outcome.seconds:.0f} s, "
            f"flipped {flipped or 0}, weights differ at {wrong or 'no step'}, left over {outcome.survivors or 'none'}",
            flush=True,
        )

    def print(self):
        print("\n| role | kills | recoveries | median s | worst s |\n|---|---|---|---|---|")
        for role in sorted(self.kills):
            took = self.recovery_s.get(role) or [float("nan")]
            print(f"| {role} | {self.kills[role]} | {len(took)} | {statistics.median(took):.1f} | {max(took):.1f} |")
        print(f"\nby phase: {self.phases}")
        print(f"flipped samples: {self.flips}; campaigns that failed: {self.failures}")


def _lines(path):
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    sys.exit(min(main(), 1))
