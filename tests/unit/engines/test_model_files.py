import pickle
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from rayrlhf.config.load import load_job
from rayrlhf.config.sections import ModelConfig
from rayrlhf.data.durable import write_digests
from rayrlhf.data.model_files import model_digest
from rayrlhf.engines.model_files import require_weights
from rayrlhf.errors import ConfigError, ModelError
from rayrlhf.stages.reward_model import RewardJob, RewardTask
from rayrlhf.stages.rl import RLJob, prepare
from rayrlhf.stages.sft import SFTJob, SFTTask


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"w": numpy.zeros(8, numpy.float32)}, folder / "model.safetensors")
    write_digests(folder)
    return folder


def refusal(folder, digest=None):
    with pytest.raises(ModelError) as error:
        require_weights(str(folder), digest)
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_pickle_is_named_not_loaded_and_the_way_out_is_said(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    message = refusal(tmp_path)
    assert "pytorch_model.bin is a pickle, which can run code when it is loaded and is never read" in message
    assert "save_pretrained" in message
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_safetensors_is_not_read_and_does_not_matter(model):
    (model / "training_args.bin").write_bytes(pickle.dumps(Bomb(model / "ran")))
    require_weights(str(model))
    assert not (model / "ran").exists()


def test_damage_is_named_with_its_remedy(model):
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert "model.safetensors: not what was exported" in refusal(model)
    assert "remove digests.json if it was changed on purpose" in refusal(model)
    (model / "digests.json").unlink()
    require_weights(str(model))
    (model / "model.safetensors").write_bytes(data[:20])
    assert "model.safetensors: damaged: not a whole safetensors file" in refusal(model)


def test_a_digest_that_is_asked_for_has_to_be_that_of_the_digests(model):
    require_weights(str(model), model_digest(model))
    assert f"and it has {model_digest(model)}" in refusal(model, "0" * 64)
    (model / "digests.json").unlink()
    assert "and there is none" in refusal(model, "0" * 64)
    assert "needs a local directory" in refusal("owner/model", "0" * 64)
    require_weights("owner/model")


def test_a_digest_is_64_hexadecimal_digits():
    with pytest.raises(ConfigError, match=r"model\.digest"):
        load_job(RLJob, "examples/ppo.toml", ["model.digest=abc"])
    assert ModelConfig(path="x").digest is None


@pytest.mark.parametrize(
    ("kind", "example", "begin"),
    [(SFTJob, "sft", SFTTask), (RewardJob, "reward", RewardTask), (RLJob, "grpo", prepare)],
)
def test_every_stage_checks_its_model_before_it_reads_any_of_it(model, kind, example, begin):
    (model / "config.json").write_text("{broken")
    job = load_job(kind, f"examples/{example}.toml", [f"model.path={model}"])
    with pytest.raises(ModelError, match=r"config\.json: not what was exported"):
        begin(job)
