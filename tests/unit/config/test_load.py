import re
import tomllib
from pathlib import Path

import pytest

from rayrlhf.config.jobs import RewardJob, RLJob, SFTJob
from rayrlhf.config.keys import JOB_MODELS, help_text, job_keys, markdown
from rayrlhf.config.load import load_job
from rayrlhf.cycle.config import CycleJob
from rayrlhf.errors import ConfigError
from rayrlhf.stages.run_directory import to_toml

MINIMAL = """
name = "x"
[model]
path = "m"
[data]
prompts = "p.jsonl"
[algorithm]
kind = "grpo"
[rollout]
prompts_per_step = 4
samples_per_prompt = 4
max_tokens = 48
[reward]
function = "a:b"
[run]
steps = 4
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.max_token=3", "unknown key 'rollout.max_token'; did you mean 'rollout.max_tokens'?"),
        ("learner.rank=2", "did you mean 'learner.ranks'?"),
        ("algorithm.clp_low=1", "did you mean 'algorithm.clip_low'?"),
        ("seed=1.5", "seed = 1.5: input should be a valid integer"),
        ("seed=one", "seed = 'one': input should be a valid integer"),
        ("reward.model=x", "exactly one of reward.model, reward.function and reward.url"),
        ("rollout.max_tokens=99999", "does not fit learner.micro_batch_tokens"),
        ("algorithm.kind=ppoo", "algorithm.kind = 'ppoo': expected one of 'ppo', 'grpo'"),
        ("rollout.samples_per_prompt=1", "set rollout.samples_per_prompt to 2 or more"),
        ("nonsense", "expected section.key=value"),
        ("name=../x", "name = '../x'"),
    ],
)
def test_a_wrong_key_or_value_is_refused_with_its_name(config, override, message):
    with pytest.raises(ConfigError) as error:
        load_job(RLJob, config, [override])
    assert message in str(error.value)


def test_a_missing_file_and_broken_toml_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        load_job(RLJob, tmp_path / "none.toml")
    broken = tmp_path / "b.toml"
    broken.write_text("[model\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_job(RLJob, broken)


def test_overrides_are_applied_and_strings_need_no_quotes(config):
    job = load_job(RLJob, config, ["rollout.max_tokens=64", "model.path=some/where", "algorithm.kind=ppo"])
    assert (job.rollout.max_tokens, job.model.path, job.algorithm.kind) == (64, "some/where", "ppo")


def test_the_resolved_config_loads_back_to_the_same_job(config, tmp_path):
    job = load_job(RLJob, config, ["learner.learning_rate=1e-4", "critic.max_gradient_norm=0.5"])
    again = tmp_path / "again.toml"
    again.write_text(to_toml(job))
    assert load_job(RLJob, again) == job


def test_every_key_has_a_description():
    assert [key.name for model in JOB_MODELS.values() for key in job_keys(model) if not key.description] == []


def test_the_page_of_keys_is_the_one_that_the_models_make():
    page = Path("docs/config.md").read_text()
    assert page == markdown(), "run: python -m rayrlhf.config.keys > docs/config.md"


def test_help_names_every_key_with_its_default():
    text = help_text("rl")
    assert "rollout.max_tokens = required" in text
    assert "algorithm.gae_lambda (ppo) = 0.95" in text
    assert "algorithm.normalise_std (grpo) = true" in text


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "examples").glob("*.toml")), ids=lambda p: p.name)
def test_every_example_loads(path):
    kinds = {"sft": SFTJob, "reward": RewardJob, "cycle": CycleJob}
    kind = kinds.get(path.stem.split("_")[0], RLJob)
    assert load_job(kind, path).name
    assert tomllib.loads(path.read_text())


@pytest.mark.parametrize(
    ("overrides", "corrected"),
    [
        ([], False),
        (["model.dtype=bfloat16"], True),
        (["rollout.max_staleness=1"], True),
        (["algorithm.importance_correction=token_tis"], True),
        (["algorithm.importance_correction=none", "rollout.max_staleness=1"], False),
    ],
)
def test_importance_is_corrected_unless_the_sampler_is_exact(overrides, corrected):
    assert load_job(RLJob, "examples/ppo.toml", overrides).corrects_importance is corrected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("critic.ranks=64", "fewer than algorithm.minibatches x critic.ranks = 128"),
        ("critic.micro_batch_tokens=16", "does not fit critic.micro_batch_tokens = 16"),
        ("reference.micro_batch_tokens=8", "does not fit reference.micro_batch_tokens = 8"),
        ("reward.max_sequence_tokens=4096", "reward.max_sequence_tokens = 4096 does not fit"),
        ("data.held_out=x.jsonl", "data.held_out: rl does not read it"),
        ("learner.gpus=1", "set both to 1 or both to 0"),
        ("learner.gpus=0.5", "set both to 1 or both to 0"),
    ],
)
def test_what_cannot_work_together_is_refused_before_anything_starts(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_job(RLJob, "examples/ppo.toml", [override])


def test_bfloat16_needs_a_sharded_optimizer():
    with pytest.raises(ConfigError, match="zero_stage = 0 cannot be saved"):
        load_job(SFTJob, "examples/sft.toml", ["model.dtype=bfloat16", "learner.zero_stage=0"])


def test_paths_that_exist_become_absolute_and_hub_ids_stay(tmp_path, monkeypatch):
    source = Path("examples/ppo.toml").absolute()
    (tmp_path / "policy").mkdir()
    monkeypatch.chdir(tmp_path)
    job = load_job(RLJob, source, ["model.path=policy", "reward.model=owner/name", "run.directory=elsewhere"])
    assert job.model.path == str(tmp_path / "policy")
    assert job.reward.model == "owner/name"
    assert job.run.directory == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("url", ["s3://bucket/runs", "s3://bucket/a/b/"])
def test_a_run_directory_may_be_a_url(config, url):
    assert load_job(RLJob, config, [f"run.directory={url}"]).run.directory == url.rstrip("/")
    assert load_job(RLJob, config, ["run.directory=file:///somewhere"]).run.directory == "/somewhere"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.directory=nonsense://x", "run.directory = 'nonsense://x': no store is known for nonsense://"),
        ("run.directory=memory://x", "all processes would not see the same"),
        ("run.directory=ftp://host/x", "all processes would not see the same"),
        ("model.path=s3://bucket/model", "model.path = 's3://bucket/model': is a URL, which is not read here"),
        ("data.prompts=gs://bucket/p.jsonl", "data.prompts = 'gs://bucket/p.jsonl': is a URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_its_key(config, override, message):
    with pytest.raises(ConfigError) as error:
        load_job(RLJob, config, [override])
    assert message in str(error.value)


def test_a_client_that_is_not_installed_is_named_with_how_to_install_it(config, monkeypatch):
    def absent(scheme):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("fsspec.get_filesystem_class", absent)
    with pytest.raises(ConfigError, match=r"install gcsfs.*pip install 'rayrlhf\[gcs\]'"):
        load_job(RLJob, config, ["run.directory=gs://bucket/runs"])


def test_credentials_in_a_url_are_refused_and_not_shown(config):
    with pytest.raises(ConfigError, match="without credentials") as error:
        load_job(RLJob, config, ["run.directory=s3://key:hunter2@bucket/runs"])
    assert "hunter2" not in str(error.value)
