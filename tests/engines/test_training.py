"""DeepSpeed with real process groups: ranks, ZeRO stages and micro-batches change nothing but speed."""

import socket
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from rayrlhf.algorithms.objectives import cross_entropy_objective
from rayrlhf.config.sections import LearnerConfig, ModelConfig

ROWS, WIDTH = 8, 16


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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


@dataclass(frozen=True)
class Case:
    """One training run: `steps` updates, from `load` where given, into the folder `out`."""

    out: str
    stage: int = 0
    splits: int = 1
    optimizer: str = "sgd"
    steps: int = 3
    load: str = ""


def train(rank, world, port, model, cases):
    """All cases in one process group: importing the engines takes longer than training."""
    from rayrlhf.engines.process_group import Rendezvous, join

    torch.set_num_threads(1)
    join(Rendezvous("127.0.0.1", port, world), rank)
    for case in cases:
        train_case(rank, world, model, case)


def train_case(rank, world, model, case):
    from rayrlhf.engines.models import load_policy
    from rayrlhf.engines.training import TrainingEngine
    from rayrlhf.engines.training_state import load_module_weights, load_optimizer_state, save_training_state
    from rayrlhf.engines.weight_source import WeightSource

    rate = 0.05 if case.optimizer == "sgd" else 1e-3
    config = LearnerConfig(
        ranks=world, zero_stage=case.stage, optimizer=case.optimizer, learning_rate=rate, max_gradient_norm=None
    )
    module = load_policy(ModelConfig(path=model))
    if case.load:
        load_module_weights(module, Path(case.load) / "state")
    engine = TrainingEngine(module, config, "float32")
    if case.load:
        load_optimizer_state(engine, Path(case.load) / "state")
    mine = list(range(ROWS))[rank::world]
    size = -(-len(mine) // case.splits)
    batches = [mine[i : i + size] for i in range(0, len(mine), size)]
    norms = []
    for _ in range(case.steps):
        engine.accumulate(batches, objective)
        norms.append(engine.step()["gradient_norm"])
    save_training_state(engine, Path(case.out) / "state")
    weights = WeightSource(module.model).state_dict(1 << 14)
    if rank == 0:
        result = {"weights": weights, "norm": norms[0], "steps": engine.optimizer_steps}
        torch.save(result, Path(case.out) / "result.pt")


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


@pytest.fixture(scope="module")
def results(tiny_policy, tmp_path_factory):
    """Every case's result by its folder's name; states are saved in a first round and loaded in a second."""
    root = tmp_path_factory.mktemp("cases")
    first = [*SGD.values(), *((w, Case(n, s, optimizer="adamw")) for n, (w, s) in SAVED.items())]
    second = [(w, Case(f"{n}-elsewhere", s, 1, "adamw", 1, n)) for n, (w, s) in LOADED.items()]
    second += [(w, Case(f"{n}-same", s, 1, "adamw", 1, n)) for n, (w, s) in SAVED.items()]
    for cases in (first, second):
        for world in (1, 2):
            mine = [located(case, root) for w, case in cases if w == world]
            mp.spawn(train, (world, free_port(), str(tiny_policy), mine), nprocs=world)
    return {folder.name: torch.load(folder / "result.pt") for folder in root.iterdir()}


def located(case, root):
    (root / case.out).mkdir()
    return replace(case, out=str(root / case.out), load=str(root / case.load) if case.load else "")


def relative(a, b):
    return max(float((a[k] - b[k]).norm() / b[k].norm()) for k in b)


@pytest.mark.parametrize("name", SGD)
def test_ranks_zero_stage_and_micro_batches_change_no_gradient_and_no_weight(results, name):
    result, reference = results[SGD[name][1].out], results["a"]
    assert result["norm"] == pytest.approx(reference["norm"], rel=1e-5)
    assert relative(result["weights"], reference["weights"]) < 1e-5


@pytest.mark.parametrize("name", SAVED)
def test_training_state_loads_on_another_number_of_ranks_and_another_stage(results, name):
    """Adam divides by the root of tiny second moments, so the order of a sum shows more than with SGD."""
    elsewhere, same = results[f"{name}-elsewhere"], results[f"{name}-same"]
    assert elsewhere["steps"] == same["steps"] == 4
    assert relative(elsewhere["weights"], same["weights"]) < 1e-4
    assert relative(same["weights"], results[name]["weights"]) > 1e-3


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
