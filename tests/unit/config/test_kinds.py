"""Which job a TOML is of."""

from pathlib import Path

import pytest

from rayrlhf.config.kinds import job_kind
from rayrlhf.config.load import read_values
from rayrlhf.errors import ConfigError

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize(
    ("name", "kind"), [("ppo", "rl"), ("grpo", "rl"), ("sft", "sft"), ("reward", "reward"), ("cycle", "cycle")]
)
def test_a_job_is_told_from_the_keys_that_only_it_has(name, kind):
    assert job_kind(read_values(EXAMPLES / f"{name}.toml"), "--job") == kind


@pytest.mark.parametrize("unclear", [{}, {"data": {"demonstrations": "x", "comparisons": "y"}}])
def test_what_cannot_be_told_is_asked_for(unclear):
    with pytest.raises(ConfigError, match="Give --job"):
        job_kind(unclear, "--job")
