"""Hugging Face models with the two heads that RLHF needs: a log-probability and a scalar for every token.

    TokenLogprobs: causal LM  ──▶ log p(token t | < t) and entropy, [B, T]
    TokenScalars:  scalar head ──▶ one number after each token, [B, T] (reward: at the last one; critic: before each)

Loading switches dropout off (else the PPO ratio is not 1 at the first step) and never runs code from the hub; a model's
files are checked first (`model_files.py`).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from rayrlhf.algorithms.logprobs import chunked_logprobs
from rayrlhf.config.sections import ModelConfig
from rayrlhf.engines.model_files import require_weights
from rayrlhf.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SCALAR_HEADS = ("score", "classifier")
NORMALISATION_FILE = "reward_normalisation.json"


@dataclass(frozen=True, slots=True)
class Normalisation:
    """reward = (score - mean) / std; stored beside a reward model's weights, applied by its `TokenScalars`, once."""

    mean: float = 0.0
    std: float = 1.0

    def save(self, folder: Path) -> None:
        """Write it beside the model's weights."""
        (folder / NORMALISATION_FILE).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str) -> Normalisation:
        """What is stored beside the weights, here or on the hub; identity for models of other makers."""
        file = cached_file(path, NORMALISATION_FILE, _raise_exceptions_for_missing_entries=False)
        return cls(**json.loads(Path(file).read_text(encoding="utf-8"))) if file else cls()


class TokenLogprobs(nn.Module):
    """A causal language model that answers with log-probabilities of given tokens instead of logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log p and entropy (float32 nats) of the tokens where `mask` is 1; 0 elsewhere. All [B, T].

        The hidden state at t - 1 predicts token t, so the first token of a row can have none.
        """
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        wanted = mask[:, 1:] > 0
        head = self.model.get_output_embeddings()
        chosen, entropies = chunked_logprobs(head, hidden[:, :-1][wanted], input_ids[:, 1:][wanted], temperature)
        logprobs, entropy = torch.zeros_like(mask), torch.zeros_like(mask)
        place = torch.nn.functional.pad(wanted, (1, 0))
        return logprobs.masked_scatter(place, chosen), entropy.masked_scatter(place, entropies)


