"""DeepSpeed with real process groups: ranks, ZeRO stages and micro-batches change nothing but speed."""

import errno
import math
import pickle
import resource
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from rayrlhf.algorithms.objectives import LossTerms, cross_entropy_objective
from rayrlhf.config.sections import LearnerConfig, ModelConfig
from rayrlhf.errors import CheckpointError
from tests.ports import free_port

ROWS, WIDTH = 8, 16


def data():
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(ROWS, WIDTH)
    mask[:, :4] = 0
    mask[3, 9:] = 0
    return torch.randint(4, 100, (ROWS, WIDTH), generator=generator), mask


def objective(module, rows):
    ids, mask = data()
    logprobs, _ = module(ids[rows], mask[rows])
    return cross_entropy_objective(logprobs, mask[rows], float(mask.sum()))


def infinite_loss(module, rows):
    """Its gradients are finite: zero."""
    return LossTerms(objective(module, rows).loss.clamp(min=math.inf))


def infinite_slope(module, rows):
    """Its loss is finite: zero."""
    return LossTerms(torch.sqrt(objective(module, rows).loss * 0.0))


BAD = {"loss": infinite_loss, "gradient": infinite_slope}


@dataclass(frozen=True)
class Case:
    """One training run: `steps` updates, from `load` where given, into the folder `out`.

    Before each of them may come a step that is bad in the last rank's first of several micro-batches only.
    """

    out: str
    stage: int = 0
    splits: int = 1
    optimizer: str = "sgd"
    steps: int = 3
    load: str = ""
    dtype: str = "float32"
    bad: tuple[str, ...] = ()


def train(rank, world, port, model, cases):
    """All cases in one process group: importing the engines takes longer than training."""
    from rayrlhf.engines.process_group import Rendezvous, join

    torch.set_num_threads(1)
    join(Rendezvous("127.0.0.1", port, world, 60.0), rank)
    for case in cases:
        train_case(rank, world, model, case)


