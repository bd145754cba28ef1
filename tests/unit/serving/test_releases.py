import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rayrlhf.data.durable import write_digests
from rayrlhf.errors import ReleaseError
from rayrlhf.serving.releases import ReleaseBook, check_files, describe_model, shape_of


def make_model(folder, value=0.0, width=4, dtype=torch.float32):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"width": width}))
    save_file({"w": torch.full((width, 2), value, dtype=dtype)}, folder / "model.safetensors")
    write_digests(folder)
    return folder


@pytest.fixture
def book(tmp_path):
    return ReleaseBook(tmp_path / "service")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_releases_are_numbered_once_and_for_all(book, tmp_path):
    one, two = make_model(tmp_path / "one"), make_model(tmp_path / "two", 1.0)
    assert [book.register(model).version for model in (one, two, one)] == [1, 2, 1]
    make_model(tmp_path / "one", 2.0)
    assert book.register(one).version == 3, "other weights in the same place are another release"
    assert ReleaseBook(book.directory).read().release(2).source == str(two)


def test_a_flipped_bit_is_found_before_and_after_the_release(book, tmp_path):
    model = make_model(tmp_path / "model")
    release = book.register(model)
    check_files(release)
    flip(model / "model.safetensors", -1)
    with pytest.raises(ReleaseError, match=r"model\.safetensors: not what was released"):
        check_files(release)
    with pytest.raises(ReleaseError, match=r"model\.safetensors: not what was exported"):
        describe_model(model)
    (Path(release.model) / "model.safetensors").unlink()
    with pytest.raises(ReleaseError, match=r"model\.safetensors: No such file"):
        check_files(release)


def test_an_export_that_takes_the_place_of_a_released_model_does_not_take_it_from_the_service(book, tmp_path):
    release = book.register(make_model(tmp_path / "model"))
    shutil.rmtree(tmp_path / "model")
    make_model(tmp_path / "model", 2.0)
    check_files(release)
    assert book.register(tmp_path / "model").version == 2
    check_files(release)


def test_a_file_that_was_added_to_an_export_is_not_served(book, tmp_path):
    model = make_model(tmp_path / "model")
    save_file({"w": torch.zeros(4, 2)}, model / "other.safetensors")
    with pytest.raises(ReleaseError, match=r"other\.safetensors: was not exported"):
        book.register(model)


def test_a_model_without_noted_digests_is_taken_as_it_is(book, tmp_path):
    model = make_model(tmp_path / "model")
    (model / "digests.json").unlink()
    assert set(book.register(model).files) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("damage", ["empty", "truncated header", "not safetensors"])
def test_a_file_without_a_header_is_refused(book, tmp_path, damage):
    model = make_model(tmp_path / "model")
    data = (model / "model.safetensors").read_bytes()
    broken = {"empty": b"", "truncated header": data[:20], "not safetensors": b"PK\3\4" * 50}[damage]
    (model / "model.safetensors").write_bytes(broken)
    write_digests(model)
    with pytest.raises(ReleaseError, match=r"model\.safetensors: damaged"):
        book.register(model)
    assert book.read().releases == ()


def test_only_models_are_released(book, tmp_path):
    (tmp_path / "empty").mkdir()
    pickled = make_model(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for wrong in (tmp_path / "nowhere", tmp_path / "empty", pickled):
        with pytest.raises(ReleaseError, match="not a model"):
            book.register(wrong)


def test_the_shape_is_that_of_tensors_config_and_tokenizer_and_not_of_values(tmp_path):
    one = shape_of(make_model(tmp_path / "one"))
    assert shape_of(make_model(tmp_path / "other values", 1.0)) == one
    assert shape_of(make_model(tmp_path / "wider", width=8)) != one
    assert shape_of(make_model(tmp_path / "half", dtype=torch.bfloat16)) != one
    with_tokenizer = make_model(tmp_path / "tokenizer")
    (with_tokenizer / "tokenizer.json").write_text("{}")
    assert shape_of(with_tokenizer) != one


def test_a_damaged_ledger_is_named(book, tmp_path):
    book.register(make_model(tmp_path / "model"))
    book.path.write_text(book.path.read_text()[:-20])
    with pytest.raises(ReleaseError, match=r"releases\.json: not a list of releases"):
        book.read()


def test_a_release_that_is_not_there_is_named(book, tmp_path):
    book.register(make_model(tmp_path / "model"))
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(ReleaseError, match="no release 7"):
        book.read().release(7)
