"""Small runs, written as the stages write them."""

import json

from rayrlhf.config.jobs import RewardJob, RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.data.journal import Journal
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress
from rayrlhf.observability.events import EventLog
from rayrlhf.observability.trackers import JsonlTracker
from rayrlhf.role_types import SavedFile
from rayrlhf.stages.run_directory import RunDirectory
from rayrlhf.types import Completion, Message, Prompt, Reward, Rewards, Trajectory, VersionSpan


def rl_job(root, steps=6):
    return validate_job(
        RLJob,
        {
            "name": "run",
            "model": {"path": "x"},
            "data": {"prompts": "x"},
            "algorithm": {"kind": "grpo"},
            "rollout": {"prompts_per_step": 4, "samples_per_prompt": 2, "max_tokens": 8},
            "reward": {"function": "x:y"},
            "run": {"directory": str(root), "steps": steps},
        },
    )


def reward_job(root):
    values = {"name": "run", "model": {"path": "x"}, "data": {"comparisons": "x"}, "run": {"directory": str(root)}}
    return validate_job(RewardJob, values)


def metrics(step):
    return {
        "reward/mean": step / 10, "reward/std": 0.5, "kl/sequence_nats": step * 0.1, "policy/loss": -0.01,
        "policy/gradient_norm": float("nan") if step == 3 else 1.0 / step, "rollout/response_tokens_mean": 20.0 - step,
        "time/rollout_s": 2.0, "time/learn_s": 3.0, "memory/learner_0_mib": 900.0, "memory/learner_1_mib": 1024.0,
        "mine/own": float(step), "mine/constant": 7.0,
    }  # fmt: skip


def answers(step, texts, words="why?", name="a"):
    """(trajectories, rewards, responses) of one step, a reward for each text or None."""
    found, rewards, responses = [], {}, {}
    for number, (text, reward) in enumerate(texts.items()):
        completion = Completion((5,), (-0.5,), "stop", (VersionSpan(0, 1, step - 1),))
        prompt = Prompt(f"p{number}", (Message(role="user", content=words),), (1,), f"reference of {text}")
        written = Trajectory(f"{step:06d}-{number:05d}-000", f"{step:06d}-{number:05d}", 0, prompt, completion)
        found.append(written)
        rewards[written.id] = Reward(reward, {name: reward or 0.0}, "error" if reward is None else "ok")
        responses[written.id] = text
    return found, Rewards(rewards), responses


def checkpoint(directory, step):
    store = CheckpointStore(directory.checkpoints, 2, {})
    store.complete(store.begin(step), Progress(step, step, 0.0), {"policy/shard": SavedFile("shard", 2048, "0" * 64)})


def rl_run(root, steps=6, done=6, end="finished"):
    """A run of `steps` steps of which `done` are done, that ended as `end` says."""
    job = rl_job(root, steps)
    directory = RunDirectory(root / job.name)
    directory.create(job)
    events, tracker, journal = (
        EventLog(directory.events),
        JsonlTracker(directory.metrics),
        Journal(directory.trajectories),
    )
    events.note("started", "started", step=0, steps=steps)
    for step in range(1, done + 1):
        events.under_way("rollout", step)
        if step == 4:
            events.record("failure", "learner 0 died in learn of step 4: restart")
        tracker.log(step, metrics(step), [])
        journal.commit(step, *answers(step, {f"good {step}": 0.9, f"fair {step}": 0.5, f"bad {step}": -0.3}))
    if done >= 4:
        checkpoint(directory, 4)
        journal.reject("000002-00001", "p1", "it crashed two workers")
    if end == "finished":
        directory.model.mkdir()
        (directory.model / "config.json").write_text("{}")
    if end:
        events.note(end, f"{end}: because of this")
    return directory


def reward_run(root):
    job = reward_job(root)
    directory = RunDirectory(root / job.name)
    directory.create(job)
    tracker = JsonlTracker(directory.metrics)
    for step in (1, 2, 3):
        row = {"reward_model/loss_nats": 0.7 - step / 10, "training/learning_rate": 1e-5 / step, "time/step_s": 2.0}
        tracker.log(step, row, [])
    measured = {"held_out/accuracy": 0.75, "held_out/accuracy_low": 0.5, "held_out/accuracy_high": 0.875}
    directory.result.write_text(json.dumps(measured))
    return directory
