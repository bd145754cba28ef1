import hashlib
import json

import pytest

from rayrlhf.data.durable import write_digests
from rayrlhf.data.model_files import damage_of, model_digest, pickles_of


@pytest.fixture
def model(tmp_path):
    for name in ("config.json", "model-1.safetensors", "model-2.safetensors", "chat_template.jinja"):
        (tmp_path / name).write_text(f"content of {name}")
    write_digests(tmp_path)
    return tmp_path


def test_a_whole_model_has_no_damage_and_one_without_digests_is_taken_as_it_is(model):
    assert damage_of(model) is None
    (model / "README.md").write_text("about it")
    assert damage_of(model) is None
    (model / "digests.json").unlink()
    (model / "config.json").write_text("{}")
    assert damage_of(model) is None
    assert model_digest(model) is None


@pytest.mark.parametrize("name", ["config.json", "model-2.safetensors", "chat_template.jinja"])
def test_a_file_that_changed_or_is_missing_is_named(model, name):
    (model / name).write_text(f"Content of {name}")
    assert damage_of(model) == f"{model / name}: not what was exported (digests.json has another digest)"
    (model / name).unlink()
    assert damage_of(model) == f"{model / name}: is missing, and was exported (digests.json lists it)"


@pytest.mark.parametrize("name", ["model-3.safetensors", "adapter_config.json", "vocab.txt"])
def test_a_file_that_was_added_and_would_be_loaded_is_named(model, name):
    (model / name).write_text("more")
    assert damage_of(model) == f"{model / name}: was not exported (digests.json does not list it), and would be loaded"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "[" * 50_000, '{"config.json": 1}', '{"../x": {"bytes": 1, "sha256": ""}}', '{"a": {"bytes": 1}}'],
)
def test_digests_that_are_none_are_damage(model, content):
    (model / "digests.json").write_text(content)
    assert "digests.json: damaged" in damage_of(model)


def test_the_digest_of_the_digests_stands_for_every_file(model):
    before = model_digest(model)
    assert before == hashlib.sha256((model / "digests.json").read_bytes()).hexdigest()
    (model / "config.json").write_text("other")
    write_digests(model)
    assert model_digest(model) != before
    assert set(json.loads((model / "digests.json").read_bytes())) == {
        "config.json", "model-1.safetensors", "model-2.safetensors", "chat_template.jinja",
    }  # fmt: skip


def test_pickles_are_found_by_their_names(model):
    (model / "pytorch_model.bin").touch()
    (model / "optimizer.pt").touch()
    assert pickles_of(model) == ["optimizer.pt", "pytorch_model.bin"]
