"""The push against a real vLLM engine: log-probabilities after it, tensor parallel 2, planted faults."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rayrlhf.config.sections import ModelConfig
from rayrlhf.engines.generation_spec import GenerationSpec, Sampling
from rayrlhf.errors import WeightSyncError
from rayrlhf.role_types import HeldWeights, SentWeights
from rayrlhf.runtime.environment import quiet_process, set_variables, vllm_variables
from rayrlhf.types import Message, Prompt
from rayrlhf.weight_sync.proof import SyncTolerance, prove_logprobs, prove_weights

PROBE = tuple(range(5, 45))
BUCKET = 1 << 14


class Setup:
    """An engine, a policy with other weights, and a sender; one event loop for all calls."""

    def __init__(self, model, tensor_parallel):
        from rayrlhf.engines.generation import GenerationEngine
        from rayrlhf.engines.models import load_policy
        from rayrlhf.engines.weight_source import WeightSource
        from rayrlhf.weight_sync.sender import WeightSender

        set_variables(quiet_process(2))
        set_variables(vllm_variables(2, tensor_parallel, 1))
        self.loop = asyncio.new_event_loop()
        self.pool = ThreadPoolExecutor(1)
        self.tensor_parallel = tensor_parallel
        spec = GenerationSpec(
            str(model), "float32", 128, 8, tensor_parallel, worker_extension="tests.engines.faults.FaultyExtension"
        )
        self.engine = self.call(self._start(GenerationEngine, spec))
        self.policy = load_policy(ModelConfig(path=str(model)))
        self.sender = WeightSender(WeightSource(self.policy.model), BUCKET, torch.device("cpu"))
        where = self.sender.open("127.0.0.1", 1 + tensor_parallel, 60.0)
        joining = self.pool.submit(self.sender.join, where)
        info = {"address": where.address, "port": where.port, "world_size": where.world_size, "timeout_s": 60.0}
        self.call(self.engine.join_transfer(info | {"first_rank": 1}))
        joining.result(60)
        self.version = 0

    @staticmethod
    async def _start(engine, spec):
        return engine(spec)

    def call(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    def close(self):
        """The engine's own task has to end before its loop does."""
        self.engine.shutdown()
        self.engine = None
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.call(asyncio.wait(tasks)) if tasks else None
        self.loop.close()

    def perturb(self):
        generator = torch.Generator().manual_seed(self.version)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)

    def push(self):
        self.version += 1
        self.call(self.engine.pause())
        sending = self.pool.submit(self.sender.send, 60.0)
        specs = [(s.name, s.dtype, list(s.shape)) for s in self.sender.specs]
        self.call(self.engine.receive(self.version, {"specs": specs, "bucket_bytes": BUCKET, "timeout_s": 60.0}))
        report = sending.result(60)
        self.call(self.engine.resume())
        return SentWeights(report.digests, report.size_bytes, report.buckets)

    def held(self):
        return HeldWeights(
            self.call(self.engine.version()),
            tuple(self.call(self.engine.worker_call("received_digests"))),
            tuple(self.call(self.engine.worker_call("weight_deviations"))),
        )

    def probed(self):
        return self.call(self.engine.logprobs(PROBE))

    def wanted(self):
        with torch.no_grad():
            logprobs, _ = self.policy(torch.tensor([PROBE]), torch.ones(1, len(PROBE)))
        return logprobs[0, 1:].tolist()

    def prove(self, sent):
        tolerance = SyncTolerance.of("float32")
        prove_weights(self.version, sent, {0: self.held()}, tolerance)
        return prove_logprobs(self.version, {0: self.probed()}, self.wanted(), tolerance)


@pytest.fixture(scope="module", params=[1, 2], ids=["tp1", "tp2"])
def setup(request, tiny_policy):
    made = Setup(tiny_policy, request.param)
    yield made
    made.close()


def test_after_a_push_engine_and_policy_agree(setup):
    for _ in range(2):
        setup.perturb()
        before = max(abs(a - b) for a, b in zip(setup.probed(), setup.wanted(), strict=True))
        assert before > 1e-2
        sent = setup.push()
        assert setup.prove(sent) < 1e-4
        assert sent.buckets > 3


def test_a_stale_tensor_is_caught_and_named(setup):
    sent = setup.push()
    setup.call(setup.engine.worker_call("plant_stale_tensor"))
    with pytest.raises(WeightSyncError, match=r"rank 0: layer model\.layers\.1\.input_layernorm does not compute"):
        setup.prove(sent)
    setup.prove(setup.push())


def test_a_stale_packed_head_is_caught_and_named(setup):
    sent = setup.push()
    setup.call(setup.engine.worker_call("plant_stale_head"))
    with pytest.raises(WeightSyncError, match="rank 0: layer lm_head does not compute"):
        setup.prove(sent)
    setup.prove(setup.push())


def test_generation_gives_ids_logprobs_versions_and_repeats_with_its_seeds(setup):
    setup.push()
    prompt = Prompt("p", (Message(role="user", content="x"),), PROBE[:10])
    sampling = Sampling(16, 1.0, (2,))
    first, again = ([setup.call(setup.engine.complete(prompt, sampling, s)) for s in (1, 2, 3)] for _ in range(2))
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert len({c.token_ids for c in first}) == 3
    for completion in first:
        assert completion.policy_versions == (setup.version,)
        assert (completion.finish_reason == "stop") == (completion.token_ids[-1] == 2)
        ids = torch.tensor([prompt.token_ids + completion.token_ids])
        mask = torch.zeros(ids.shape)
        mask[0, 10:] = 1
        with torch.no_grad():
            own, _ = setup.policy(ids, mask)
        torch.testing.assert_close(own[0, 10:], torch.tensor(completion.behaviour_logprobs), atol=1e-4, rtol=0)


def test_any_of_several_end_tokens_ends_an_answer_and_is_part_of_it(setup):
    prompt = Prompt("p", (), PROBE[:10])
    every_id = tuple(range(128))
    completion = setup.call(setup.engine.complete(prompt, Sampling(16, 1.0, every_id), 5))
    assert len(completion.token_ids) == 1
    assert completion.finish_reason == "stop"
