"""The prompts of a run: rendered once, overlong ones left out and named, drawn in a seeded order that never ends."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rayrlhf.data.rows import PromptRow
from rayrlhf.data.template import render_prompt
from rayrlhf.errors import DataError
from rayrlhf.types import Prompt


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Usable prompts, and the ids of those that were too long."""

    prompts: tuple[Prompt, ...]
    overlong_ids: tuple[str, ...]

    def batch(self, seed: int, step: int, size: int) -> list[Prompt]:
        """The prompts of `step`: each epoch is a permutation drawn from (seed, epoch); a step may span two.

        A pure function of its arguments, so a resumed run needs no cursor but the step.
        """
        places = [divmod(position, len(self.prompts)) for position in range(step * size, (step + 1) * size)]
        orders = {epoch: self._order(seed, epoch) for epoch, _ in places}
        return [self.prompts[orders[epoch][index]] for epoch, index in places]

    @property
    def digest(self) -> str:
        """Changes when any prompt does: the run's steps are a function of the prompts."""
        text = json.dumps([(prompt.id, prompt.token_ids) for prompt in self.prompts])
        return hashlib.sha256(text.encode()).hexdigest()

    def _order(self, seed: int, epoch: int) -> list[int]:
        order = list(range(len(self.prompts)))
        random.Random(f"prompts-{seed}-{epoch}").shuffle(order)
        return order


def render_prompts(rows: Sequence[PromptRow], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> PromptSet:
    """Render every row; ids must be unique.

    Raises:
        DataError: two rows share an id, or no prompt is short enough.

    """
    seen: set[str] = set()
    usable: list[Prompt] = []
    overlong: list[str] = []
    for row in rows:
        if row.id in seen:
            raise DataError(f"two prompts have the id {row.id!r}")
        seen.add(row.id)
        token_ids = render_prompt(tokenizer, row.messages)
        if len(token_ids) > max_tokens:
            overlong.append(row.id)
        else:
            usable.append(Prompt(row.id, row.messages, token_ids, row.answer, row.metadata))
    if not usable:
        raise DataError(f"all {len(rows)} prompts are longer than data.max_prompt_tokens = {max_tokens}")
    return PromptSet(tuple(usable), tuple(overlong))
