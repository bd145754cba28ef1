"""`rayrlhf export`: the policy of any checkpoint as a Hugging Face model, while its run goes on or after it."""

from __future__ import annotations

from pathlib import Path

from rayrlhf.config.sections import ModelConfig
from rayrlhf.data.durable import as_path, local_copy
from rayrlhf.engines.export import export_model
from rayrlhf.engines.models import load_policy, load_tokenizer
from rayrlhf.engines.training_state import load_module_weights
from rayrlhf.engines.weight_source import WeightSource
from rayrlhf.errors import CheckpointError
from rayrlhf.loop.checkpoint import CheckpointStore, verify
from rayrlhf.stages.resume import resume_path
from rayrlhf.stages.run_directory import RunDirectory


def export_checkpoint(where: str, to: str | None = None) -> Path:
    """Export a checkpoint's folder, or the newest of a run's directory; returns the model's folder.

    `to`: a path or URL; by default `model-step-000010` in the run's directory. What is there is replaced.

    Raises:
        CheckpointError: there is no whole checkpoint of a policy.

    """
    given = resume_path(where)
    checkpoint = CheckpointStore(RunDirectory(given).checkpoints, 1, {}).newest() or given
    manifest = verify(checkpoint)
    part = next((part for part in ("policy", "model") if any(f.startswith(f"{part}/") for f in manifest.files)), None)
    if part is None or manifest.config.get("data", {}).get("comparisons"):
        raise CheckpointError(f"{checkpoint}: no policy; a reward model is exported by its own stage, with its scale")
    folder = as_path(to).absolute() if to else checkpoint.parent.parent / f"model-{checkpoint.name}"
    config = ModelConfig.model_validate(manifest.config["model"])
    module = load_policy(config)
    with local_copy(checkpoint) as saved:
        load_module_weights(module, saved / part)
    export_model(module.model, WeightSource(module.model), load_tokenizer(config.path), folder, writer=True)
    return folder
