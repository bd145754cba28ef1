"""What only a GPU can show: the same numbers on CUDA as on the CPU, and a transfer over NCCL. Skipped without CUDA."""

import pytest
import torch
import torch.multiprocessing as mp

from rayrlhf.algorithms.logprobs import chunked_logprobs
from rayrlhf.config.sections import LearnerConfig, ModelConfig
from rayrlhf.weight_sync.digests import digest
from tests.ports import free_port

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: GPU paths are unverified here")


def test_log_probabilities_and_gradients_are_those_of_the_cpu():
    torch.manual_seed(0)
    head, hidden = torch.randn(64, 500), torch.randn(30, 64)
    targets = torch.randint(0, 500, (30,))
    found = []
    for device in ("cpu", "cuda"):
        leaf = hidden.to(device).requires_grad_()
        weight = head.to(device)
        logprobs, entropy = chunked_logprobs(lambda h, w=weight: h @ w, leaf, targets.to(device), 0.7, chunk=8)
        logprobs.sum().backward()
        found.append([t.detach().cpu() for t in (logprobs, entropy, leaf.grad)])
    for cpu, cuda in zip(*found, strict=True):
        torch.testing.assert_close(cuda, cpu, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_digests_are_those_of_the_cpu(dtype):
    tensor = torch.randn(1000, 37).to(dtype)
    assert digest(tensor.cuda()) == digest(tensor)


def test_peak_memory_of_log_probabilities_stays_below_one_full_logit_tensor():
    positions, vocabulary = 8192, 49152
    hidden = torch.randn(positions, 64, device="cuda", requires_grad=True)
    head = torch.randn(64, vocabulary, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs, _ = chunked_logprobs(lambda h: h @ head, hidden, torch.zeros(positions, dtype=torch.long, device="cuda"))
    logprobs.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < positions * vocabulary * 4


def transfer(rank, queue):
    from rayrlhf.weight_sync.transfer_group import TransferGroup, TransferRendezvous, open_store

    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = open_store("127.0.0.1", 2, 60.0) if rank == 0 else None
    if store:
        queue.put(store.port)
    port = store.port if store else queue.get()
    group = TransferGroup(TransferRendezvous("127.0.0.1", port, 2, 60.0), rank, device, store)
    tensor = torch.full((1000,), float(rank + 1), device=device)
    group.broadcast(tensor)
    assert float(tensor.mean()) == 1.0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs a GPU a rank")
def test_weights_travel_over_nccl():
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(transfer, (queue,), nprocs=2)


def train(_, model, port, folder):
    from rayrlhf.algorithms.objectives import cross_entropy_objective
    from rayrlhf.engines.models import load_policy
    from rayrlhf.engines.process_group import Rendezvous, join
    from rayrlhf.engines.training import TrainingEngine

    join(Rendezvous("127.0.0.1", port, 1, 60.0), 0)
    config = LearnerConfig(zero_stage=3, learning_rate=1e-3)
    engine = TrainingEngine(load_policy(ModelConfig(path=model, dtype="bfloat16")), config, "bfloat16")
    ids = torch.randint(4, 100, (4, 16), device=engine.device)
    mask = torch.ones(4, 16, device=engine.device)
    losses = []
    for _ in range(10):
        metrics = engine.accumulate([ids], lambda m, x: cross_entropy_objective(m(x, mask)[0], mask, 64.0))
        engine.step()
        losses.append(metrics["sft/loss_nats"])
    torch.save(losses, folder / "losses.pt")


def test_zero_three_in_bfloat16_learns(tiny_policy, tmp_path):
    pytest.importorskip("deepspeed")
    mp.spawn(train, (str(tiny_policy), free_port(), tmp_path), nprocs=1)
    losses = torch.load(tmp_path / "losses.pt")
    assert losses[-1] < losses[0] - 0.05
