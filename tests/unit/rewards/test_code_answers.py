import json
import textwrap
from pathlib import Path

import pytest

from rayrlhf.data.rows import read_prompts
from rayrlhf.errors import DataError
from rayrlhf.rewards.code_answers import code_of, passed_tests, same
from rayrlhf.rewards.function import FunctionReward
from rayrlhf.rewards.requests import RewardRequest

PROMPTS = Path(__file__).parents[3] / "examples/data/code_prompts.jsonl"
TESTS = [{"arguments": [n], "returns": n * n + 1} for n in (0, 2, 7)]


def request(response, function="f", tests=TESTS):
    return RewardRequest((), textwrap.dedent(response), "stop", None, {"function": function, "tests": tests})


def reward(response, **prompt):
    return passed_tests(request(response, **prompt))["tests"]


def test_the_reward_is_the_share_of_tests_that_pass():
    assert reward("Here:\n```python\ndef f(n):\n    return n * n + 1\n```\nDone.") == 1.0
    assert reward("def f(n): return n + 1") == pytest.approx(1 / 3)
    assert reward("def f(n):\n    if n: raise ValueError\n    return 1") == pytest.approx(1 / 3)
    assert reward("A function squares a number.") == 0.0
    assert reward("def g(n): return n * n + 1") == 0.0


def test_the_last_block_counts_also_when_it_is_cut_off():
    assert code_of("```python\na\n```\nbetter:\n```py\nb\n```") == "b"
    assert code_of("```\nx = 1\n```") == "x = 1"
    assert code_of("```python\ndef f():\n    return 1") == "def f():\n    return 1"
    assert code_of("plain") == "plain"


@pytest.mark.parametrize(
    ("found", "wanted", "equal"),
    [
        (1, 1, True), (1, 2, False), (True, 1, False), (1, True, False), (0, False, False), (None, None, True),
        (0, None, False), (0.1 + 0.2, 0.3, True), (1, 1.0, True), (float("nan"), 1.0, False), ("1", 1, False),
        (10**400, 1.5, False), (10**400, 10**400, True), ([1, [2]], [1, [2]], True), ([1], [1, 2], False),
        ({"a": 1}, {"a": 1}, True), ({"a": 1, "b": 2}, {"a": 1}, False), ({"a": [1]}, [1], False), ("x", "x", True),
    ],
)  # fmt: skip
def test_values_are_compared_as_json(found, wanted, equal):
    assert same(found, wanted) is equal


@pytest.mark.parametrize(
    "code",
    [
        "print('passed')\ndef f(n): pass",
        "import sys\nprint('ok')\nsys.exit(0)\ndef f(n): pass",
        "import os\nos._exit(0)\ndef f(n): pass",
        "import os\nos.kill(os.getppid(), 9)\ndef f(n): pass",
        "import os\nos.write(3, b'{\"sandbox\": \"ready\"}\\n{\"value\": true}\\n' * 9)\ndef f(n): pass",
        "import os\nos.write(3, b'{\"tests\": 1.0}\\n' * 9)\ndef f(n): return True",
        "class Always:\n    def __eq__(self, other): return True\ndef f(n): return Always()",
        "class Always(int):\n    def __eq__(self, other): return True\ndef f(n): return Always(-3)",
        "import builtins\nbuiltins.all = builtins.sum = lambda *_: True\ndef f(n): return []",
        "import sys\nfor m in list(sys.modules.values()): vars(m).update(same=lambda *_: True)\ndef f(n): pass",
        "import sys\nj = sys.modules['json']\nj.dumps = lambda *_: '{\"value\": \"passed\"}'\ndef f(n): pass",
        "def f(n):\n    import sys\n    return sys._getframe(1).f_locals or sys._getframe(2).f_locals",
        "def f(n): return open('examples/data/code_prompts.jsonl').read()",
        "import os\ndef f(n):\n    while True: os.fork()",
        "def f(n):\n    while True: pass",
        "def f(n): return [0] * 10**10",
        "def f(n): return 'x' * 10**7",
        "def f(n): return float('nan')",
        "x = []\nx.append(x)\ndef f(n): return x",
        "import os\nos.close(3)\ndef f(n): return 1",
    ],
)  # fmt: skip
def test_no_trick_is_worth_anything(code):
    assert reward(f"```python\n{code}\n```", tests=TESTS[1:]) == 0.0


def test_a_step_of_hostile_answers_is_scored_and_the_good_one_among_them_too():
    """Through `reward.function`, as a run does it: bad code has the score 0 and the status ok."""
    source = FunctionReward("rayrlhf.rewards.code_answers:passed_tests", timeout_s=60)
    answers = [
        "import os\nos.kill(os.getppid(), 9)\ndef f(n): pass",
        "def f(n): return n * n + 1",
        "def f(n):\n  while 1: 0",
    ]
    rewards = source.score([request(answer) for answer in answers])
    source.close()
    assert [(r.value, r.status) for r in rewards] == [(0.0, "ok"), (1.0, "ok"), (0.0, "ok")]


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"function": "f"},
        {"function": "os.system", "tests": TESTS},
        {"function": "f", "tests": []},
        {"function": "f", "tests": [{"arguments": 1, "returns": 1}]},
        {"function": "f", "tests": [{"arguments": [1]}]},
    ],
)
def test_a_prompt_without_tests_is_an_error_and_no_score(metadata):
    with pytest.raises(DataError, match=r"metadata\."):
        passed_tests(RewardRequest((), "def f(n): return 1", "stop", None, metadata))


def test_the_examples_tests_are_right_and_no_constant_passes_most_of_them():
    solutions = json.loads((Path(__file__).parent / "solutions.json").read_text())
    rows = read_prompts(str(PROMPTS))
    assert len(rows) >= 24
    for row in rows:
        name, tests = row.metadata["function"], row.metadata["tests"]
        assert name in row.messages[-1]["content"]
        answer = RewardRequest(row.messages, solutions[name], "stop", row.answer, row.metadata)
        assert passed_tests(answer) == {"tests": 1.0}, name
        most = max(sum(same(a["returns"], b["returns"]) for a in tests) for b in tests)
        assert most <= (len(tests) + 1) // 2, name
