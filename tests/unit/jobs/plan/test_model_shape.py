"""Shapes from files: the counts are those of the model that would be loaded."""

import json

import pytest

from rayrlhf.errors import ModelError
from rayrlhf.jobs.plan.model_shape import read_shape, shape_of


def test_a_directory_is_read_without_torch_and_counts_as_the_model_does(tiny_policy):
    from transformers import AutoModelForCausalLM

    model, shape = AutoModelForCausalLM.from_pretrained(tiny_policy), read_shape(str(tiny_policy))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.hidden, shape.intermediate, shape.vocabulary) == (2, 64, 96, 128)
    assert shape.layer_matrices == 2 * (4 * 64 * 64 + 3 * 64 * 96)
    assert shape.key_value == 64


def test_without_weights_the_config_is_enough(tiny_policy, tmp_path):
    (tmp_path / "config.json").write_text((tiny_policy / "config.json").read_text())
    assert read_shape(str(tmp_path)).parameters == read_shape(str(tiny_policy)).parameters


def test_other_names_for_the_same_widths():
    config = {"n_embd": 8, "n_head": 2, "n_layer": 3, "vocab_size": 10}
    shape = shape_of("gpt", config, {"transformer.h.0.attn.weight": (8, 24), "wte.weight": (10, 8), "ln.weight": (8,)})
    assert (shape.hidden, shape.layers, shape.intermediate, shape.layer_matrices) == (8, 3, 32, 192)
    assert shape.parameters == 192 + 80 + 8


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_shape(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        read_shape(str(tmp_path))
    with pytest.raises(ModelError, match="hidden_size or n_embd"):
        shape_of("x", json.loads("{}"), {})
    (tmp_path / "model.safetensors").write_bytes(b"\x01")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_shape(str(tmp_path))
