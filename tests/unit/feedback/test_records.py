import json

import pytest

from rayrlhf.errors import RequestRefusedError
from rayrlhf.feedback.records import read_comparison, read_feedback

THUMB = {"kind": "thumb", "value": "up", "response_id": "r", "idempotency_key": "k"}
PAIR = {"response_ids": ["a", "b"], "ranks": [1, 2], "idempotency_key": "k"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "star"}, "kind"),
        ({"value": "sideways"}, "value"),
        ({"value": 1}, "value"),
        ({"kind": "rating", "value": 0}, "value"),
        ({"kind": "rating", "value": 6}, "value"),
        ({"kind": "rating", "value": "5"}, "value"),
        ({"kind": "rating", "value": True}, "value"),
        ({"user": "somebody else"}, "user"),
        ({"time": "2020-01-01"}, "time"),
        ({"response_id": ""}, "response_id"),
        ({"response_id": "r" * 201}, "response_id"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": "a\0b"}, "U\\+0000"),
    ],
)
def test_a_wrong_vote_is_refused_with_its_key(change, complaint):
    with pytest.raises(RequestRefusedError, match=complaint):
        read_feedback(json.dumps(THUMB | change))


@pytest.mark.parametrize("missing", ["kind", "value", "response_id", "idempotency_key"])
def test_every_key_of_a_vote_is_needed(missing):
    with pytest.raises(RequestRefusedError):
        read_feedback(json.dumps({name: value for name, value in THUMB.items() if name != missing}))


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}'])
def test_what_is_no_json_object_is_refused(body):
    for read in (read_feedback, read_comparison):
        with pytest.raises(RequestRefusedError):
            read(body)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"response_ids": ["a"], "ranks": [1]}, "response_ids"),
        ({"response_ids": list("abcdefghij"), "ranks": list(range(1, 11))}, "response_ids"),
        ({"response_ids": ["a", "a"]}, "once"),
        ({"ranks": [1]}, "one for each of the 2"),
        ({"ranks": []}, "one for each of the 2"),
        ({"ranks": [2, 2]}, "from 1"),
        ({"ranks": [0, 1]}, "from 1"),
        ({"ranks": [1, 3]}, "to 2"),
        ({"ranks": [1.0, 2.0]}, "ranks"),
        ({"both_bad": "yes"}, "both_bad"),
    ],
)
def test_a_wrong_comparison_is_refused_with_its_key(change, complaint):
    with pytest.raises(RequestRefusedError, match=complaint):
        read_comparison(json.dumps(PAIR | change))


@pytest.mark.parametrize("ranks", [[1, 1, 1], [1, 1, 2], [1, 1, 3], [3, 1, 2], [1, 2, 2]])
def test_ties_may_skip_ranks_or_not(ranks):
    post = read_comparison(json.dumps({"response_ids": ["a", "b", "c"], "ranks": ranks, "idempotency_key": "k"}))
    assert list(post.ranks) == ranks


def test_what_is_wrong_does_not_repeat_what_was_sent():
    for change in ({"value": "<script>"}, {"kind": "<script>"}, {"<script>": 1}):
        with pytest.raises(RequestRefusedError) as refused:
            read_feedback(json.dumps(THUMB | change))
        assert "script" not in str(refused.value)
