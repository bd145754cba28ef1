"""A declared model is a release with a number of its own; a service that is started again keeps what served."""

import pytest

from rayrlhf.errors import InputError
from rayrlhf.serving.command_line import _last_served
from rayrlhf.serving.declared import released
from rayrlhf.serving.releases import ReleaseBook, Serving
from rayrlhf.serving.settings import ServiceSettings
from tests import tiny


@pytest.fixture
def book(tmp_path):
    return ReleaseBook(tmp_path / "service")


def test_the_same_model_keeps_its_number_and_another_one_is_for_everybody(book, tmp_path):
    first, second = str(tiny.write_policy(tmp_path / "a")), str(tiny.write_policy(tmp_path / "b", seed=1))
    assert released(book.directory, first).primary == Serving(slot="a", version=1)
    assert released(book.directory, first).primary == Serving(slot="a", version=1)
    assert released(book.directory, second).primary == Serving(slot="a", version=2)
    assert released(book.directory, first).primary == Serving(slot="a", version=1)
    assert len(book.read().releases) == 2


def test_what_was_changed_by_hand_is_undone(book, tmp_path):
    first = str(tiny.write_policy(tmp_path / "a"))
    ledger = released(book.directory, first)
    book.write(ledger.model_copy(update={"canary": Serving(slot="b", version=1, share=0.5)}))
    assert released(book.directory, first).canary is None


def test_what_is_no_model_is_refused_and_what_served_serves(book, tmp_path):
    released(book.directory, str(tiny.write_policy(tmp_path / "a")))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError):
        released(book.directory, str(tmp_path / "none"))
    assert book.read().primary == Serving(slot="a", version=1)


def test_a_service_that_starts_again_goes_on_with_what_served(book, tmp_path):
    settings = ServiceSettings(directory=str(book.directory))
    assert _last_served(settings) is None
    promoted = tiny.write_policy(tmp_path / "promoted")
    released(book.directory, str(promoted))
    assert _last_served(settings) == promoted
    (promoted / "model.safetensors").write_bytes(b"another")
    kept = _last_served(settings)
    assert str(kept) == book.read().releases[0].model
