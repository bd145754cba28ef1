import subprocess
import sys

import pytest

from rayrlhf.cli import main
from rayrlhf.feedback.service import open_service
from tests.unit.feedback.people import ask, ranking, thumb


@pytest.fixture
def store(tmp_path):
    """A store with one comparison in it."""
    path = str(tmp_path / "feedback.db")
    with open_service(path) as service:
        a, b = ask(service, "Why?", "Because.", "Since.")
        service.comparison(ranking([a, b], [1, 2]), "ada")
        service.feedback(thumb(a), "ada")
    return path


def test_export_import_stats_and_forget(store, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["feedback", "export", "--store", store, "--to", str(folder), "--thumbs-up"]) == 0
    assert capsys.readouterr().out == f"{folder}: 1 comparisons, 1 demonstrations\n"
    copy = str(tmp_path / "copy.db")
    for expected in ("1 new, 0 already there", "0 new, 1 already there"):
        assert main(["feedback", "import", "--store", copy, str(folder / "comparisons.jsonl")]) == 0
        assert expected in capsys.readouterr().out
    assert main(["feedback", "stats", "--store", copy]) == 0
    assert "Krippendorff" in capsys.readouterr().out
    assert main(["feedback", "token", "--store", copy, "ada"]) == 0
    assert capsys.readouterr().out.startswith("rf-")
    assert main(["feedback", "forget", "--store", copy, "ada"]) == 0
    assert "1 comparisons" in capsys.readouterr().out
    assert main(["feedback", "rotate-keys", "--store", copy]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["stats", "--store", "{tmp}/none.db"], "none.db: no such feedback store"),
        (["export", "--store", "{tmp}/none.db", "--to", "{tmp}/out"], "no such feedback store"),
        (["export", "--store", "{store}", "--to", "s3://bucket/x"], "a path is expected"),
        (["export", "--store", "{store}", "--to", "{store}"], "cannot be written"),
        (["export", "--store", "{store}", "--to", "{tmp}", "--since", "yesterday"], "--since yesterday"),
        (["export", "--store", "{store}", "--to", "{tmp}", "--versions", "a"], "--versions a"),
        (["export", "--store", "{store}", "--to", "{tmp}", "--min-agreement", "2"], "--min-agreement 2"),
        (["import", "--store", "{store}", "{tmp}/none.jsonl"], "none.jsonl: no such file"),
        (["import", "--store", "{store}", "{store}"], "feedback.db, line 1"),
        (["forget", "--store", "{tmp}/none.db", "ada"], "no such feedback store"),
        (["token", "--store", "{store}", "ada", "--days", "0"], "--days 0"),
        (["stats", "--store", "mysql://x/y"], "postgresql+psycopg"),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_message(store, tmp_path, capsys, arguments, complaint):
    assert main(["feedback", *(a.format(tmp=tmp_path, store=store) for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rayrlhf feedback: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


def test_the_store_may_be_named_in_the_environment(store, monkeypatch, capsys):
    monkeypatch.setenv("RAYRLHF_FEEDBACK_STORE", store)
    assert main(["feedback", "stats"]) == 0
    assert "comparisons" in capsys.readouterr().out


def test_statistics_load_neither_torch_nor_ray(store):
    program = (
        "import sys; from rayrlhf.cli import main; main(['feedback', 'stats', '--store', sys.argv[1]]); "
        "print(sorted({'torch', 'ray', 'transformers', 'vllm', 'deepspeed', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, store], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
