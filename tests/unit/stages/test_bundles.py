"""What roles reserve, from the config alone."""

import tomllib

from rayrlhf.config.jobs import RLJob, SFTJob
from rayrlhf.config.load import load_job, validate_job
from rayrlhf.loop.progress import config_changes
from rayrlhf.stages.bundles import role_bundles
from rayrlhf.stages.run_directory import to_toml

RL = {
    "name": "run",
    "model": {"path": "m"},
    "data": {"prompts": "p"},
    "algorithm": {"kind": "ppo"},
    "rollout": {
        "workers": 3, "tensor_parallel": 2, "gpus": 1.0, "prompts_per_step": 8, "max_tokens": 8,
        "node_labels": {"pool": "rollout"},
    },
    "learner": {"ranks": 4, "gpus": 1.0, "spread": True, "node_labels": {"example.com/pool": "learner"}},
    "reward": {"function": "a:b", "workers": 2},
    "run": {"steps": 1},
}  # fmt: skip


def test_every_role_of_a_job_has_a_bundle_with_its_labels():
    bundles = {bundle.role: bundle for bundle in role_bundles(validate_job(RLJob, RL))}
    assert set(bundles) == {"rollout", "learner", "reward", "reference", "critic"}
    assert (bundles["rollout"].count, bundles["rollout"].gpus) == (3, 2.0)
    assert bundles["rollout"].labels == {"pool": "rollout"}
    assert bundles["learner"].labels == {"example.com/pool": "learner"}
    assert bundles["learner"].spread
    assert bundles["learner"].together
    assert bundles["critic"].labels == {}


def test_a_supervised_job_has_a_learner_only():
    job = validate_job(SFTJob, {"name": "s", "model": {"path": "m"}, "data": {"demonstrations": "d"}})
    assert [bundle.role for bundle in role_bundles(job)] == ["learner"]


def test_labels_survive_the_run_directory_s_config(tmp_path):
    job = validate_job(RLJob, RL)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(job))
    assert load_job(RLJob, file) == job
    assert "critic" in tomllib.loads(file.read_text())


def test_a_resumed_run_may_be_placed_elsewhere():
    moved = {**RL, "learner": {**RL["learner"], "node_labels": {"pool": "other"}}}
    changes = config_changes(validate_job(RLJob, RL).model_dump(mode="json"), validate_job(RLJob, moved))
    assert not changes.harmful
    assert len(changes.harmless) == 2
