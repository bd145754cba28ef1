"""What is checked of a model's files before any of them is loaded: safetensors, whole, and the wanted ones.

Hub ids pass, unless a digest is asked for: their files are the hub client's to check.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from rayrlhf.data.durable import DIGESTS
from rayrlhf.data.model_files import damage_of, model_digest, pickles_of
from rayrlhf.errors import ModelError


def require_weights(path: str, digest: str | None = None) -> None:
    """Refuse a model whose files should not be loaded; loads none.

    `digest`: the SHA-256 that its `digests.json` must have (`model.digest`).

    Raises:
        ModelError: a directory without safetensors weights, a file that is not what was exported, or another model.

    """
    folder = Path(path)
    if not folder.is_dir():
        if digest is not None:
            raise ModelError(f"{path}: model.digest needs a local directory with {DIGESTS}, as exports have it")
        return
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder}: no safetensors weights in this directory{_pickles(folder)}")
    if digest is not None and (found := model_digest(folder)) != digest:
        what = "there is none" if found is None else f"it has {found}"
        raise ModelError(f"{folder}: model.digest wants {DIGESTS} to have the SHA-256 {digest}, and {what}")
    if (damage := damage_of(folder)) is not None:
        raise ModelError(f"{damage}; copy the model again, or remove {DIGESTS} if it was changed on purpose")
    for file in weights:
        _require_header(file)


def _require_header(file: Path) -> None:
    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: damaged: not a whole safetensors file ({error})") from None


def _pickles(folder: Path) -> str:
    if not (found := pickles_of(folder)):
        return " (pickled ones would never be read)"
    return (
        f": {found[0]} is a pickle, which can run code when it is loaded and is never read. Where its maker is "
        "trusted, convert it elsewhere: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…) writes safetensors"
    )
