"""vLLM's asynchronous engine as rollouts need it: token ids in, token ids and log-probabilities out.

Prompts are never re-tokenised; each sample has its own seed; the end-of-sequence token is part of the completion. The
engine's own processes are children of this one. Knows nothing of Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from rayrlhf.engines.generation_spec import GenerationSpec, Sampling, whole_prompts
from rayrlhf.engines.model_files import require_weights
from rayrlhf.types import Completion, FinishReason, Prompt, VersionSpan
from rayrlhf.weight_sync.plugin import BACKEND, register


class GenerationEngine:
    """One `AsyncLLM`, with the policy version its weights have."""

    def __init__(self, spec: GenerationSpec) -> None:
        register()
        require_weights(spec.model)
        self.tensor_parallel = spec.tensor_parallel
        self._requests = 0
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=spec.model,
                dtype=spec.dtype,
                max_model_len=spec.max_model_length,
                max_num_seqs=spec.max_concurrent,
                tensor_parallel_size=spec.tensor_parallel,
                distributed_executor_backend="mp" if spec.tensor_parallel > 1 else None,
                enforce_eager=spec.enforce_eager,
                gpu_memory_utilization=spec.gpu_memory_share,
                seed=spec.seed,
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                skip_tokenizer_init=True,
                trust_remote_code=False,
                load_format="safetensors",
                disable_log_stats=True,
                weight_transfer_config=WeightTransferConfig(backend=BACKEND),
                worker_extension_cls=spec.worker_extension,
                **whole_prompts(current_platform.is_cuda()),
            )
        )

    async def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        """One answer to the prompt."""
        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=seed,
            logprobs=0,
            stop_token_ids=list(sampling.stop_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return _completion((await self._run(prompt.token_ids, params)).outputs[0])

    async def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token t | tokens < t) in nats for t = 1, 2, … at temperature 1."""
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        output = await self._run(token_ids, params)
        assert output.prompt_logprobs is not None
        return [entry[token].logprob for entry, token in zip(output.prompt_logprobs, token_ids, strict=True) if entry]

    async def _run(self, token_ids: Sequence[int], params: SamplingParams) -> RequestOutput:
        self._requests += 1
        prompt: Any = {"prompt_token_ids": list(token_ids)}
        async for output in self._llm.generate(prompt, params, request_id=f"r{self._requests}"):
            if output.finished:
                return output
        raise RuntimeError("vLLM ended a request without finishing it")

    async def pause(self) -> None:
        """Freeze running requests where they are and forget cached prefixes: they were computed by old weights."""
        await self._llm.pause_generation(mode="keep", clear_cache=True)

    async def resume(self) -> None:
        """Let requests go on."""
        await self._llm.resume_generation()

    async def join_transfer(self, init_info: dict[str, Any]) -> None:
        """Meet the sender (see `BroadcastInitInfo`)."""
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))

    async def receive(self, version: int, update_info: dict[str, Any]) -> None:
        """Take one push and call it `version` (see `BroadcastUpdateInfo`)."""
        await self._llm.start_weight_update()
        await self._llm.update_weights(WeightTransferUpdateRequest(update_info))
        await self._llm.finish_weight_update(str(version))

    async def check(self) -> None:
        """Raise if the engine's processes are dead."""
        await self._llm.check_health()

    async def version(self) -> int:
        """The version of the weights, -1 before the first push."""
        return _version(await self._llm.get_weight_version())

    async def worker_call(self, method: str, *args: Any) -> list[Any]:
        """Call a method of `WorkerExtension` on every tensor-parallel rank."""
        return await self._llm.collective_rpc(method, args=args)

    def shutdown(self) -> None:
        """End the engine's processes."""
        self._llm.shutdown()


def _completion(output: CompletionOutput) -> Completion:
    tokens = tuple(output.token_ids)
    reason: FinishReason = "stop" if output.finish_reason == "stop" else "length"
    if output.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a request with finish_reason={output.finish_reason!r}")
    assert output.logprobs is not None
    logprobs = tuple(step[token].logprob for step, token in zip(output.logprobs, tokens, strict=True))
    return Completion(tokens, logprobs, reason, _spans(output, len(tokens)))


def _spans(output: CompletionOutput, length: int) -> tuple[VersionSpan, ...]:
    spans = output.weight_versions or []
    return tuple(VersionSpan(s.start, s.end, _version(s.version)) for s in spans) or (VersionSpan(0, length, -1),)


def _version(label: str) -> int:
    """Versions are numbers; weights that were never pushed are version -1."""
    return -1 if label == "default" else int(label)
