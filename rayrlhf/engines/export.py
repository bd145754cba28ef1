"""A trained model as a directory that plain transformers and vLLM load."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayrlhf.engines.models import Normalisation
from rayrlhf.engines.weight_source import WeightSource


def export_model(
    model: PreTrainedModel,
    source: WeightSource,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    writer: bool,
    normalisation: Normalisation | None = None,
) -> None:
    """Gather (all ranks) and write (one rank) weights, config, tokenizer and chat template; atomic by rename.

    A reward model's `normalisation` goes with it.
    """
    state = source.state_dict()
    if not writer:
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tied = getattr(model, "_tied_weights_keys", None) or {}
    keys = set(model.state_dict().keys())
    state = {k: v for k, v in state.items() if k in keys and (k not in tied or not model.config.tie_word_embeddings)}
    model.save_pretrained(partial, state_dict=state)
    tokenizer.save_pretrained(partial)
    if normalisation is not None:
        normalisation.save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
