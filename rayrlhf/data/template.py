"""Chat templates: from messages to token ids, with masks built while rendering, never searched for afterwards.

A conversation is rendered prefix by prefix; what a turn adds to the text is that turn. Each piece is tokenised on its
own, so training sees the same boundary between prompt and response as generation does. Special tokens are added by the
template alone (no double BOS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rayrlhf.errors import DataError
from rayrlhf.types import Message


@dataclass(frozen=True, slots=True)
class RenderedConversation:
    """Token ids and, for each, whether it is trained on: assistant content and its end-of-turn token."""

    token_ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def response_tokens(self) -> int:
        """How many tokens are trained on."""
        return sum(self.trained)

    @property
    def answer_start(self) -> int:
        """Where the last assistant turn begins."""
        start = len(self.trained)
        while start and self.trained[start - 1]:
            start -= 1
        return start


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    """The ids after which the assistant answers."""
    return _tokenise(tokenizer, _text(tokenizer, messages, generation_prompt=True))


def render_conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> RenderedConversation:
    """A whole conversation; every assistant turn is trained on, headers and other turns are not.

    Raises:
        DataError: the template does not render a conversation as an extension of its beginning.

    """
    ids: list[int] = []
    trained: list[bool] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        header = _text(tokenizer, messages[:index], generation_prompt=True)
        whole = _text(tokenizer, messages[: index + 1], generation_prompt=False)
        if not header.startswith(done) or not whole.startswith(header):
            raise DataError("the chat template rewrites earlier turns, so assistant turns cannot be told apart")
        turn, ending = _through_end_of_turn(whole[len(header) :], tokenizer)
        before, answer = _tokenise(tokenizer, header[len(done) :]), _tokenise(tokenizer, turn + ending)
        ids += before + answer
        trained += [False] * len(before) + [True] * len(answer)
        done = header + turn
    return RenderedConversation(tuple(ids), tuple(trained))


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase, generation_eos: int | Sequence[int] | None) -> tuple[int, ...]:
    """Every id that ends an answer: the tokenizer's eos and those of the model's generation config."""
    extra = [generation_eos] if isinstance(generation_eos, int) else list(generation_eos or [])
    ids = {*extra, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])}
    return tuple(sorted(ids))


def _through_end_of_turn(turn: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The turn up to and including its end-of-turn token, and the eos to learn where the template wrote none.

    Templates often add a newline after the token; some end turns with another token, or with nothing at all.
    """
    eos = str(tokenizer.eos_token or "")
    end = turn.rfind(eos) if eos else -1
    return (turn[: end + len(eos)], "") if end >= 0 else (turn.rstrip("\n"), eos)


def _text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generation_prompt: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation_prompt)
    except TemplateError as error:
        asked = messages[-1]["content"][:60]
        raise DataError(f"the chat template refuses the conversation that ends with {asked!r}: {error}") from None
    return str(text)


def _tokenise(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
