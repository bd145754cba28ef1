import json

import pyarrow
import pytest
from pyarrow import parquet

from rayrlhf.data.rows import read_demonstrations, read_prompts, read_rankings
from rayrlhf.errors import DataError

ASK = [{"role": "user", "content": "Hi"}]


def write(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def test_pairs_and_rankings_become_winner_loser_pairs(tmp_path):
    source = write(
        tmp_path / "c.jsonl",
        {"messages": ASK, "chosen": "a", "rejected": "b"},
        {"messages": ASK, "responses": ["x", "y", "z"], "ranks": [2, 1, 2]},
        {"messages": ASK, "responses": ["x", "y"], "ranks": [1, 1]},
    )
    assert [r.pairs for r in read_rankings(source)] == [((0, 1),), ((1, 0), (1, 2)), ()]


def test_parquet_and_jsonl_give_the_same_rows(tmp_path):
    rows = [{"messages": ASK, "response": "yes"}, {"messages": ASK, "response": "no"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    assert read_demonstrations(str(tmp_path / "d.parquet")) == read_demonstrations(write(tmp_path / "d.jsonl", *rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object"),
        ({"messages": []}, "line 2: `messages` must be a non-empty list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2: each message needs a `role`"),
        ({"messages": [{"role": "user", "content": 3}]}, "line 2: each message needs a string `content`"),
    ],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path, row, message):
    source = write(tmp_path / "p.jsonl", {"messages": ASK}, row)
    with pytest.raises(DataError) as error:
        read_prompts(source)
    assert message in str(error.value)


def test_a_line_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'{"messages": [{"role": "user", "content": "caf\xe9"}]}\n')
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        read_prompts(str(tmp_path / "p.jsonl"))


def test_a_missing_and_an_empty_file_are_named(tmp_path):
    with pytest.raises(DataError, match="no such data file"):
        read_prompts(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="no rows"):
        read_prompts(write(tmp_path / "e.jsonl"))


@pytest.mark.parametrize("row", [{"messages": ASK, "chosen": "a", "rejected": 3}, {"messages": ASK, "chosen": "a"}])
def test_a_comparison_needs_two_answers(tmp_path, row):
    with pytest.raises(DataError, match="`rejected` must be a string"):
        read_rankings(write(tmp_path / "c.jsonl", row))


def test_an_empty_answer_can_be_compared_but_not_demonstrated(tmp_path):
    (ranking,) = read_rankings(write(tmp_path / "c.jsonl", {"messages": ASK, "chosen": "a", "rejected": ""}))
    assert ranking.responses == ("a", "")
    with pytest.raises(DataError, match="`response` must be a non-empty string"):
        read_demonstrations(write(tmp_path / "d.jsonl", {"messages": ASK, "response": " "}))
