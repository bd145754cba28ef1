from rayrlhf import stages
from rayrlhf.cli import main
from rayrlhf.errors import StorageError


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
