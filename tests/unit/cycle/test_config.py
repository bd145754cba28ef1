import pytest

from rayrlhf.cli import main
from rayrlhf.config.load import load_job
from rayrlhf.cycle.config import CycleJob
from rayrlhf.errors import ConfigError


def test_the_example_can_be_run():
    load_job(CycleJob, "examples/cycle.toml").check()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rl.rollout.max_token=3", "rl: unknown key 'rollout.max_token'"),
        ("sft.learner.learning_rate=fast", "sft: learner.learning_rate"),
        ("reward.model.path=x", "reward.model.path: the cycle fills it in"),
        ("rl.name=x", "rl.name: the cycle fills it in"),
        ("canary.share=2", "canary.share"),
        ("gates.max_kl=3", "did you mean 'gates.max_kl_nats'"),
    ],
)
def test_a_wrong_key_of_any_stage_is_found_before_anything_starts(override, words):
    with pytest.raises(ConfigError) as error:
        load_job(CycleJob, "examples/cycle.toml", [override]).check()
    assert words in str(error.value)


def test_without_a_service_the_command_says_how_to_start_one(tmp_path, capsys):
    assert main(["cycle", "examples/cycle.toml", f"service.directory={tmp_path}"]) == 2
    assert "rayrlhf serve starts one" in capsys.readouterr().err
