"""`rayrlhf submit` and `rayrlhf jobs` against a real cluster that asks for a token."""

import json
import re
import signal
import subprocess
import time

import pytest

from tests import tiny
from tests.system.jobs import rows
from tests.system.token_cluster import TOKEN, TokenCluster, command, environment, rayrlhf

TOML = """
name = "sft"
[model]
path = "model"
[data]
demonstrations = "data.jsonl"
max_sequence_tokens = 64
[learner]
cpus = 0.5
threads = 1
micro_batch_tokens = 512
learning_rate = 1e-2
[checkpoint]
every_steps = 1000
[run]
directory = "{runs}"
epochs = 2
batch_rows = 8
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A project: config, data and model, and where its runs go."""
    root = tmp_path_factory.mktemp("project") / "work"
    root.mkdir()
    tiny.write_policy(root / "model")
    tiny.write_policy(root / "poisoned")
    tiny.poison(root / "poisoned")
    lines = [
        {"messages": [{"role": "user", "content": f"{i}?"}], "response": f"{i} yes"} for i in range(16)
    ]  # fmt: skip
    (root / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "torn.jsonl").write_text('{"messages": [\n')
    (root / "sft.toml").write_text(TOML.format(runs=root.parent / "runs"))
    return root


@pytest.fixture(scope="module")
def cluster(home):
    cluster = TokenCluster(home)
    yield cluster
    cluster.kill()


@pytest.fixture(scope="module")
def run(cluster, work, home):
    """Run a command of ours against the cluster."""

    def run(*words, **options):
        return rayrlhf(*words, "--address", cluster.address, home=home, cwd=work, **options)

    return run


@pytest.fixture(scope="module")
def finished(run):
    return run("submit", "sft.toml")


def jobs_of(cluster):
    return {job["submission_id"]: job for job in cluster.ask("/api/jobs/") if job["submission_id"]}


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(1)
    return found


def test_a_submitted_job_is_followed_to_its_end(finished, work):
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"rayrlhf-sft-[0-9a-f]{8}-1 succeeded\n$", finished.stderr)
    assert (work.parent / "runs/sft/model/model.safetensors").exists()


