"""Workers that misbehave on request, around the real engines."""

import os
import time

import torch

from rayrlhf.roles.learner import LearnerRole
from rayrlhf.roles.rollout import RolloutRole
from rayrlhf.weight_sync.receiver import WorkerExtension
from rayrlhf.weight_sync.sender import WeightSender
from rayrlhf.weight_sync.transfer_group import TransferGroup


class FaultyExtension(WorkerExtension):
    """Plants what a weight sync must notice. Loaded by name inside vLLM's worker processes."""

    def plant_stale_tensor(self) -> None:
        """One norm keeps an old value."""
        with torch.no_grad():
            self.model_runner.model.model.layers[1].input_layernorm.weight.mul_(1.5)

    def plant_stale_head(self) -> None:
        """The head's packed copy is of other weights, the tensor itself is right: what a layerwise reload leaves."""
        head = self.model_runner.model.lm_head
        with torch.no_grad():
            right = head.weight.data.clone()
            head.weight.data.mul_(0.5)
            head.quant_method.process_weights_after_loading(head)
            head.weight.data.copy_(right)

    def plant_fault(self, what: str, bucket: int) -> None:
        """Sleep, raise or die, once, when this worker has come to a bucket of the next push."""
        mark = TransferGroup.mark

        def faulty(group: TransferGroup, number: int, buckets: int) -> None:
            mark(group, number, buckets)
            if number != bucket:
                return
            TransferGroup.mark = mark
            match what:
                case "sleep":
                    time.sleep(3600)
                case "raise":
                    raise ValueError("broken on purpose")
                case "die":
                    os._exit(1)

        TransferGroup.mark = faulty


class FaultyRollout(RolloutRole):
    """A rollout worker whose engine can be made to misbehave."""

    async def plant(self, what: str, bucket: int) -> None:
        await self._engine.worker_call("plant_fault", what, bucket)

    async def version(self) -> int:
        return await self._engine.version()


class SmallBuckets(LearnerRole):
    """A learner that sends the tiny model in a dozen buckets, and changes its weights without learning."""

    def _started(self) -> None:
        super()._started()
        self._bucket_bytes = 1 << 14
        self._sender = WeightSender(self._source, self._bucket_bytes, self._engine.device)

    def perturb(self) -> None:
        with torch.no_grad():
            for parameter in self._engine.module.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape))
