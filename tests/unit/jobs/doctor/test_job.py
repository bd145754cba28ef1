import pytest

from rayrlhf.config.jobs import RewardJob
from rayrlhf.config.load import validate_job
from rayrlhf.jobs.doctor.findings import Level
from rayrlhf.jobs.doctor.inputs import load_any_job
from rayrlhf.jobs.doctor.job import (
    Need,
    Sight,
    judge_room,
    judge_sights,
    look_at_data,
    look_at_function,
    look_at_model,
    needs_by_role,
    needs_of_node,
)
from rayrlhf.jobs.doctor.party import Room
from rayrlhf.stages.bundles import role_bundles
from rayrlhf.stages.run_directory import to_toml
from tests.system import jobs
from tests.unit.jobs.doctor.findings import level_of, reds


def test_roles_that_do_not_fit_are_red_and_the_keys_are_named(tmp_path):
    bundles = role_bundles(jobs.make(tmp_path, "m", rollout={"workers": 2, "cpus": 3.0}))
    assert reds(judge_room(bundles, [Room("a", 8.0, 0.0)])) == []
    (told,) = reds(judge_room(bundles, [Room("a", 4.0, 0.0)]))
    assert "lower rollout.cpus" in told


def test_gpus_that_are_wanted_and_not_there_are_red(tmp_path):
    bundles = role_bundles(jobs.make(tmp_path, "m", rollout={"gpus": 1.0}, learner={"gpus": 1.0}))
    (told,) = reds(judge_room(bundles, [Room("a", 8.0, 0.0)]))
    assert "need 0.75 CPUs and 2 GPUs for all roles, have 8 CPUs and 0 GPUs" in told


def test_a_label_that_no_node_has_is_red_with_the_option_that_gives_it(tmp_path):
    bundles = role_bundles(jobs.make(tmp_path, "m", reward={"node_labels": {"pool": "b"}}))
    assert reds(judge_room(bundles, [Room("a", 8.0, 0.0, {"pool": "b"})])) == []
    (told,) = reds(judge_room(bundles, [Room("a", 8.0, 0.0, {"pool": "a"})]))
    assert told.startswith("reward: no node with the label pool=b")
    assert 'ray start --labels "pool=b"' in told


def test_a_node_is_asked_only_for_what_may_come_to_it(tmp_path):
    job = jobs.make(tmp_path, "m", rollout={"node_labels": {"pool": "a"}}, learner={"node_labels": {"pool": "a"}})
    rewards = Need("function", "tests.system.jobs:vowels", "reward.function")
    assert needs_of_node(job, role_bundles(job), {}) == (rewards,)
    assert needs_of_node(job, role_bundles(job), {"pool": "a"}) == (Need("model", "m", "model.path"), rewards)


def test_critic_and_reference_start_from_what_the_run_would_give_them(tmp_path):
    job = jobs.make(tmp_path, "m", algorithm={"kind": "ppo"}, reward={"function": None, "model": "r"})
    needs = needs_by_role(job)
    assert needs["critic"] == [Need("model", "r", "reward.model")]
    assert needs["reference"] == [Need("model", "m", "model.path")]


def test_supervised_ranks_read_their_rows_themselves():
    values = {"name": "r", "model": {"path": "m"}, "data": {"comparisons": "c.jsonl", "held_out": "h.jsonl"}}
    needs = needs_by_role(validate_job(RewardJob, values))
    assert [need.key for need in needs["learner"]] == ["model.path", "data.comparisons", "data.held_out"]


def test_a_whole_model_is_readable(tiny_policy):
    assert look_at_model(str(tiny_policy)).trouble == ""


def break_missing(folder):
    (folder / "model.safetensors").unlink()


def break_cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def break_pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def break_config(folder):
    (folder / "config.json").write_text("{")


def break_shard(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')


@pytest.mark.parametrize("damage", [break_missing, break_cut, break_pointer, break_config, break_shard])
def test_a_model_that_is_not_whole_is_red(tmp_path, tiny_policy, damage):
    for file in tiny_policy.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    sight = look_at_model(str(tmp_path))
    need = Need("model", str(tmp_path), "model.path")
    assert "model.path" in reds(judge_sights({"a": [need]}, {"a": [sight]}))[0]


def test_a_path_that_is_missing_is_red_and_a_hub_id_that_is_not_cached_yellow(tmp_path):
    for look, kind in ((look_at_model, "model"), (look_at_data, "data")):
        for value, level in ((str(tmp_path / "none"), Level.RED), ("nobody/nothing", Level.YELLOW)):
            need = Need(kind, value, "key")
            assert level_of(judge_sights({"a": [need]}, {"a": [look(value)]}), "key") is level


def test_copies_that_differ_are_red():
    need = Need("model", "m", "model.path")
    sights = {"a": [Sight(contents="1")], "b": [Sight(contents="2")]}
    assert "is not the same on a / b" in reds(judge_sights({"a": [need], "b": [need]}, sights))[0]


@pytest.mark.parametrize("path", ["tests.system.jobs:nothing", "no_such_module:f", "tests.unit.jobs.doctor.broken:f"])
def test_a_reward_function_that_cannot_be_imported_is_red(path):
    need = Need("function", path, "reward.function")
    assert len(reds(judge_sights({"a": [need]}, {"a": [look_at_function(path)]}))) == 1


def test_the_kind_of_a_job_is_told_from_its_sections(tmp_path):
    job = jobs.make(tmp_path, "m")
    (tmp_path / "job.toml").write_text(to_toml(job))
    assert load_any_job(str(tmp_path / "job.toml"), ["seed=5"]) == job.model_copy(update={"seed": 5})
    for name in ("sft", "reward", "ppo"):
        assert load_any_job(f"examples/{name}.toml", []).name


def test_what_a_growing_cluster_has_not_yet_is_yellow(tmp_path):
    bundles = role_bundles(jobs.make(tmp_path, "m", reward={"node_labels": {"pool": "b"}}))
    small, labelled = [Room("a", 0.1, 0.0)], [Room("a", 0.1, 0.0, {"pool": "b"})]
    assert level_of(judge_room(bundles, small, grows=True), "node labels") is Level.YELLOW
    assert level_of(judge_room(bundles, labelled, grows=True), "room for the roles") is Level.YELLOW
