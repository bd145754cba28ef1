"""Which directory is meant by what a person names: a model, a run, a checkpoint or a hub id."""

from __future__ import annotations

from pathlib import Path

from rayrlhf.errors import ReleaseError


def model_folder(where: str) -> Path:
    """A model's directory; of a run its exported model, else that of its newest checkpoint, which is exported now.

    Raises:
        ReleaseError: there is no model.

    """
    if "://" in where:
        raise ReleaseError(f"{where}: a directory that all nodes see is expected, not a URL: copy it there first")
    path = Path(where).absolute()
    if (path / "config.json").is_file():
        return path
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if path.exists():
        from rayrlhf.stages.export import export_checkpoint

        return export_checkpoint(str(path))
    return _from_hub(where)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ReleaseError(f"{name}: no such directory, and not a model that the hub gives: {reason}") from None
