"""Models and jobs for plans, without files of weights."""

from rayrlhf.config.jobs import RLJob
from rayrlhf.config.load import validate_job
from rayrlhf.jobs.plan.geometry import Lengths
from rayrlhf.jobs.plan.hardware import cpu_estimate, gpu_machine
from rayrlhf.jobs.plan.model_shape import ModelShape
from rayrlhf.jobs.plan.models import JobModels

BILLION = ModelShape(
    parameters=1_000_000_000, tensors=200, layers=24, hidden=2048, intermediate=8192, key_value=2048, vocabulary=32_000,
    layer_matrices=900_000_000, small_parameters=0,
)  # fmt: skip
LAPTOP = cpu_estimate(1, 2, 24 * 2**30, "float32")


def h100s(nodes=1, gpus=8, dtype="bfloat16"):
    return gpu_machine("h100", nodes, gpus, dtype, eager=True)


def job(dtype="bfloat16", gpus=0.0, **sections) -> RLJob:
    values = {
        "name": "run", "model": {"path": "none", "dtype": dtype}, "data": {"prompts": "none", "max_prompt_tokens": 64},
        "algorithm": {"kind": "grpo"}, "reward": {"function": "a:b"}, "run": {"steps": 10},
        "rollout": {"prompts_per_step": 16, "samples_per_prompt": 4, "max_tokens": 64, "gpus": gpus},
        "learner": {"gpus": gpus},
    }  # fmt: skip
    for section, keys in sections.items():
        values[section] = {**values.get(section, {}), **keys}
    return validate_job(RLJob, values)


def models(shape=BILLION) -> JobModels:
    return JobModels(shape, shape, shape, None)


def lengths(answer=64.0, prompt=32) -> Lengths:
    return Lengths((prompt,), answer, "test")
