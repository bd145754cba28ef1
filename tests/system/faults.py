"""The kill matrix: which process is hurt in which phase, and what a run has to show afterwards.

`plan(role)` kills one role in all five phases of one run, each in a step of its own. `check_journal` says that every
trajectory was trained exactly once and all groups are whole. See `docs/reliability.md`.
"""

from rayrlhf.data.journal import Journal
from rayrlhf.runtime.faults import Fault

ROLES = {
    "rollout": ("rollout", 1), "reward": ("reward", 0), "reference": ("reference", 0), "critic": ("critic", 0),
    "learner_0": ("learner", 0), "learner_1": ("learner", 1), "driver": ("driver", 0),
}  # fmt: skip
PHASES = ("rollout", "score", "learn", "weight_sync", "checkpoint")
STEPS = dict.fromkeys(ROLES, 12) | {"rollout": 50}  # while one rollout worker comes up, the other goes on


def plan(name, after_s=0.0):
    """A kill in every phase, in steps 2, 4, 6, … (checkpoints are saved in even steps)."""
    role, rank = ROLES[name]
    return [Fault(role, rank, phase, 2 * i, after_s=after_s) for i, phase in enumerate(PHASES, start=1)]


def check_journal(directory, steps, prompts_per_step, samples):
    """Every id once, every group whole, in every step."""
    journal = Journal(directory)
    assert journal.committed_steps() == list(range(1, steps + 1))
    for step in journal.committed_steps():
        ids = [row["trajectory_id"] for row in journal.rows(step)]
        expected = [f"{step:06d}-{g:05d}-{k:03d}" for g in range(prompts_per_step) for k in range(samples)]
        assert ids == expected
    return journal