def train_case(rank, world, model, case):
    from rayrlhf.engines.models import load_policy
    from rayrlhf.engines.training import TrainingEngine
    from rayrlhf.engines.training_state import load_module_weights, load_optimizer_state, snapshot
    from rayrlhf.engines.weight_source import WeightSource

    rate = 0.05 if case.optimizer == "sgd" else 1e-3
    config = LearnerConfig(
        ranks=world, zero_stage=case.stage, optimizer=case.optimizer, learning_rate=rate, max_gradient_norm=None
    )
    module = load_policy(ModelConfig(path=model, dtype=case.dtype))
    if case.load:
        load_module_weights(module, Path(case.load) / "state")
    engine = TrainingEngine(module, config, case.dtype)
    if case.load:
        load_optimizer_state(engine, Path(case.load) / "state")
    mine = list(range(ROWS))[rank::world]
    size = -(-len(mine) // case.splits)
    batches = [mine[i : i + size] for i in range(0, len(mine), size)]
    trace = [agreed(engine, {})]
    for index in range(case.steps):
        if case.bad:
            engine.accumulate(batches, spoiled(case.bad[index], rank == world - 1))
            engine.accumulate(batches, objective)  # a second objective into the same gradients
            trace.append(agreed(engine, engine.step()))
        engine.accumulate(batches, objective)
        trace.append(agreed(engine, engine.step()))
    result = {
        "trace": trace,
        "steps": engine.optimizer_steps,
        "weights": WeightSource(module.model).state_dict(1 << 14),
    }
    taken = snapshot(engine)
    taken.write(Path(case.out) / "state")
    engine.accumulate(batches, objective)
    trace.append(agreed(engine, engine.step()))
    taken.write(Path(case.out) / "state-written-later")
    if rank == 0:
        torch.save(result, Path(case.out) / "result.pt")


def agreed(engine, metrics):
    """What every rank says about a step and the weights after it."""
    from rayrlhf.engines.training_state import weights_digest

    mine = {"digest": weights_digest(engine), **metrics}
    said = [None] * engine.world_size
    dist.all_gather_object(said, repr(mine))
    assert len(set(said)) == 1, said
    return mine


def spoiled(kind, here):
    calls = []

    def objective_of_a_bad_step(module, rows):
        calls.append(rows)
        return (BAD[kind] if here and len(calls) == 1 else objective)(module, rows)

    return objective_of_a_bad_step


SGD = {
    "one rank": (1, Case("a", 0)),
    "one rank, four micro-batches": (1, Case("b", 0, splits=4)),
    "one rank, ZeRO 2": (1, Case("c", 2)),
    "two ranks, ZeRO 0, two micro-batches": (2, Case("d", 0, splits=2)),
    "two ranks, ZeRO 2": (2, Case("e", 2)),
    "two ranks, ZeRO 3, three micro-batches": (2, Case("f", 3, splits=3)),
}
SAVED = {"g": (2, 3), "h": (1, 2), "i": (2, 2)}
LOADED = {"g": (1, 0), "h": (2, 3), "i": (2, 2)}
HALF = {"j": (1, 1), "k": (2, 2), "l": (2, 3)}
"""bfloat16 weights with float32 masters: name, (ranks, ZeRO stage)."""
SKIPPED = {
    f"ZeRO {stage}, {dtype}, ranks {world}": (world, stage, dtype)
    for world in (1, 2)
    for dtype, stages in {"float32": (0, 1, 2, 3), "bfloat16": (1, 2, 3)}.items()
    for stage in stages
}
"""Runs with bad steps between good ones: name, (ranks, ZeRO stage, dtype)."""


@pytest.fixture(scope="module")
def results(tiny_policy, tmp_path_factory):
    """Every case's result by its folder's name; states are saved in a first round and loaded in a second."""
    root = tmp_path_factory.mktemp("cases")
    first = [*SGD.values(), *((w, Case(n, s, optimizer="adamw")) for n, (w, s) in SAVED.items())]
    second = [(w, Case(f"{n}-elsewhere", s, 1, "adamw", 1, n)) for n, (w, s) in LOADED.items()]
    second += [(w, Case(f"{n}-same", s, 1, "adamw", 1, n)) for n, (w, s) in SAVED.items()]
    first += [(w, Case(n, s, 2, "adamw", dtype="bfloat16")) for n, (w, s) in HALF.items()]
    second += [(w, Case(f"{n}-same", s, 2, "adamw", 1, n, "bfloat16")) for n, (w, s) in HALF.items()]
    for name, (w, stage, dtype) in SKIPPED.items():
        good = Case(name, stage, 2, "adamw", 2, dtype=dtype)
        first += [(w, good), (w, replace(good, out=f"{name}-bad", bad=("loss", "gradient")))]
    for cases in (first, second):
        for world in (1, 2):
            mine = [located(case, root) for w, case in cases if w == world]
            mp.spawn(train, (world, free_port(), str(tiny_policy), mine), nprocs=world)
    return {folder.name: torch.load(folder / "result.pt") | saved(folder) for folder in root.iterdir()}


def saved(folder):
    """The bytes of every shard."""
    return {
        kind: {f.name: f.read_bytes() for f in (folder / kind).iterdir()} for kind in ("state", "state-written-later")
    }


def located(case, root):
    (root / case.out).mkdir()
    return replace(case, out=str(root / case.out), load=str(root / case.load) if case.load else "")


def relative(a, b):
    return max(float((a[k] - b[k]).norm() / b[k].norm()) for k in b)


@pytest.mark.parametrize("name", SGD)
def test_ranks_zero_stage_and_micro_batches_change_no_gradient_and_no_weight(results, name):
    result, reference = results[SGD[name][1].out], results["a"]
    assert result["trace"][1]["gradient_norm"] == pytest.approx(reference["trace"][1]["gradient_norm"], rel=1e-5)
    assert relative(result["weights"], reference["weights"]) < 1e-5


@pytest.mark.parametrize("name", SAVED)
def test_training_state_loads_on_another_number_of_ranks_and_another_stage(results, name):
    """Adam divides by the root of tiny second moments, so the order of a sum shows more than with SGD."""
    elsewhere, same = results[f"{name}-elsewhere"], results[f"{name}-same"]
    assert elsewhere["steps"] == same["steps"] == 4
    assert relative(elsewhere["weights"], same["weights"]) < 1e-4
    assert relative(same["weights"], results[name]["weights"]) > 1e-3


@pytest.mark.parametrize("name", HALF)
def test_bfloat16_training_goes_on_from_its_float32_masters(results, name):
    before, after = results[name], results[f"{name}-same"]
    assert (before["steps"], after["steps"]) == (3, 4)
    assert after["weights"]["model.norm.weight"].dtype == torch.bfloat16
    assert 1e-4 < relative(after["weights"], before["weights"]) < 0.3
    reference = {key: value.float() for key, value in results["j-same"]["weights"].items()}
    assert relative({key: value.float() for key, value in after["weights"].items()}, reference) < 0.02


@pytest.mark.parametrize("name", SKIPPED)
def test_a_bad_loss_or_gradient_on_one_rank_is_as_if_the_step_had_never_been(results, name):
    result, reference = results[f"{name}-bad"], results[name]
    digests = [step["digest"] for step in result["trace"]]
    start, first, second, third = (step["digest"] for step in reference["trace"])
    assert digests == [start, start, first, first, second, third]
    assert result["steps"] == reference["steps"] == 2
    assert result["state"] == reference["state"]


@pytest.mark.parametrize("name", SKIPPED)
def test_a_skipped_update_is_reported(results, name):
    _, first, good, second, *_ = results[f"{name}-bad"]["trace"]
    for bad in (first, second):
        assert not math.isfinite(bad["gradient_norm"])
        assert (bad["skipped_updates"], bad["learning_rate"]) == (1.0, 1e-3)
    assert math.isfinite(good["gradient_norm"])
    assert good["skipped_updates"] == 0.0


def test_the_digest_of_the_weights_depends_on_neither_ranks_nor_zero_stage(results):
    starts = [results[case.out]["trace"][0]["digest"] for _, case in SGD.values()]
    assert len(set(starts)) == 1
    assert len({step["digest"] for step in results["a"]["trace"]}) == 5


def test_training_between_snapshot_and_write_changes_no_file(results):
    for name, result in results.items():
        assert result["trace"][-1]["digest"] != result["trace"][-2]["digest"], name
        assert result["state"] == result["state-written-later"], name


@pytest.fixture
def module_and_shards(tmp_path):
    from rayrlhf.engines.training_state import TrainingSnapshot

    module = nn.Linear(2, 2)
    names = [f"weight/{name}" for name, _ in module.named_parameters()]
    tensors = {name: p.detach().clone() for name, p in zip(names, module.parameters(), strict=True)}
    return module, [
        TrainingSnapshot({name: tensors[name]}, rank, 2, 0).write(tmp_path) for rank, name in enumerate(names)
    ]


@pytest.mark.parametrize(
    "damage", [lambda b: pickle.dumps({"weight": 1}), lambda b: b[:-4], lambda b: b[:20], lambda b: b""]
)
def test_a_shard_that_is_not_safetensors_is_refused_and_not_unpickled(module_and_shards, damage):
    from rayrlhf.engines.training_state import load_module_weights

    module, (_, shard) = module_and_shards
    load_module_weights(module, shard.parent)
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(
        CheckpointError, match=f"{shard.name}: not a safetensors file .*; checkpoints are never unpickled"
    ):
        load_module_weights(module, shard.parent)


def test_a_failed_write_says_which_error_of_the_system_it_was(tmp_path):
    from rayrlhf.engines.training_state import TrainingSnapshot

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"shard-00000-of-00001\.safetensors") as caught:
            TrainingSnapshot({"weight/a": torch.zeros(1000)}, 0, 1, 0).write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("lost", [0, 1])
def test_an_incomplete_set_of_shards_is_refused(module_and_shards, lost):
    from rayrlhf.engines.training_state import load_module_weights

    module, shards = module_and_shards
    shards[lost].unlink()
    with pytest.raises(CheckpointError, match=f"the shard {shards[lost].name} is missing"):
        load_module_weights(module, shards[0].parent)


def test_shards_of_two_sets_are_refused(module_and_shards):
    from rayrlhf.engines.training_state import TrainingSnapshot, load_module_weights

    module, shards = module_and_shards
    TrainingSnapshot({}, 0, 1, 0).write(shards[0].parent)
    with pytest.raises(CheckpointError, match=r"shard-00000-of-00001\.safetensors is of another set"):
        load_module_weights(module, shards[0].parent)


def test_adamw_under_zero_takes_the_steps_that_torch_takes(results, tiny_policy):
    from rayrlhf.engines.models import load_policy

    module = load_policy(ModelConfig(path=str(tiny_policy)))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        objective(module, list(range(ROWS))).loss.backward()
        optimizer.step()
    expected = {k: p.detach() for k, p in module.model.named_parameters()}
    assert relative(results["i"]["weights"], expected) < 1e-4
