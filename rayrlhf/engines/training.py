"""The one engine that trains: DeepSpeed around a module, for policy, critic, SFT and reward model alike.

    micro-batches ──forward──▶ objective (a share of the step's loss) ──backward──▶ … ──▶ one optimizer step

Shares are already divided by the step's global denominators, so gradients must be *summed* over micro-batches and
ranks. DeepSpeed divides by the accumulation steps and by the ranks; both are undone here and nowhere else. Knows
nothing of Ray.

A step whose loss or gradient is not finite on any rank is applied on none. The global gradient norm decides, which
all ranks have: a loss that is not finite makes its gradients so, and reducing them tells the other ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from rayrlhf.algorithms.objectives import LossTerms
from rayrlhf.config.sections import TrainingConfig
from rayrlhf.engines.process_group import build_no_kernels

B = TypeVar("B")
NO_CLIPPING = 1e30
"""A bound that is never reached; with 0 DeepSpeed would not compute the norm, which is logged."""


class TrainingEngine:
    """A module under DeepSpeed. Every method is a collective: all ranks call it in the same order."""

    def __init__(self, module: nn.Module, config: TrainingConfig, dtype: str, total_steps: int | None = None) -> None:
        import deepspeed

        self.config = config
        self.total_steps = total_steps
        self.optimizer_steps = 0
        parameters = [p for p in module.parameters() if p.requires_grad]
        self._loss_is_finite = True
        for parameter in parameters:
            parameter.register_hook(self._mark)
        optimizer = _optimizer(config, parameters)
        if _plain(config, dtype):
            optimizer.register_step_pre_hook(_measure_and_clip(parameters, config.max_gradient_norm or NO_CLIPPING))
        build_no_kernels()
        self.engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=deepspeed_config(config, dtype)
        )
        self.module: Any = module
        self.engine.eval()

    @property
    def rank(self) -> int:
        """This process's rank."""
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        """Ranks that train together."""
        return dist.get_world_size()

    @property
    def device(self) -> torch.device:
        """Where batches go."""
        return torch.device(self.engine.device)

    def accumulate(self, batches: Sequence[B], objective: Callable[[nn.Module, B], LossTerms]) -> dict[str, float]:
        """Forward and backward over this rank's micro-batches; gradients are summed, no step is taken.

        Ranks may have different numbers of micro-batches: the others repeat their last one with weight zero, because
        every forward pass of ZeRO-3 is a collective. Returns the metrics summed over all ranks. A loss that is not
        finite raises nothing, because the other ranks would wait: `step` discards what was accumulated.
        """
        self.engine.train()
        metrics: dict[str, float] = {}
        for index in range(self._most(len(batches))):
            terms = objective(self.engine, batches[min(index, len(batches) - 1)])
            real = index < len(batches)
            self._loss_is_finite = math.isfinite(float(terms.loss.detach()))
            self.engine.backward(terms.loss * (self.world_size if real else 0.0), scale_wrt_gas=False)
            for name, value in terms.metrics.items():
                metrics[name] = metrics.get(name, 0.0) + (value if real else 0.0)
        return self._sum(metrics)

    def step(self) -> dict[str, float]:
        """One optimizer step with what was accumulated; returns its gradient norm and learning rate.

        Where the norm is not finite, `skipped_updates` is 1: what was accumulated is discarded, and weights, moments
        and step counts are what they were.
        """
        rate = learning_rate(self.config, self.optimizer_steps, self.total_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()
        self.engine.eval()
        norm = float(self.engine.get_global_grad_norm())
        applied = math.isfinite(norm)
        self.optimizer_steps += applied
        return {"gradient_norm": norm, "learning_rate": rate, "skipped_updates": float(not applied)}

    def forward_each(self, batches: Sequence[B], forward: Callable[[nn.Module, B], Any]) -> list[Any]:
        """Evaluate this rank's micro-batches without gradients; a collective like `accumulate`."""
        self.engine.eval()
        results = []
        with torch.no_grad():
            for index in range(self._most(len(batches))):
                result = forward(self.engine, batches[min(index, len(batches) - 1)])
                if index < len(batches):
                    results.append(result)
        return results

    def _mark(self, gradient: torch.Tensor) -> torch.Tensor | None:
        """A hook of every parameter, because a clamp can have cut the bad loss off and left its gradients finite."""
        return None if self._loss_is_finite else torch.full_like(gradient, math.nan)

    def _most(self, count: int) -> int:
        if count == 0:
            raise ValueError(f"rank {self.rank} has no rows: use fewer ranks or more rows per optimizer step")
        counts = torch.tensor([count])
        dist.all_reduce(counts, op=dist.ReduceOp.MAX)
        return int(counts)

    def _sum(self, metrics: dict[str, float]) -> dict[str, float]:
        names = sorted(metrics)
        values = torch.tensor([metrics[name] for name in names], dtype=torch.float64)
        dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))


def deepspeed_config(config: TrainingConfig, dtype: str) -> dict[str, Any]:
    """What DeepSpeed is told: ZeRO stage, precision, clipping; accumulation is ours (see the module's docstring)."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == "bfloat16", "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "gradient_clipping": 0.0 if _plain(config, dtype) else config.max_gradient_norm or NO_CLIPPING,
        "wall_clock_breakdown": False,
        "steps_per_print": 10**9,
    }


def learning_rate(config: TrainingConfig, step: int, total_steps: int | None) -> float:
    """The rate of optimizer step `step` (0-based): linear warmup, then constant, linear to 0, or cosine to 10 %."""
    peak = config.learning_rate
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant" or total_steps is None:
        return peak
    done = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    if config.schedule == "linear":
        return peak * (1 - done)
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def _plain(config: TrainingConfig, dtype: str) -> bool:
    """Whether DeepSpeed leaves the torch optimizer as it is."""
    return config.zero_stage == 0 and dtype == "float32"


def _measure_and_clip(parameters: list[nn.Parameter], bound: float) -> Callable[..., None]:
    """A hook that gives the plain optimizer of ZeRO 0 in float32 what DeepSpeed's own ones do: norm, clip and skip.

    DeepSpeed would clip there too, but throw the norm away; it reads `_global_grad_norm` after the step.
    """

    def hook(optimizer: Any, *_: Any) -> None:
        norm = optimizer._global_grad_norm = nn.utils.clip_grad_norm_(parameters, bound)
        if not norm.isfinite():
            for parameter in parameters:
                parameter.grad = None  # torch's optimizers pass over it: no update, no step count

    return hook


def _optimizer(config: TrainingConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.learning_rate)
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
