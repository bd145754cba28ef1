"""A run directory with anything damaged in it: exit code 2, the file is named, nothing is touched or started."""

import hashlib
import json
import pickle
import shutil

import pytest
import ray
import torch

from rayrlhf.cli import main
from rayrlhf.config.sections import ModelConfig
from rayrlhf.data.durable import digest_file
from rayrlhf.data.journal import Journal
from rayrlhf.data.segments import SegmentWriter
from rayrlhf.engines.models import load_policy
from rayrlhf.engines.training_state import TrainingSnapshot
from rayrlhf.loop.checkpoint import CheckpointStore
from rayrlhf.loop.progress import Progress
from rayrlhf.role_types import SavedFile
from rayrlhf.stages.rl import prepare
from rayrlhf.stages.run_directory import RunDirectory, to_toml
from rayrlhf.types import Completion, Prompt, Reward, Rewards, Trajectory, VersionSpan
from tests import tiny
from tests.system import jobs

SHARD = "checkpoints/step-000001/policy/shard-00001-of-00002.safetensors"
MANIFEST = "checkpoints/step-000001/manifest.json"
COMMITTED = "trajectories/step-000001.parquet"
OPEN = "trajectories/open/step-000002/w.jsonl"


def trajectory(step):
    prompt = Prompt("0", ({"role": "user", "content": "Hi"},), (1, 2, 3))
    completion = Completion((4, 2), (-1.0, -2.0), "stop", (VersionSpan(0, 2, step - 1),))
    return Trajectory(f"{step:06d}-00000-000", f"{step:06d}-00000", 0, prompt, completion)


def write_checkpoint(directory, job, policy):
    store = CheckpointStore(directory.checkpoints, 2, job.model_dump(mode="json"), prepare(job, "never").prompts.digest)
    folder, files = store.begin(1), {}
    parameters = list(load_policy(ModelConfig(path=str(policy))).named_parameters())
    for rank in range(2):
        tensors = {f"weight/{name}": p.detach() for i, (name, p) in enumerate(parameters) if i % 2 == rank}
        file = TrainingSnapshot(tensors, rank, 2, 0).write(folder / "policy")
        files[f"policy/{file.name}"] = SavedFile(file.name, *digest_file(file))
    store.complete(folder, Progress(1, 1, 0.0), files)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, tiny_policy):
    """A run with a checkpoint and a committed step, and a second step in progress, as a killed driver leaves it."""
    folder = tmp_path_factory.mktemp("begun")
    job = jobs.make(folder, tiny_policy)
    directory = RunDirectory(folder / "runs" / "run")
    write_checkpoint(directory, job, tiny_policy)
    directory.create(job)
    first = trajectory(1)
    Journal(directory.trajectories).commit(1, [first], Rewards({first.id: Reward(1.0, {}, "ok")}), {first.id: "a"})
    writer = SegmentWriter(directory.trajectories, "w")
    writer.append(2, trajectory(2)).result(10)
    writer.close()
    directory.metrics.write_text('{"step": 1}\n')
    (folder / "job.toml").write_text(to_toml(job))
    return folder


@pytest.fixture
def resume(begun, tmp_path, tiny_policy, capsys):
    """Damage a copy of the run and try to go on with it; returns the message."""

    def attempt(damage, *arguments):
        run = tmp_path / "runs" / "run"
        shutil.copytree(begun / "runs" / "run", run)
        damage(run)
        config = tmp_path / "job.toml"
        config.write_text(to_toml(jobs.make(tmp_path, tiny_policy)))
        before = contents(tmp_path)
        assert main(["rl", str(config), *(text.format(run=run) for text in arguments)]) == 2
        assert contents(tmp_path) == before
        assert not ray.is_initialized()
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    return attempt


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def cut(name):
    def damage(run):
        (run / name).write_bytes((run / name).read_bytes()[:-20])

    return damage


def overwrite(name, data):
    return lambda run: (run / name).write_bytes(data)


def flip(name, at):
    def damage(run):
        data = bytearray((run / name).read_bytes())
        data[at] ^= 1
        (run / name).write_bytes(bytes(data))

    return damage


