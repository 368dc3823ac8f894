"""A trainer that knows where the time of its steps goes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from subcell_hf.training.monitoring.throughput import ThroughputMeter
from subcell_hf.training.pretraining.resumable_trainer import ResumableTrainer


class MeteredTrainer(ResumableTrainer):
    """Cuts every step into phases; the subclass makes the meter and ends `views` and `forward` in its loss."""

    meter: ThroughputMeter

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Fetch the batches of an optimizer step, as Trainer does, and measure how long they let us wait."""
        self.meter.clock.start()
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.count(sum(len(batch["pixels"]) for batch in batches))
        self.meter.clock.end("data")
        return batches, count

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Views, forward and backward pass of a batch; arguments as Trainer's."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.meter.clock.end("backward")
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's line of the log with the figures of `ThroughputMeter.read` since the last one."""
        if "loss" in logs:
            logs |= self.meter.read(self.args.world_size)
        super().log(logs, start_time)