class TokenScalars(nn.Module):
    """A sequence-classification model with one label, read at every position, with its stored normalisation applied."""

    def __init__(self, model: PreTrainedModel, normalisation: Normalisation | None = None) -> None:
        super().__init__()
        self.model = model
        self.normalisation = normalisation or Normalisation()
        self.head_name = next(name for name in SCALAR_HEADS if hasattr(model, name))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The scalar after each token, float32 [B, T]; at padding it means nothing."""
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        raw = getattr(self.model, self.head_name)(hidden).squeeze(-1).float()
        return (raw - self.normalisation.mean) / self.normalisation.std


def values_before_tokens(scalars: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """V of the state *before* token t, from scalars after each token: shifted by one; 0 where `mask` is 0."""
    shifted = torch.nn.functional.pad(scalars[:, :-1], (1, 0))
    return torch.where(mask > 0, shifted, 0.0)


def load_policy(config: ModelConfig, path: str | None = None) -> TokenLogprobs:
    """The causal language model at `path` (default: `config.path`)."""
    model = _load(AutoModelForCausalLM, path or config.path, config, {})
    return TokenLogprobs(model)


def load_scalar(config: ModelConfig, path: str, *, head: str = "required", seed: int = 0) -> TokenScalars:
    """A model with a scalar head. `head`: `required` (a checkpoint without one is refused), `normal` or `zero`
    (a new one, N(0, 1 / sqrt(d + 1)) as InstructGPT's reward model, or zeros as a critic on a bare policy).
    """
    model, missing = _load(AutoModelForSequenceClassification, path, config, {"num_labels": 1}, report=True)
    head_name = next((name for name in SCALAR_HEADS if hasattr(model, name)), None)
    if head_name is None:
        raise ModelError(f"{path}: no scalar head named {' or '.join(SCALAR_HEADS)} in {type(model).__name__}")
    weight = getattr(model, head_name).weight
    if any(name.startswith(f"{head_name}.") for name in missing):
        if head == "required":
            raise ModelError(f"{path}: this model has no trained reward head ({head_name}.weight is missing)")
        with torch.no_grad():
            std = 1 / math.sqrt(weight.shape[-1] + 1) if head == "normal" else 0.0
            generator = torch.Generator().manual_seed(seed)
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    return TokenScalars(model, Normalisation.load(path))


def policy_shapes(path: str) -> dict[str, tuple[int, ...]]:
    """Parameters of `load_policy` with their shapes, without loading any."""
    return _shapes(AutoModelForCausalLM, _hf_config(path))


def scalar_shapes(path: str) -> dict[str, tuple[int, ...]]:
    """Parameters of `load_scalar` with their shapes, without loading any."""
    return _shapes(AutoModelForSequenceClassification, _hf_config(path, num_labels=1))


def _shapes(auto: Any, hf_config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = auto.from_config(hf_config, trust_remote_code=False)
    return {f"model.{name}": tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _load(auto: Any, path: str, config: ModelConfig, extra: dict[str, Any], *, report: bool = False) -> Any:
    require_weights(path, config.digest if path == config.path else None)
    hf_config = _hf_config(path, **extra)
    for name in vars(hf_config):
        if name.endswith(("dropout", "pdrop")) and isinstance(getattr(hf_config, name), float):
            setattr(hf_config, name, 0.0)
    pad_token_id = getattr(hf_config, "pad_token_id", None)
    hf_config.pad_token_id = None  # else the embedding of that token, often eos, would get no gradient
    try:
        loaded = auto.from_pretrained(
            path,
            config=hf_config,
            dtype=DTYPES[config.dtype],
            attn_implementation=config.attention,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=report,
        )
    except OSError as error:  # a hub id whose weights are pickles, or that the hub does not give
        raise ModelError(f"{path}: no safetensors weights can be loaded: {_first_line(error)}") from None
    model = loaded[0] if report else loaded
    model.config.pad_token_id = pad_token_id
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return (model, loaded[1]["missing_keys"]) if report else model


def _hf_config(path: str, **extra: Any) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False, **extra)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be loaded as a model: {_first_line(error)}") from None


def load_tokenizer(path: str, *, need_template: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer at `path`, with a chat template unless it may do without."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        what = "" if Path(path).is_dir() else "no such directory, and as a hub id "
        raise ModelError(f"{path}: {what}no tokenizer can be loaded: {_first_line(error)}") from None
    if need_template and not tokenizer.chat_template:
        raise ModelError(
            f"{path}: the tokenizer has no chat template; add chat_template.jinja to the directory, "
            "or start from an instruct model"
        )
    return tokenizer


def generation_eos(path: str) -> int | list[int] | None:
    """The eos ids of the model's generation config, if it has one; some models end answers with several."""
    try:
        eos: int | list[int] | None = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:
        return None
    return eos


def require_reward_head(path: str, key: str) -> None:
    """Refuse, without loading any weights, a local directory whose checkpoint has no scalar head."""
    require_weights(path)
    if not Path(path).is_dir():
        return
    if not any(name.split(".")[0] in SCALAR_HEADS for name in _tensor_names(Path(path))):
        raise ModelError(
            f"{path}: no reward head among its tensors (expected {' or '.join(SCALAR_HEADS)}.weight); "
            f"{key} needs a sequence-classification model, such as `rayrlhf reward` exports"
        )


def require_length(path: str, tokens: int) -> None:
    """Refuse sequences that are longer than the model's positions."""
    longest = getattr(_hf_config(path), "max_position_embeddings", None)
    if longest is not None and tokens > longest:
        raise ModelError(
            f"{path}: data.max_prompt_tokens + rollout.max_tokens = {tokens}, but the model has {longest} positions"
        )


def require_same_vocabulary(tokenizer: PreTrainedTokenizerBase, path: str, key: str) -> None:
    """Refuse a model that would read the policy's token ids as other words."""
    other = load_tokenizer(path, need_template=False)
    if other.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{path}: its vocabulary is not the policy's, and it would read the policy's tokens: set {key}"
        )


def _tensor_names(folder: Path) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names.update(tensors.keys())
    return names


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