def describe_anew(run, name):
    """Bring the manifest up to date with a file, as somebody who means to would."""
    size, sha256 = digest_file(run / "checkpoints/step-000001" / name)
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": size, "sha256": sha256}
    (run / MANIFEST).write_text(json.dumps(manifest))


class Harmful:
    """What a pickled checkpoint could do."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def pickled(run):
    (run / SHARD).write_bytes(pickle.dumps(Harmful()))
    describe_anew(run, "policy/" + SHARD.rpartition("/")[2])


@pytest.mark.parametrize(
    ("damage", "named", "says"),
    [
        (cut(COMMITTED), COMMITTED, "truncated or damaged"),
        (overwrite(COMMITTED, b""), COMMITTED, "truncated or damaged"),
        (flip(OPEN, 30), OPEN, "line 1: damaged"),
        (overwrite("trajectories/rejected.jsonl", b"{oops\n"), "trajectories/rejected.jsonl", "line 1: damaged"),
        (cut(MANIFEST), MANIFEST, "damaged"),
        (cut(SHARD), SHARD, "not the file that was saved"),
        (flip(SHARD, -5), SHARD, "not the file that was saved"),
        (lambda run: (run / SHARD).unlink(), SHARD, "missing"),
        (overwrite("checkpoints/step-000001/state.json", b"{}"), "state.json", "not the file that was saved"),
        (overwrite(SHARD, pickle.dumps(Harmful())), SHARD, "not the file that was saved"),
        (pickled, SHARD, "never unpickled"),
        (overwrite("metrics.jsonl", b"oops\n"), "metrics.jsonl", "line 1"),
    ],
)
def test_a_damaged_file_is_named(resume, damage, named, says):
    error = resume(damage)
    assert named in error
    assert says in error


def test_a_missing_manifest_is_named_when_that_checkpoint_is_asked_for(resume):
    error = resume(lambda run: (run / MANIFEST).unlink(), "--resume", "{run}/checkpoints/step-000001")
    assert "step-000001: not a complete checkpoint (no manifest.json)" in error


def test_a_damaged_config_is_named_where_no_checkpoint_has_it(resume):
    def damage(run):
        shutil.rmtree(run / "checkpoints")
        (run / "config.toml").write_text("name = ")

    assert "runs/run/config.toml: not valid TOML" in resume(damage)


def test_another_config_is_refused_with_the_key(resume):
    error = resume(lambda run: None, "rollout.temperature=0.5")
    assert "rollout.temperature was 1.0, is 0.5" in error


def test_other_prompts_are_refused(resume, tmp_path):
    def damage(run):
        rows = tmp_path / "other.jsonl"
        rows.write_text(json.dumps({"messages": [{"role": "user", "content": "another"}]}) + "\n")

    assert "data.prompts has other rows now" in resume(damage, f"data.prompts={tmp_path}/other.jsonl")


@pytest.mark.parametrize("change", [{"hidden_size": 96}, {"num_hidden_layers": 3}])
def test_a_checkpoint_of_another_model_is_named(begun, tmp_path, capsys, change):
    """The model's directory holds another model now than when the run began."""
    policy = tiny.write_policy(tmp_path / "policy")
    job = jobs.make(tmp_path, policy)
    write_checkpoint(RunDirectory(tmp_path / "runs" / "run"), job, policy)
    other = tiny.config()
    for key, value in change.items():
        setattr(other, key, value)
    torch.manual_seed(0)
    tiny.LlamaForCausalLM(other).save_pretrained(policy)
    (tmp_path / "job.toml").write_text(to_toml(job))
    before = contents(tmp_path)
    assert main(["rl", str(tmp_path / "job.toml")]) == 2
    assert contents(tmp_path) == before
    error = capsys.readouterr().err
    assert "step-000001/policy: a checkpoint of another model: model.model." in error


def test_the_undamaged_run_is_accepted(begun, tmp_path, tiny_policy, capsys):
    """Else every case above would prove nothing."""
    assert main(["rl", str(begun / "job.toml"), "--dry-run"]) == 0
