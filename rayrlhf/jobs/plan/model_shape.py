"""What a plan has to know of a model: widths from `config.json`, exact parameter counts from safetensors headers.

A local directory is read without torch; a hub id is built on the meta device, which needs `transformers` and the hub or
its cache. No weight is loaded either way.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrlhf.errors import ModelError

LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder: counts of parameters, widths in elements."""

    parameters: int
    tensors: int
    layers: int
    hidden: int
    intermediate: int
    key_value: int
    """Width of the keys of one token in one layer: key-value heads x head size."""
    vocabulary: int
    layer_matrices: int
    """Parameters of all layers' matrices: those a token is multiplied with, the head left out."""
    small_parameters: int
    """Parameters in tensors of at most 100,000 elements, which ZeRO-3 does not shard."""
    positions: int | None = None

    @property
    def embedding(self) -> int:
        """Parameters of one embedding or head matrix."""
        return self.vocabulary * self.hidden

    @property
    def largest_layer(self) -> int:
        """Parameters that a rank of ZeRO-3 holds whole while it computes a layer, or the head."""
        return max(self.layer_matrices // max(self.layers, 1), self.embedding)


PERSISTENT_ELEMENTS = 100_000
"""DeepSpeed's `stage3_param_persistence_threshold`."""


def read_shape(path: str) -> ModelShape:
    """The shape of the model at a directory or hub id.

    Raises:
        ModelError: there is no model, or its config has no known names for its widths.

    """
    folder = Path(path)
    if folder.is_dir():
        return shape_of(path, _config(folder), _header_shapes(folder) or _meta_shapes(path))
    return shape_of(path, _hub_config(path), _meta_shapes(path))


def shape_of(path: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ModelShape:
    """A shape from a Hugging Face config and the shapes of all parameters, counted once where they are tied."""
    config = {**config, **config.get("text_config", {})}
    hidden = _number(path, config, "hidden_size", "n_embd", "d_model")
    heads = _number(path, config, "num_attention_heads", "n_head")
    key_value_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    matrices = [sizes[n] for n, shape in shapes.items() if len(shape) > 1 and LAYER.search(f".{n}")]
    return ModelShape(
        parameters=sum(sizes.values()),
        tensors=len(sizes),
        layers=_number(path, config, "num_hidden_layers", "n_layer"),
        hidden=hidden,
        intermediate=config.get("intermediate_size") or config.get("n_inner") or 4 * hidden,
        key_value=key_value_heads * head,
        vocabulary=_number(path, config, "vocab_size"),
        layer_matrices=sum(matrices),
        small_parameters=sum(size for size in sizes.values() if size <= PERSISTENT_ELEMENTS),
        positions=config.get("max_position_embeddings") or config.get("n_positions"),
    )


def _number(path: str, config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if isinstance(value := config.get(name), int):
            return value
    raise ModelError(f"{path}: config.json has no {' or '.join(names)}: the plan knows decoders of Hugging Face")


def _config(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder}: no config.json in this directory: model.path has to name a model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/config.json: cannot be read: {error}") from None
    return found


def _header_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                (size,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(size))
        except (OSError, ValueError, struct.error) as error:
            raise ModelError(f"{file}: not a safetensors file: {error}") from None
        shapes |= {name: tuple(t["shape"]) for name, t in header.items() if name != "__metadata__"}
    return shapes


def _meta_shapes(path: str) -> dict[str, tuple[int, ...]]:
    from rayrlhf.engines.models import policy_shapes

    return policy_shapes(path)


def _hub_config(path: str) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(path, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: no such directory, and as a hub id no config can be read: {first}") from None
    return config
