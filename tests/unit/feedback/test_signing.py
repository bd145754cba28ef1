import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrlhf.errors import FeedbackStoreError, RequestRefusedError
from rayrlhf.feedback.records import Turn
from rayrlhf.feedback.signing import KeyRing, SigningKey, open_keys, rotate_keys
from tests.unit.feedback.people import ask, thumb

TURNS = (Turn(role="user", content="Why?"),)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def ring():
    return KeyRing((SigningKey(id="k1", secret="ab" * 32),))


@given(version=st.integers(0, 2**63 - 1), text=st.text(), question=st.text())
def test_an_id_carries_the_version_and_covers_its_text(version, text, question):
    ring = KeyRing((SigningKey(id="k1", secret="ab" * 32),))
    turns = (Turn.model_construct(role="user", content=question),)
    response_id = ring.sign(turns, text, version)
    assert ring.policy_version(response_id) == version
    assert ring.covers(response_id, turns, text)
    assert not ring.covers(response_id, turns, text + "!")
    assert not ring.covers(response_id, (*turns, *turns), text)


def test_a_text_cannot_move_between_conversation_and_answer(ring):
    two = (Turn(role="user", content="a"), Turn(role="assistant", content="b"))
    assert not ring.covers(ring.sign(two, "c", 1), two[:1], "c")


def test_no_single_changed_character_is_accepted(ring):
    response_id = ring.sign(TURNS, "Because.", 7)
    for place, given_character in enumerate(response_id):
        for other in (*ALPHABET, ".", "=", " ", "\n", "é"):
            if other != given_character:
                with pytest.raises(RequestRefusedError):
                    ring.policy_version(response_id[:place] + other + response_id[place + 1 :])


@pytest.mark.parametrize("forged", ["", "rsp1", "a.b.c.d.e", "rsp1.k1." + "A" * 32 + "." + "A" * 43 + "." + "A" * 43])
def test_what_is_no_id_is_refused_with_a_reason(ring, forged):
    with pytest.raises(RequestRefusedError, match="response_id: ") as refused:
        ring.policy_version(forged)
    assert (refused.value.status, refused.value.code) == (400, "invalid_response_id")


def test_neither_padding_nor_a_line_end_makes_another_valid_id(ring):
    response_id = ring.sign(TURNS, "Because.", 7)
    for more in ("\n", "=", " ", ".A"):
        with pytest.raises(RequestRefusedError):
            ring.policy_version(response_id + more)


def test_another_key_with_the_same_name_signs_other_ids(ring):
    other = KeyRing((SigningKey(id="k1", secret="cd" * 32),))
    with pytest.raises(RequestRefusedError, match="not signed by this service"):
        ring.policy_version(other.sign(TURNS, "Because.", 7))


def test_ids_do_not_show_which_of_two_came_from_the_same_version(ring):
    sealed = {ring.sign(TURNS, "Because.", 7).split(".")[2] for _ in range(50)}
    assert len({text[-8:] for text in sealed}) == 50


def test_a_signed_id_is_for_the_text_that_is_stored_under_it(sqlite_service):
    service = sqlite_service
    [answer] = ask(service, "Why?", "Because.")
    with service.store.database.write("x") as connection:
        connection.exec_driver_sql("UPDATE feedback_answers SET text = 'Another text.'")
    with pytest.raises(RequestRefusedError, match="another text") as refused:
        service.feedback(thumb(answer), "ada")
    assert refused.value.code == "response_mismatch"


def test_keys_are_made_on_first_use_for_their_owner_alone(tmp_path):
    path = tmp_path / "new" / "keys.json"
    ring = open_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_keys(path) == ring
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_processes_that_make_the_keys_at_once_get_the_same_ones(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(lambda _: open_keys(tmp_path / "keys.json"), range(8)))
    assert len({ring.keys for ring in rings}) == 1


def test_after_a_rotation_the_new_key_signs_and_old_ids_stay_valid(tmp_path):
    path = tmp_path / "keys.json"
    before = open_keys(path)
    old = before.sign(TURNS, "Because.", 3)
    after = rotate_keys(path)
    assert after.keys[1:] == before.keys
    assert open_keys(path).policy_version(old) == 3
    assert after.sign(TURNS, "Because.", 4).split(".")[1] == after.keys[0].id != before.keys[0].id


def test_an_id_of_a_key_that_was_taken_out_is_refused(tmp_path):
    path = tmp_path / "keys.json"
    old = open_keys(path).sign(TURNS, "Because.", 3)
    new = rotate_keys(path).keys[0]
    path.write_text(json.dumps([new.model_dump()]))
    with pytest.raises(RequestRefusedError, match="no longer has"):
        open_keys(path).policy_version(old)


def test_keys_come_from_the_environment_first(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYRLHF_FEEDBACK_KEYS", f"new:{'ef' * 32}, old:{'ab' * 32}")
    assert [key.id for key in open_keys(tmp_path / "keys.json").keys] == ["new", "old"]
    assert not (tmp_path / "keys.json").exists()


def test_keys_that_everybody_can_read_are_refused(tmp_path):
    path = tmp_path / "keys.json"
    open_keys(path)
    path.chmod(0o644)
    with pytest.raises(FeedbackStoreError, match="chmod 600"):
        open_keys(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '[{"id": "k1", "secret": "short"}]', '[{"id": "k 1"}]', "\xff"])
def test_a_file_that_holds_no_keys_is_named(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(FeedbackStoreError, match=r"keys\.json"):
        open_keys(path)


def test_a_wrong_secret_is_not_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYRLHF_FEEDBACK_KEYS", "k1:hunter2")
    with pytest.raises(FeedbackStoreError) as refused:
        open_keys(tmp_path / "keys.json")
    assert "hunter2" not in str(refused.value)


def test_a_key_does_not_print_its_secret(ring):
    assert "abab" not in repr(ring)
