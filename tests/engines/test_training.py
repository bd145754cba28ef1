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
    dtype: str = "float32"


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
    module = load_policy(ModelConfig(path=model, dtype=case.dtype))
    if case.load:
        load_module_weights(module, Path(case.load) / "state")
    engine = TrainingEngine(module, config, case.dtype)
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
HALF = {"j": (1, 1), "k": (2, 2), "l": (2, 3)}
"""bfloat16 weights with float32 masters: name, (ranks, ZeRO stage)."""


@pytest.fixture(scope="module")
def results(tiny_policy, tmp_path_factory):
    """Every case's result by its folder's name; states are saved in a first round and loaded in a second."""
    root = tmp_path_factory.mktemp("cases")
    first = [*SGD.values(), *((w, Case(n, s, optimizer="adamw")) for n, (w, s) in SAVED.items())]
    second = [(w, Case(f"{n}-elsewhere", s, 1, "adamw", 1, n)) for n, (w, s) in LOADED.items()]
    second += [(w, Case(f"{n}-same", s, 1, "adamw", 1, n)) for n, (w, s) in SAVED.items()]
    first += [(w, Case(n, s, 2, "adamw", dtype="bfloat16")) for n, (w, s) in HALF.items()]
    second += [(w, Case(f"{n}-same", s, 2, "adamw", 1, n, "bfloat16")) for n, (w, s) in HALF.items()]
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


@pytest.mark.parametrize("name", HALF)
def test_bfloat16_training_goes_on_from_its_float32_masters(results, name):
    before, after = results[name], results[f"{name}-same"]
    assert (before["steps"], after["steps"]) == (3, 4)
    assert after["weights"]["model.norm.weight"].dtype == torch.bfloat16
    assert 1e-4 < relative(after["weights"], before["weights"]) < 0.3
    reference = {key: value.float() for key, value in results["j-same"]["weights"].items()}
    assert relative({key: value.float() for key, value in after["weights"].items()}, reference) < 0.02


def nan_gradient(_, port, model, stage, folder):
    from rayrlhf.algorithms.objectives import LossTerms
    from rayrlhf.engines.models import load_policy
    from rayrlhf.engines.process_group import Rendezvous, join
    from rayrlhf.engines.training import TrainingEngine
    from rayrlhf.errors import NumericalError

    def objective(module, ids):
        logprobs = module(ids, torch.ones_like(ids, dtype=torch.float32))[0]
        return LossTerms(torch.sqrt(logprobs.sum() * 0.0))  # finite, with an infinite slope

    join(Rendezvous("127.0.0.1", port, 1), 0)
    engine = TrainingEngine(load_policy(ModelConfig(path=model)), LearnerConfig(zero_stage=stage), "float32")
    engine.accumulate([torch.tensor([[5, 6, 7]])], objective)
    with pytest.raises(NumericalError, match="gradient norm of optimizer step 1 is"):
        engine.step()


@pytest.mark.parametrize("stage", [0, 2])
def test_a_gradient_that_is_not_a_number_is_an_error(tiny_policy, tmp_path, stage):
    mp.spawn(nan_gradient, (free_port(), str(tiny_policy), stage, tmp_path), nprocs=1)


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
