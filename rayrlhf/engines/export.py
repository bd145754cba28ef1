"""A trained model as a directory that plain transformers and vLLM load."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayrlhf.data.durable import replaced_folder, write_digests
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
    """Gather (all ranks) and write (one rank) weights, config, tokenizer and chat template.

    Atomic: a local folder is renamed into place; a remote one has no `config.json`, without which nothing loads it,
    until all else is there. A reward model's `normalisation` goes with it.
    """
    state = source.state_dict()
    if not writer:
        return
    tied = getattr(model, "_tied_weights_keys", None) or {}
    keys = set(model.state_dict().keys())
    state = {k: v for k, v in state.items() if k in keys and (k not in tied or not model.config.tie_word_embeddings)}
    with replaced_folder(folder, last="config.json") as new:
        model.save_pretrained(new, state_dict=state)
        tokenizer.save_pretrained(new)
        if normalisation is not None:
            normalisation.save(new)
        write_digests(new)
