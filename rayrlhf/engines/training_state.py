"""Weights and optimizer state of a `TrainingEngine` as safetensors shards that load on any number of ranks.

    engine ──snapshot (collective)──▶ this rank's shard in host memory ──write (any thread)──▶ shard-00000-of-00002…

Every parameter's full fp32 weight and moments are gathered in turn (ZeRO 0 to 3 alike) and kept by one rank, in turn.
Loading reads all shards on every rank and keeps what the rank owns. No pickles: DeepSpeed's own checkpoints unpickle,
and its ZeRO-3 states do not load on another number of ranks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from rayrlhf.engines.training import TrainingEngine
from rayrlhf.errors import CheckpointError

MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ()}


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """One rank's shard of a training state, in host memory of its own: training goes on while it is written."""

    tensors: dict[str, torch.Tensor]
    """Full float32 tensors by `weight/<parameter>`, `exp_avg/<parameter>` and `exp_avg_sq/<parameter>`."""
    rank: int
    world_size: int
    optimizer_steps: int

    def write(self, folder: Path) -> Path:
        """Write this rank's shard into a local folder, durably, and return its path. Any thread may call it.

        Raises:
            OSError: with its errno, such as that of a full disk.

        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _shard_name(self.rank, self.world_size)
        try:
            save_file(self.tensors, path, metadata={"optimizer_steps": str(self.optimizer_steps)})
        except SafetensorError as error:
            raise _os_error(error, path) from None
        for changed in (path, folder):
            descriptor = os.open(changed, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return path


def snapshot(engine: TrainingEngine) -> TrainingSnapshot:
    """Copy this rank's share of weights and moments to host memory; all ranks call it."""
    tensors: dict[str, torch.Tensor] = {}
    for index, (name, parameter) in enumerate(_parameters(engine)):
        full = {"weight": _full(engine, parameter, None)}
        if engine.optimizer_steps:
            full |= {key: _full(engine, parameter, key) for key in MOMENTS[engine.config.optimizer]}
        if index % engine.world_size == engine.rank:
            tensors |= {f"{key}/{name}": _host_copy(tensor) for key, tensor in full.items()}
    return TrainingSnapshot(tensors, engine.rank, engine.world_size, engine.optimizer_steps)


def weights_digest(engine: TrainingEngine) -> str:
    """SHA-256 in hexadecimal of all full fp32 weights in the order of their names; all ranks call it, all get it."""
    digest = hashlib.sha256()
    for _, parameter in sorted(_parameters(engine)):
        digest.update(_host_copy(_full(engine, parameter, None)).numpy().data)
    return digest.hexdigest()


def load_module_weights(module: nn.Module, folder: Path) -> None:
    """Copy saved weights into a module before it is handed to DeepSpeed."""
    saved = {key.removeprefix("weight/"): t for key, t in _read(folder) if key.startswith("weight/")}
    parameters = dict(module.named_parameters())
    shapes = ({name: tuple(t.shape) for name, t in tensors.items()} for tensors in (saved, parameters))
    _require_same_model(folder, *shapes)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def check_state(folder: Path, model: Mapping[str, tuple[int, ...]]) -> None:
    """Whether a local folder's shards hold the state of a model with these parameter shapes; loads no tensor.

    Raises:
        CheckpointError: names what is missing, no safetensors file, or of another model.

    """
    saved: dict[str, tuple[int, ...]] = {}
    for file in _shards(folder):
        with _open(file) as tensors:
            keys = [key for key in tensors.keys() if key.startswith("weight/")]  # noqa: SIM118 (no mapping)
            saved |= {key.removeprefix("weight/"): tuple(tensors.get_slice(key).get_shape()) for key in keys}
    _require_same_model(folder, saved, model)


def load_optimizer_state(engine: TrainingEngine, folder: Path) -> None:
    """Restore moments, fp32 master weights and the step count, each rank its part; all ranks call it."""
    engine.optimizer_steps = _steps(folder)
    moments = MOMENTS[engine.config.optimizer]
    if engine.optimizer_steps and moments:
        _create_moments(engine, engine.optimizer_steps)
    named = dict(_parameters(engine))
    for key, tensor in _read(folder):
        kind, _, name = key.partition("/")
        if kind == "weight" or engine.optimizer_steps:
            _set(engine, named[name], tensor, None if kind == "weight" else kind)


