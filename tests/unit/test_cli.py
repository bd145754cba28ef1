import subprocess
import sys

import pytest

from rayrlhf import stages
from rayrlhf.cli import main
from rayrlhf.errors import StorageError
from tests.unit.report.runs import rl_run


def test_report_prints_the_path_of_the_page_that_it_wrote(tmp_path, capsys):
    directory = rl_run(tmp_path)
    assert main(["report", str(directory.root)]) == 0
    assert capsys.readouterr().out == f"{directory.report}\n"
    assert directory.report.read_text().startswith("<!DOCTYPE html>")


def test_report_of_no_run_is_exit_code_2_and_one_message(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"rayrlhf report: {tmp_path / 'none'}: no such run directory\n"
    assert captured.out == ""


def test_report_loads_neither_torch_nor_ray(tmp_path):
    directory = rl_run(tmp_path)
    program = (
        "import sys; from rayrlhf.cli import main; main(['report', sys.argv[1]]); "
        "print(sorted({'torch', 'ray', 'transformers', 'vllm', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, directory.root], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_store_that_stays_away_ends_a_run_with_one_line_and_exit_code_1(monkeypatch, capsys):
    def away(job, **options):
        raise StorageError(5, "no route", "s3://bucket/runs/x/metrics.jsonl")

    monkeypatch.setattr(stages, "start_job", away)
    assert main(["rl", "examples/grpo.toml"]) == 1
    assert capsys.readouterr().err == (
        "rayrlhf rl: s3://bucket/runs/x/metrics.jsonl: no route; --resume auto goes on from the newest checkpoint\n"
    )


def test_the_quickstart_wants_a_path(capsys):
    assert main(["quickstart", "--directory", "s3://bucket/quickstart"]) == 2
    assert "a path is expected, not a URL" in capsys.readouterr().err


def test_keys_may_stand_after_options(monkeypatch):
    seen = []
    monkeypatch.setattr(stages, "start_job", lambda job, **options: seen.append((job, options)))
    assert main(["rl", "examples/grpo.toml", "seed=5", "--dry-run", "name=other", "--resume", "never"]) == 0
    ((job, options),) = seen
    assert (job.seed, job.name) == (5, "other")
    assert options == {"resume": "never", "dry_run": True}


@pytest.mark.parametrize("words", [["--dry-run", "word"], ["--dry-run", "--dryrun=yes"]])
def test_what_is_neither_an_option_nor_a_key_is_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rl", "examples/grpo.toml", *words])
    assert ended.value.code == 2
    assert f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err
