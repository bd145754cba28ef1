import os
import shlex

import pytest

from rayrlhf.errors import ConfigError
from rayrlhf.jobs.submission import SubmitArguments, id_prefix, prepare_submission

TOML = """
name = "small"
[model]
path = "models/policy"
[data]
demonstrations = "data.jsonl"
max_sequence_tokens = 64
[learner]
micro_batch_tokens = 512
[recovery]
grace_s = 7.5
[run]
directory = "/shared/runs"
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory that is the current one."""
    root = tmp_path / "work"
    (root / "models" / "policy").mkdir(parents=True)
    (root / "models" / "policy" / "config.json").write_text("{}")
    (root / "data.jsonl").write_text("{}\n")
    (root / "sft.toml").write_text(TOML)
    monkeypatch.chdir(root)
    return root


def prepare(*overrides, config="sft.toml", **options):
    return prepare_submission(SubmitArguments(config, overrides, **options))


def test_the_job_gets_the_config_as_it_is_written(work):
    submission = prepare("run.epochs=2", "name=other-one")
    assert shlex.split(submission.entrypoint) == [
        "python", "-m", "rayrlhf.cli", "sft", "sft.toml", "run.epochs=2", "name=other-one", "--resume", "auto"
    ]  # fmt: skip
    assert str(work) not in submission.entrypoint


def test_an_override_cannot_break_out_of_the_command(work):
    with pytest.raises(ConfigError):
        prepare("name=x; touch /tmp/y")
    entrypoint = prepare("model.path=a b; touch c").entrypoint
    assert shlex.split(entrypoint)[5] == "model.path=a b; touch c"


def test_the_same_values_have_the_same_id_however_they_are_given(work):
    assert id_prefix("sft.toml", ["run.epochs=2"]) == prepare("run.epochs = 2").prefix
    assert id_prefix("sft.toml", []) == prepare(resume="never").prefix
    assert id_prefix("sft.toml", []) == prepare(config=str(work / "sft.toml")).prefix
    (work / "sft.toml").write_text(TOML + "epochs = 2\n")
    assert id_prefix("sft.toml", []) == id_prefix("sft.toml", ["run.epochs=2"])
    model = '[model]\npath = "models/policy"\n'
    (work / "other.toml").write_text(TOML.replace(model, "") + model)  # in another order
    (work / "sft.toml").write_text(TOML)
    assert id_prefix("other.toml", []) == id_prefix("sft.toml", [])


def test_other_values_have_another_id(work):
    ids = {id_prefix("sft.toml", o) for o in ([], ["seed=1"], ["run.epochs=2"], ["name=x"])}
    assert len(ids) == 4
    assert all(name.startswith("rayrlhf-") for name in ids)


def test_the_same_job_submitted_from_another_place_has_the_same_id(work, tmp_path, monkeypatch):
    here = prepare()
    monkeypatch.chdir(tmp_path)
    there = prepare(config="work/sft.toml", working_directory="work")
    assert (there.prefix, there.entrypoint) == (here.prefix, here.entrypoint)


def test_ray_waits_for_the_save_before_it_kills(work):
    assert int(prepare().env_vars["RAY_JOB_STOP_WAIT_TIME_S"]) >= 7.5 + 10


def test_a_relative_run_directory_is_refused_because_it_would_be_lost(work):
    for where in ("runs", "file://runs", "./x"):
        with pytest.raises(ConfigError, match=r"run\.directory = .* is relative.*be lost"):
            prepare(f"run.directory={where}")
    (work / "sft.toml").write_text(TOML.replace('directory = "/shared/runs"', ""))
    with pytest.raises(ConfigError, match=r"run\.directory = 'runs' is relative"):
        prepare()


@pytest.mark.parametrize("override", [
    "run.directory=s3://user:pass@host/runs", "model.path=https://host/x?X-Amz-Signature=abc", "reward.url=http://t:p@h",
    "data.password=abc", "model.path=https://host/x?token=abc",
])  # fmt: skip
def test_what_looks_like_a_credential_is_refused_and_not_repeated(work, override):
    with pytest.raises(ConfigError, match="looks like a credential") as refused:
        prepare(override)
    for secret in ("pass@", "abc", "t:p"):
        assert secret not in str(refused.value)


def test_a_cluster_of_the_configs_own_is_refused(work):
    with pytest.raises(ConfigError, match=r"run\.ray_address: a submitted job runs on the cluster"):
        prepare("run.ray_address=auto")


def test_what_the_config_names_must_be_uploaded(work, tmp_path):
    (work / ".gitignore").write_text("*.jsonl\n")
    with pytest.raises(ConfigError, match=r"data\.demonstrations = data\.jsonl .* not uploaded: \.gitignore"):
        prepare()
    (work / ".gitignore").write_text("models/\n")
    with pytest.raises(ConfigError, match=r"model\.path = models/policy .* not uploaded"):
        prepare()
    (work / ".gitignore").write_text("*.toml\n")
    with pytest.raises(ConfigError, match="the config is in the working directory, but it is not uploaded"):
        prepare()


def test_a_path_that_leaves_the_working_directory_is_refused(work, tmp_path):
    (tmp_path / "outside.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"data\.demonstrations = \.\./outside\.jsonl leaves the working directory"):
        prepare("data.demonstrations=../outside.jsonl")
    assert prepare("data.demonstrations=models/../data.jsonl").remarks == ()


def test_a_path_that_the_nodes_must_have_is_remarked(work, tmp_path):
    (remark,) = prepare(f"model.path={tmp_path}").remarks
    assert remark == f"model.path = {tmp_path}: not uploaded, so every node of the cluster needs it at this path"


def test_a_data_file_that_is_nowhere_is_found_before_anything_is_sent(work):
    with pytest.raises(ConfigError, match=r"data\.demonstrations = dta\.jsonl: no such file in"):
        prepare("data.demonstrations=dta.jsonl")
    prepare("data.demonstrations=org/dataset", "model.path=org/model")  # hub ids


def test_a_config_outside_the_working_directory_is_refused(work, tmp_path):
    (tmp_path / "other.toml").write_text(TOML)
    with pytest.raises(ConfigError, match=r"other\.toml is not in the working directory"):
        prepare(config="../other.toml")


def test_a_wrong_key_is_found_before_anything_is_sent(work):
    with pytest.raises(ConfigError, match=r"unknown key 'run\.epoch'; did you mean 'run\.epochs'\?"):
        prepare("run.epoch=2")


def test_a_checkpoint_must_be_where_the_cluster_finds_it(work):
    with pytest.raises(ConfigError, match="--resume runs/x: auto, never, an absolute path or a URL"):
        prepare(resume="runs/x")


def test_the_current_directory_is_the_same_afterwards(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare(config="work/sft.toml", working_directory="work")
    assert os.getcwd() == str(tmp_path)
