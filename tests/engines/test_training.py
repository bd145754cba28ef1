"""DeepSpeed with real process groups: ranks, ZeRO stages and micro-batches change nothing but speed."""

import socket
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


def train(rank, world, port, model, stage, splits, optimizer, out, load):
    """Three updates on this rank's rows; writes weights, and the first gradient norm."""
    from rayrlhf.engines.models import load_policy
    from rayrlhf.engines.process_group import Rendezvous, join
    from rayrlhf.engines.training import TrainingEngine
    from rayrlhf.engines.training_state import load_module_weights, load_optimizer_state, save_training_state
    from rayrlhf.engines.weight_source import WeightSource

    torch.set_num_threads(1)
    join(Rendezvous("127.0.0.1", port, world), rank)
    config = LearnerConfig(
        ranks=world, zero_stage=stage, optimizer=optimizer, learning_rate=0.05 if optimizer == "sgd" else 1e-3,
        max_gradient_norm=None,
    )  # fmt: skip
    module = load_policy(ModelConfig(path=model))
    if load:
        load_module_weights(module, Path(load))
    engine = TrainingEngine(module, config, "float32")
    if load:
        load_optimizer_state(engine, Path(load))
    mine = list(range(ROWS))[rank::world]
    size = -(-len(mine) // splits)
    batches = [mine[i : i + size] for i in range(0, len(mine), size)]
    norms = []
    for _ in range(1 if load else 3):
        engine.accumulate(batches, objective)
        norms.append(engine.step()["gradient_norm"])
    save_training_state(engine, Path(out) / "state")
    weights = WeightSource(module.model).state_dict(1 << 14)
    if rank == 0:
        torch.save({"weights": weights, "norm": norms[0], "steps": engine.optimizer_steps}, Path(out) / "result.pt")


def run(model, out, world=1, stage=0, splits=1, optimizer="sgd", load=""):
    out.mkdir(parents=True, exist_ok=True)
    mp.spawn(train, (world, free_port(), str(model), stage, splits, optimizer, str(out), load), nprocs=world)
    return torch.load(out / "result.pt")


def relative(a, b):
    return max(float((a[k] - b[k]).norm() / b[k].norm()) for k in b)


@pytest.fixture(scope="module")
def reference(tiny_policy, tmp_path_factory):
    return run(tiny_policy, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(("world", "stage", "splits"), [(1, 0, 4), (1, 2, 1), (2, 0, 2), (2, 2, 1), (2, 3, 3)])
def test_ranks_zero_stage_and_micro_batches_change_no_weight(tiny_policy, tmp_path, reference, world, stage, splits):
    result = run(tiny_policy, tmp_path, world, stage, splits)
    assert result["norm"] == pytest.approx(reference["norm"], rel=1e-5)
    assert relative(result["weights"], reference["weights"]) < 1e-5


@pytest.mark.parametrize(("saved", "loaded"), [((2, 3), (1, 0)), ((1, 2), (2, 3)), ((2, 2), (2, 2))])
def test_training_state_loads_on_another_number_of_ranks_and_stage(tiny_policy, tmp_path, saved, loaded):
    """Four AdamW steps straight equal three, a save, a load elsewhere, and one more."""
    run(tiny_policy, tmp_path / "a", *saved, optimizer="adamw")
    state = str(tmp_path / "a" / "state")
    resumed = run(tiny_policy, tmp_path / "b", *loaded, optimizer="adamw", load=state)
    same = run(tiny_policy, tmp_path / "c", *saved, optimizer="adamw", load=state)
    assert resumed["steps"] == same["steps"] == 4
    # Adam divides by the root of tiny second moments, so rounding in the order of a sum shows more than in SGD.
    assert relative(resumed["weights"], same["weights"]) < 1e-4


def test_adamw_under_zero_takes_the_step_that_torch_takes(tiny_policy, tmp_path):
    from rayrlhf.engines.models import load_policy

    module = load_policy(ModelConfig(path=str(tiny_policy)))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        objective(module, list(range(ROWS))).loss.backward()
        optimizer.step()
    expected = {k: p.detach() for k, p in module.model.named_parameters()}
    result = run(tiny_policy, tmp_path, 2, 2, optimizer="adamw")
    assert relative(result["weights"], expected) < 1e-4
