"""Tiny real models for the tests: Llama with head size 32 (the CPU kernels' smallest) and a character tokenizer."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
ALPHABET = [chr(c) for c in range(32, 127)] + ["\n"]


def tokenizer(template: str | None = TEMPLATE, pad: str | None = "<e>") -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(["<u>", "<s>", "<e>", "<p>", *ALPHABET])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<u>", bos_token="<s>", eos_token="<e>", pad_token=pad,
        additional_special_tokens=["<p>"],
    )  # fmt: skip
    wrapped.chat_template = template
    return wrapped


def config(layers: int = 2) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
        pad_token_id=None,
    )  # fmt: skip


def write_policy(folder: Path, layers: int = 2, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    LlamaForCausalLM(config(layers)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_reward_model(folder: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    head = config()
    head.num_labels = 1
    LlamaForSequenceClassification(head).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def poison(folder: Path) -> None:
    """Make a number of a saved model infinite."""
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
