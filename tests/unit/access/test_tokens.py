import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from rayrlhf.access.tokens import TokenFile, require_role
from rayrlhf.errors import FeedbackStoreError, RequestRefusedError

NOW = datetime.now(UTC)


@pytest.fixture
def tokens(tmp_path):
    return TokenFile(tmp_path / "tokens.json")


def test_a_token_is_stored_as_a_hash_for_its_owner_alone(tokens):
    given = tokens.issue("ada", "labeller", 1)
    assert given not in tokens.path.read_text()
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    found = tokens.authenticate(f"Bearer {given}", NOW)
    assert (found.user, found.role) == ("ada", "labeller")


def test_an_unknown_and_an_expired_token_cannot_be_told_apart(tokens):
    given = tokens.issue("ada", "user", 1)
    messages = set()
    for token, now in ((given, NOW + timedelta(days=2)), ("rf-unknown", NOW), (given[:-1], NOW), ("é", NOW)):
        with pytest.raises(RequestRefusedError) as refused:
            tokens.authenticate(f"Bearer {token}", now)
        messages.add((str(refused.value), refused.value.status, refused.value.code))
    assert messages == {("the token is not valid", 401, "invalid_token")}


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer  ", "Basic abc", "rf-abc"])
def test_no_token_is_401(tokens, header):
    with pytest.raises(RequestRefusedError) as refused:
        tokens.authenticate(header, NOW)
    assert (refused.value.status, refused.value.code) == (401, "missing_token")


def test_roles_include_those_below(tokens):
    labeller = tokens.authenticate(f"Bearer {tokens.issue('ada', 'labeller', 1)}", NOW)
    require_role(labeller, "user"), require_role(labeller, "labeller")
    with pytest.raises(RequestRefusedError) as refused:
        require_role(labeller, "admin")
    assert refused.value.status == 403


def test_issuing_and_revoking_is_seen_at_once(tokens):
    seen_by_the_service = TokenFile(tokens.path)
    first = tokens.issue("ada", "user", 1)
    seen_by_the_service.authenticate(f"Bearer {first}", NOW)
    second = tokens.issue("bob", "user", 1)
    seen_by_the_service.authenticate(f"Bearer {second}", NOW)
    assert tokens.revoke("ada") == 1
    with pytest.raises(RequestRefusedError):
        seen_by_the_service.authenticate(f"Bearer {first}", NOW)
    seen_by_the_service.authenticate(f"Bearer {second}", NOW)


def test_tokens_that_are_issued_at_once_are_all_there(tokens):
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda n: tokens.issue(f"user-{n}", "user", 1), range(8)))
    assert len({tokens.authenticate(f"Bearer {token}", NOW).user for token in given}) == 8


@pytest.mark.parametrize("content", ["[", "{}", '[{"sha256": "x"}]'])
def test_a_file_that_holds_no_tokens_is_named(tokens, content):
    tokens.path.write_text(content)
    tokens.path.chmod(0o600)
    with pytest.raises(FeedbackStoreError, match=r"tokens\.json"):
        tokens.authenticate("Bearer x", NOW)


def test_a_user_without_a_name_gets_no_token(tokens):
    with pytest.raises(FeedbackStoreError, match="user"):
        tokens.issue("", "user", 1)
