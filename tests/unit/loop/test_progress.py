import pytest

from rayrlhf.config.jobs import RLJob, SFTJob
from rayrlhf.config.load import load_job
from rayrlhf.loop.progress import Progress, config_changes, sample_seed


def changes(overrides, before=(), kind=RLJob, example="ppo"):
    saved, now = (load_job(kind, f"examples/{example}.toml", (*before, *more)) for more in ((), overrides))
    return config_changes(saved.model_dump(mode="json"), now)


def test_progress_moves_one_step_at_a_time():
    assert Progress(2, 2, 0.1).after_step(0.2) == Progress(3, 3, 0.2)


def test_an_unchanged_config_has_no_changes():
    assert changes([]).harmless == changes([]).harmful == ()


def test_what_a_job_uploaded_is_the_same_on_another_cluster():
    place = "model.path=/tmp/ray/session_{}/runtime_resources/working_dir_files/_ray_pkg_{}/{}"
    first = [place.format("2026-01-01_1", "0a1b2c3d", "models/policy")]
    assert changes([place.format("2026-01-02_7", "99887766", "models/policy")], first).harmful == ()
    assert len(changes([place.format("2026-01-01_1", "0a1b2c3d", "models/other")], first).harmful) == 1
    assert len(changes(["model.path=/elsewhere/models/policy"], first).harmful) == 1


@pytest.mark.parametrize(
    "override",
    ["run.steps=99", "run.directory=elsewhere", "name=other", "learner.ranks=2", "learner.zero_stage=3",
     "rollout.workers=2", "recovery.max_failures=9", "data.prompts=moved.jsonl",
     "critic.micro_batch_tokens=2048", "checkpoint.every_steps=1", "reward.timeout_s=5.0", "rollout.threads=1"],
)  # fmt: skip
def test_what_does_not_shape_results_may_change_and_is_listed(override):
    found = changes([override])
    assert found.harmful == ()
    assert found.harmless[0].startswith(f"{override.partition('=')[0]} was ")


@pytest.mark.parametrize(
    "override",
    ["seed=8", "learner.learning_rate=1e-4", "algorithm.kl_coefficient=0.5", "rollout.max_tokens=32",
     "critic.betas=[0.8, 0.9]", "model.path=other", "data.pretraining=other.jsonl", "critic.model=other"],
)  # fmt: skip
def test_what_shapes_results_may_not_and_is_named(override):
    (change,) = changes([override]).harmful
    assert change.startswith(f"{override.partition('=')[0]} was ")


def test_the_steps_of_a_run_shape_its_schedule():
    assert changes(["run.steps=99"], before=["learner.schedule=cosine"]).harmful


@pytest.mark.parametrize("override", ["run.epochs=2", "run.batch_rows=4"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_finished_supervised_stage_is_not_taken_for_one_with_other_steps(override, schedule):
    assert changes([override], [f"learner.schedule={schedule}"], SFTJob, "sft").harmful


def test_seeds_of_samples_differ_and_repeat():
    seeds = {sample_seed(run, f"{step:06d}-00000", k) for run in (1, 2) for step in (1, 2) for k in range(8)}
    assert len(seeds) == 32
    assert sample_seed(1, "000001-00000", 0) == sample_seed(1, "000001-00000", 0)
