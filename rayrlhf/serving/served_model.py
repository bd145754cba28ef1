"""Which reward model is served: checked before anything is started, and known by a digest of its files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rayrlhf.data.durable import digest_file
from rayrlhf.engines.models import SCALAR_HEADS, load_tokenizer, require_reward_head, scalar_shapes
from rayrlhf.errors import ModelError
from rayrlhf.rewards.wire import ServedModel

WHO = "serve --role reward"
SHAPES_SCORES = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Weights, their normalisation, the tokenizer and its template; not a README."""


def check_reward_model(model: str) -> ServedModel:
    """The model in a local directory.

    Raises:
        ModelError: no directory, no safetensors weights, no reward head with one output, code of its own, or no
            tokenizer with a chat template.

    """
    folder = Path(model)
    if not folder.is_dir():
        found = "a URL" if "://" in model else "a file" if folder.exists() else "nothing"
        raise ModelError(f"{model}: {found} is there; {WHO} needs the directory of a sequence-classification model")
    _require_plain_code(folder)
    require_reward_head(model, WHO)
    _require_one_output(folder)
    load_tokenizer(model)
    scalar_shapes(model)
    return ServedModel(model="/".join(folder.absolute().parts[-2:]), digest=model_digest(folder))


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that shape scores."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in SHAPES_SCORES:
            digest.update(f"{file.name} {digest_file(file)[1]}\n".encode())
    return digest.hexdigest()


def _require_plain_code(folder: Path) -> None:
    """A model that brings its own code would be another architecture without it."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            hint = f" (is it {folder / 'model'}?)" if (folder / "model").is_dir() else ""
            message = f"{folder}: has no {name}; {WHO} needs a Hugging Face model's directory{hint}"
            raise ModelError(message) from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: {name} cannot be read: {error}") from None
        if isinstance(values, dict) and values.get("auto_map"):
            raise ModelError(f"{folder}: {name} names code of the model's own (auto_map), which is never run")


def _require_one_output(folder: Path) -> None:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        for head in SCALAR_HEADS:
            if (shape := shapes.get(f"{head}.weight")) is not None:
                if shape[0] != 1:
                    raise ModelError(f"{folder}: its head has {shape[0]} outputs; {WHO} needs one (num_labels = 1)")
                return
    heads = " or ".join(f"{head}.weight" for head in SCALAR_HEADS)
    raise ModelError(f"{folder}: no {heads} among its tensors; {WHO} needs a linear head")