def test_every_line_of_the_log_is_shown_once(finished):
    assert [finished.stdout.count(f"  {step}/4 ") for step in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_what_the_cluster_shows_of_a_job_holds_no_token(finished, cluster):
    (info,) = [job for name, job in jobs_of(cluster).items() if name.startswith("rayrlhf-sft-")]
    assert TOKEN not in json.dumps(info)
    assert info["metadata"]["job"] == "sft"


def test_the_driver_asks_for_a_cpu_of_the_head_node_and_for_nothing_else(finished, cluster):
    drivers = [actor for actor in cluster.state("actors") if actor["class_name"] == "JobSupervisor"]
    assert drivers
    for driver in drivers:
        assert driver["required_resources"] == {"CPU": 1.0, "node:__internal_head__": 0.001}


def test_submitting_again_attaches(finished, run, cluster):
    before = set(jobs_of(cluster))
    again = run("submit", "sft.toml")
    assert again.returncode == 0
    assert "succeeded already" in again.stderr
    assert set(jobs_of(cluster)) == before


def test_input_that_is_wrong_on_the_cluster_is_exit_code_2(run):
    torn = run("submit", "sft.toml", "name=torn", "data.demonstrations=torn.jsonl")
    assert torn.returncode == 2, torn.stderr
    assert "torn.jsonl" in torn.stdout
    assert torn.stderr.endswith("failed with exit code 2\n")


def test_a_job_that_fails_is_exit_code_1_and_its_next_attempt_counts_up(run, cluster):
    for attempt in (1, 2):
        failed = run("submit", "sft.toml", "name=poisoned", "model.path=poisoned", "recovery.max_bad_steps=0")
        assert failed.returncode == 1, failed.stderr
        assert re.search(rf"rayrlhf-poisoned-[0-9a-f]+-{attempt} failed with exit code 1\n$", failed.stderr)


def test_roles_that_do_not_fit_beside_the_driver_are_said_at_once(run):
    tight = run("submit", "sft.toml", "name=tight", "learner.cpus=1.5")
    assert tight.returncode == 2
    assert "have 1 CPUs and 0 GPUs on 1 node(s) beside the 1 CPUs of the job's driver" in tight.stdout


def test_a_driver_that_no_head_node_can_hold_is_refused(run):
    never = run("submit", "sft.toml", "name=never", "--driver-cpus", 3)
    assert never.returncode == 2
    assert "--driver-cpus 3: the head node has 2 CPUs" in never.stderr


def test_two_that_submit_at_the_same_moment_share_a_job(cluster, work, home):
    words = command(
        "submit", "sft.toml", "name=race", "data.demonstrations=torn.jsonl", "--address", cluster.address
    )  # fmt: skip
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    both = [subprocess.Popen(words, cwd=work, env=environment(home), **pipes) for _ in range(2)]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [2, 2]
    assert sorted("submitted with" in text for text in said) == [False, True], said
    assert [name.rpartition("-")[2] for name in jobs_of(cluster) if "-race-" in name] == ["1"]


def test_a_stopped_job_has_saved_and_its_next_attempt_resumes(run, cluster, work, home):
    words = ("sft.toml", "name=long", "run.epochs=5000")
    metrics = work.parent / "runs/long/metrics.jsonl"
    first = subprocess.Popen(
        command("submit", *words, "--address", cluster.address), cwd=work, env=environment(home),
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    wait_for(lambda: metrics.exists() and rows(metrics))
    first.send_signal(signal.SIGINT)  # Ctrl-C
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert re.search(r"goes on\. .*\nstop it: rayrlhf jobs stop rayrlhf-long-", said)
    assert "Traceback" not in said
    assert run("jobs", "status", *words).stdout.endswith("-1 is running\n")
    attached = run("submit", *words, "--detach")
    assert attached.stdout.strip().endswith("-1"), attached.stderr

    stopped = run("jobs", "stop", *words)
    assert stopped.returncode == 0, stopped.stderr
    saved = int(re.search(r"interrupted by SIGTERM: step (\d+) is saved", stopped.stdout)[1])
    assert (work.parent / f"runs/long/checkpoints/step-{saved:06d}/manifest.json").exists()

    second = run("submit", *words, "--detach")
    assert second.stdout.strip().endswith("-2"), second.stderr
    wait_for(lambda: len(rows(metrics)) > saved)
    steps = [row["step"] for row in rows(metrics)]
    assert steps == list(range(1, len(steps) + 1))  # it went on where the first had saved
    assert run("jobs", "stop", second.stdout.strip()).returncode == 0


def test_the_jobs_of_a_cluster_are_listed_newest_first(finished, run, cluster):
    listed = run("jobs", "list")
    assert listed.returncode == 0
    began = {name: job["start_time"] for name, job in jobs_of(cluster).items()}
    assert [line.split()[0] for line in listed.stdout.splitlines()] == sorted(began, key=began.get, reverse=True)


def test_the_logs_of_a_job_can_be_read_later(finished, run):
    logs = run("jobs", "logs", "sft.toml")
    assert "  4/4 " in logs.stdout
    followed = run("jobs", "logs", "sft.toml", "--follow")
    assert (followed.returncode, followed.stdout) == (0, logs.stdout)


def test_a_job_that_nobody_submitted_is_said(run):
    for target in ("rayrlhf-none-1", "sft.toml"):
        answer = run("jobs", "status", target, *(["name=other"] if target == "sft.toml" else []))
        assert answer.returncode == 2
        assert "rayrlhf jobs list" in answer.stderr


@pytest.mark.parametrize("words", [("submit", "sft.toml"), ("jobs", "list"), ("jobs", "stop", "sft.toml")])
def test_the_wrong_token_and_none_are_said_without_a_traceback(run, words):
    wrong, none = run(*words, token="not-the-clusters-token-0123456789"), run(*words, token=None)
    assert (wrong.returncode, none.returncode) == (2, 2)
    assert "does not take the token from RAY_AUTH_TOKEN (403)" in wrong.stderr
    assert "asks for a token, and none was found at ~/.ray/auth_token (401)" in none.stderr
    assert "Traceback" not in wrong.stderr + none.stderr


def test_a_working_directory_that_is_too_large_is_refused_before_the_upload(run, work):
    big = work / "big.bin"
    try:
        with big.open("wb") as file:
            file.truncate(101 * 2**20)
        refused = run("submit", "sft.toml", "name=big")
    finally:
        big.unlink()
    assert refused.returncode == 2
    assert re.search(r"101\.\d MiB would be uploaded, .* takes at most 100 MiB", refused.stderr)
    assert re.search(r"101\.0 MiB  big\.bin\n", refused.stderr)
