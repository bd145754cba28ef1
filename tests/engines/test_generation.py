"""A real vLLM engine with more waiting prompt tokens than one of its scheduling steps takes."""

import asyncio

from rayrlhf.engines.generation_spec import GenerationSpec, Sampling
from rayrlhf.runtime.environment import quiet_process, set_variables, vllm_variables
from rayrlhf.types import Message, Prompt

PROMPTS, LENGTH = 32, 96
"""3,072 tokens; vLLM's step on a CPU takes 2,048."""


async def answers(model):
    from rayrlhf.engines.generation import GenerationEngine

    engine = GenerationEngine(GenerationSpec(str(model), "float32", 128, PROMPTS))
    prompts = [
        Prompt(str(i), (Message(role="user", content="x"),), tuple(5 + (i + j) % 40 for j in range(LENGTH)))
        for i in range(PROMPTS)
    ]
    try:
        return await asyncio.gather(
            *(engine.complete(prompt, Sampling(4, 1.0, ()), seed) for seed, prompt in enumerate(prompts))
        )
    finally:
        engine.shutdown()


def test_seeded_samples_of_many_prompts_at_once_are_all_answered(tiny_policy):
    set_variables(quiet_process(2))
    set_variables(vllm_variables(2, 1, 1))
    completions = asyncio.run(answers(tiny_policy))
    assert [len(completion.token_ids) for completion in completions] == [4] * PROMPTS
