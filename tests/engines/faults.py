"""A worker extension that plants what a weight sync must notice. Loaded by name inside vLLM's worker processes."""

import torch

from rayrlhf.weight_sync.receiver import WorkerExtension


class FaultyExtension(WorkerExtension):
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
