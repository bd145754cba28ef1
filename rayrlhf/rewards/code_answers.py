"""A reward for "write a Python function": the share of a prompt's tests that the answer's code passes.

    {"messages": […], "metadata": {"function": "double", "tests": [{"arguments": [2], "returns": 4}, …]}}

    [reward]
    function = "rayrlhf.rewards.code_answers:passed_tests"

The code runs in a sandbox that never sees `returns`; what came back is compared here. Code that is wrong, hangs or
tries something else has passed nothing: that is its score and no failure of the reward.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rayrlhf.errors import DataError
from rayrlhf.rewards.requests import RewardRequest
from rayrlhf.rewards.sandbox import call_function

_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)


def passed_tests(request: RewardRequest) -> dict[str, float]:
    """`tests`: the share of the prompt's tests that the answer passes, 0 to 1.

    Raises:
        DataError: the prompt's metadata are no tests.
        SandboxError: code cannot be run safely here.

    """
    function, tests = _tests(request.metadata)
    code = code_of(request.response)
    if function not in code:
        return {"tests": 0.0}
    outcomes = call_function(code, function, [test["arguments"] for test in tests])
    passed = [o.returned and same(o.value, test["returns"]) for o, test in zip(outcomes, tests, strict=True)]
    return {"tests": sum(passed) / len(passed)}


def code_of(response: str) -> str:
    """The last fenced block of Python, or the whole answer where there is none; a block may be cut off."""
    blocks = _FENCED.findall(response)
    return str(blocks[-1]) if blocks else response


def same(found: Any, wanted: Any) -> bool:
    """Equal as JSON: true is not 1; numbers may differ by a millionth where one of them is not whole."""
    if isinstance(wanted, bool) or isinstance(found, bool) or wanted is None:
        return found is wanted
    if isinstance(wanted, int | float):
        return isinstance(found, int | float) and _close(found, wanted)
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict) and found.keys() == wanted.keys() and all(same(found[k], wanted[k]) for k in wanted)
        )
    return isinstance(found, str) and found == wanted


def _close(found: float, wanted: float) -> bool:
    if isinstance(found, int) and isinstance(wanted, int):
        return found == wanted
    try:
        return math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-9)
    except OverflowError:  # a whole number that no float can hold
        return False


def _tests(metadata: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    function, tests = metadata.get("function"), metadata.get("tests")
    if not isinstance(function, str) or not function.isidentifier():
        raise DataError(f"metadata.function = {function!r}: expected the name of the function that the prompt asks for")
    if not isinstance(tests, list) or not tests or not all(map(_is_test, tests)):
        raise DataError(f'metadata.tests of {function}: expected a list of {{"arguments": […], "returns": …}}')
    return function, tests


def _is_test(test: Any) -> bool:
    return isinstance(test, dict) and test.keys() == {"arguments", "returns"} and isinstance(test["arguments"], list)
