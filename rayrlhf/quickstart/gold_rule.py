"""The rule that stands in for people in the quickstart. It is a rule, not people: see the README for putting your own
comparisons in its place.

A good answer is finished, has a fitting length, speaks of what was asked, and does not repeat itself:

    gold = finished + length + topic - repetition                                              in [-1, 3]

`length` is a tent: it rises until 12 words, is 1 from 12 to 30, and falls to 0 at 60, so neither short nor long wins.
`topic` needs words of this very question, so no fixed sentence can satisfy it.
"""

from __future__ import annotations

import re
from itertools import pairwise

from rayrlhf.rewards.requests import RewardRequest

STOP_WORDS = frozenset(
    re.findall(
        r"[a-z]+",
        """
        a about an and are as at be brief by can child could describe do does explain for from give how i in is it me my
        name of on or say something tell that the their them they think this tip to us use was we what when which why
        with without you your
        """,
    )
)


def gold(request: RewardRequest) -> dict[str, float]:
    """The rule's components for one answer; their sum is its score."""
    question = request.messages[-1]["content"]
    answer = request.response.strip()
    words = _words(answer)
    finished = request.finish_reason == "stop" and answer.endswith((".", "!", "?", '."', ".)"))
    return {
        "finished": float(finished),
        "length": _tent(len(words)),
        "topic": _topic(question, words),
        "repetition": -_repetition(words),
    }


def gold_score(request: RewardRequest) -> float:
    """The sum of the components."""
    return sum(gold(request).values())


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _tent(count: int) -> float:
    if count <= 12:
        return count / 12
    return 1.0 if count <= 30 else max(0.0, (60 - count) / 30)


def _topic(question: str, words: list[str]) -> float:
    """Share of the question's content words whose beginning turns up in the answer."""
    wanted = {_stem(w) for w in _words(question) if w not in STOP_WORDS}
    found = {_stem(w) for w in words}
    return len(wanted & found) / len(wanted) if wanted else 1.0


def _stem(word: str) -> str:
    return word[:5]


def _repetition(words: list[str]) -> float:
    """Share of word pairs that occurred before in the answer."""
    pairs = list(pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