def _require_same_model(
    folder: Path, saved: Mapping[str, tuple[int, ...]], model: Mapping[str, tuple[int, ...]]
) -> None:
    names = sorted(saved.keys() | model.keys())
    odd = next((name for name in names if saved.get(name) != model.get(name)), None)
    if odd is not None:
        found, expected = (shapes.get(odd, "absent") for shapes in (saved, model))
        raise CheckpointError(f"{folder}: a checkpoint of another model: {odd} is {found}, in the model {expected}")


def _parameters(engine: TrainingEngine) -> Iterator[tuple[str, nn.Parameter]]:
    yield from engine.module.named_parameters()


def _host_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Always a copy: on the CPU, `_full` can give the live tensor."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _full(engine: TrainingEngine, parameter: nn.Parameter, moment: str | None) -> torch.Tensor:
    if not engine.config.zero_stage and not _has_master(parameter):
        return parameter if moment is None else engine.engine.optimizer.state[parameter][moment]
    if moment is None:
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, moment)


def _has_master(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "_hp_mapping") or hasattr(parameter, "ds_id")


def _create_moments(engine: TrainingEngine, steps: int) -> None:
    """Give torch's optimizer the state it would otherwise create at its first step."""
    wrapper = engine.engine.optimizer
    base = getattr(wrapper, "optimizer", wrapper)
    flat = getattr(wrapper, "fp32_partitioned_groups_flat", None)
    parameters = flat if flat is not None else [p for group in base.param_groups for p in group["params"]]
    for parameter in parameters:
        base.state[parameter] = {
            "step": torch.tensor(float(steps), device=parameter.device),
            **{key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS["adamw"]},
        }
    if hasattr(wrapper, "_lazy_init_hp_params_optimizer_state"):
        wrapper._lazy_init_hp_params_optimizer_state()


def _set(engine: TrainingEngine, parameter: Any, full: torch.Tensor, moment: str | None) -> None:
    if hasattr(parameter, "ds_id"):
        part = _zero3_partition(engine, parameter, full)
        if moment is None:
            safe_set_local_fp32_param(parameter, part)
        else:
            safe_set_local_optimizer_state(parameter, part, moment)
    elif hasattr(parameter, "_hp_mapping"):
        full = full.to(engine.device, torch.float32)
        if moment is None:
            parameter.set_full_hp_param(full)
        else:
            parameter.set_full_hp_param(full, moment)
    elif moment is not None:
        engine.engine.optimizer.state[parameter][moment].copy_(full)


def _zero3_partition(engine: TrainingEngine, parameter: Any, full: torch.Tensor) -> torch.Tensor:
    """This rank's slice, padded: the last rank's slice can reach past the end of the tensor."""
    size = parameter.ds_tensor.numel()
    flat = torch.nn.functional.pad(full.flatten(), (0, size * engine.world_size - full.numel()))
    return flat.narrow(0, size * engine.rank, size).to(engine.device, torch.float32)


def _read(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in _shards(folder):
        with _open(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
                yield key, tensors.get_tensor(key)


def _steps(folder: Path) -> int:
    with _open(_shards(folder)[0]) as tensors:
        return int(tensors.metadata()["optimizer_steps"])


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}); checkpoints are never unpickled") from None


def _os_error(error: SafetensorError, path: Path) -> Exception:
    """What the system said: safetensors gives its number in the message only. Other errors stay as they are."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error


def _shards(folder: Path) -> list[Path]:
    """All shards of the one set that the folder holds, by rank."""
    files = sorted(folder.glob("shard-[0-9]*-of-[0-9]*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: no shards of training state")
    world_size = int(files[-1].stem.rpartition("-")[2])
    expected = [folder / _shard_name(rank, world_size) for rank in range(world_size)]
    if odd := sorted(set(expected) ^ set(files)):
        what = "is missing" if odd[0] in expected else f"is of another set than {files[-1].name}"
        raise CheckpointError(f"{folder}: the shard {odd[0].name} {what}")
    return expected


def _shard_name(rank: int, world_size: int) -> str:
    return f"shard-{rank:05d}-of-{world_size:05d}.safetensors"
