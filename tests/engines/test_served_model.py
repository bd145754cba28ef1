import json
import shutil

import pytest
import torch
from transformers import LlamaForSequenceClassification

from rayrlhf.config.sections import ModelConfig
from rayrlhf.errors import ModelError
from rayrlhf.rewards.model import ModelReward
from rayrlhf.serving.served_model import check_reward_model
from tests import tiny
from tests.unit.rewards.services import requests


@pytest.fixture
def model(tiny_reward_model, tmp_path):
    return shutil.copytree(tiny_reward_model, tmp_path / "reward")


def refusal(path):
    with pytest.raises(ModelError) as error:
        check_reward_model(str(path))
    assert error.value.exit_code == 2
    return str(error.value)


def test_a_reward_model_is_known_by_its_last_names_and_a_digest_of_what_shapes_its_scores(model):
    served = check_reward_model(str(model))
    assert served.model == f"{model.parent.name}/reward"
    (model / "README.md").write_text("anything")
    assert check_reward_model(str(model)) == served
    for file, text in (("reward_normalisation.json", '{"mean": 1.0, "std": 2.0}'), ("chat_template.jinja", "x")):
        (model / file).write_text(text)
        assert check_reward_model(str(model)).digest != served.digest


def test_what_is_not_there_or_no_directory_is_said(model):
    assert "nothing is there" in refusal(model.parent / "nowhere")
    assert "a file is there" in refusal(model / "config.json")
    assert "a URL is there" in refusal("s3://bucket/model")
    assert "has no config.json" in refusal(model.parent)
    shutil.copytree(model, model.parent / "run" / "model")
    assert f"is it {model.parent}/run/model?" in refusal(model.parent / "run")


def test_a_policy_has_no_reward_head(tiny_policy):
    message = refusal(tiny_policy)
    assert "no reward head among its tensors" in message
    assert "serve --role reward needs a sequence-classification model" in message


def test_a_head_has_one_output(tmp_path):
    config = tiny.config()
    config.num_labels = 3
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "three")
    tiny.tokenizer().save_pretrained(tmp_path / "three")
    assert "its head has 3 outputs" in refusal(tmp_path / "three")


def test_pickled_weights_are_none(model):
    torch.save({}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert "no safetensors weights" in refusal(model)


def test_a_model_with_code_of_its_own_is_refused(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "mine.Model"}}))
    assert "code of the model's own (auto_map), which is never run" in refusal(model)


def test_a_model_without_a_chat_template_is_refused(model):
    tiny.tokenizer(template=None).save_pretrained(model)
    (model / "chat_template.jinja").unlink(missing_ok=True)
    assert "no chat template" in refusal(model)


def test_parts_hold_every_request_once_and_fit_the_budget(tiny_reward_model):
    source = ModelReward(str(tiny_reward_model), ModelConfig(path=str(tiny_reward_model)), 128, 64)
    asked = requests(*("x" * n for n in (3, 50, 10, 200, 7)))
    parts = source.parts(asked)
    assert sorted(place for part in parts for place in part) == [0, 1, 2, 3, 4]
    assert len(parts) > 1
    together = source.score(asked)
    for part in parts:
        scores = source.score([asked[place] for place in part])
        assert [s.value for s in scores] == pytest.approx([together[place].value for place in part], abs=1e-5)
