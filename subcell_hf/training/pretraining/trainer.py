"""Pretraining with transformers' Trainer, exact on one process or many.

The model computes the loss; the trainer makes views on the device, logs the components of the loss, updates the
teacher, evaluates the probe and writes verified checkpoints. With gradient accumulation every micro-batch is a separate
contrastive batch over all processes, and their losses are averaged: more accumulation reduces the noise of gradients
but adds no negatives. For more negatives choose more antibodies per batch, and where these do not fit into memory
`cached_gradient_chunks` (see `cached_gradients`), which gives the gradient of the undivided batch.

Views and hidden patches are drawn from generators that are seeded by the batch; what dropout draws is explained at
`TrainerAdapter.separate_random_streams`.
"""

import json
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.training_args import OptimizerNames

from subcell_hf.augmentation.presets import validation_views
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.errors import InputError
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.objectives_subcell import sigmoid_focal_loss
from subcell_hf.shards.streaming import ShardBatch, ShardLoader, in_order_loader, training_loader
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.training.monitoring.cost import estimate_step_cost
from subcell_hf.training.monitoring.monitoring import Monitoring
from subcell_hf.training.monitoring.probe_metrics import score_locations, summarize, write_table
from subcell_hf.training.monitoring.terminal_progress import progress_callback
from subcell_hf.training.monitoring.throughput import ThroughputMeter
from subcell_hf.training.pretraining.arguments import PreTrainingArguments
from subcell_hf.training.pretraining.cached_gradients import CachedGradientStep, average_gradients
from subcell_hf.training.pretraining.model_noise import ModelNoise, draw_noise
from subcell_hf.training.pretraining.optimization import parameter_groups
from subcell_hf.training.pretraining.resolution import PreTrainingData
from subcell_hf.training.pretraining.step_guard import StepGuard
from subcell_hf.training.runs.checkpoints import LOADER_FILE
from subcell_hf.training.runs.run_trainer import RunTrainer
from subcell_hf.training.runs.training_record import TRAINING_RECORD_FILE, describe_training
from subcell_hf.types import CropBatch, MultiViewBatch

_GROUPS: dict[str, Literal["fields_of_view", "cell_lines"]] = {
    "field_of_view": "fields_of_view",
    "cell_line": "cell_lines",
}
"""Positives of cell contrast → what a batch says of every cell."""


class WholeSteps:
    """The batches of an epoch, as many as fill whole optimizer steps; those left over are not used in this epoch.

    Args:
        loader: Gives the batches.
        batches_per_step: Accumulated in an optimizer step.
        meter: Measures how long the loader lets a step wait.
    """

    def __init__(self, loader: ShardLoader, batches_per_step: int, meter: ThroughputMeter) -> None:
        self.loader = loader
        self.meter = meter
        self.steps = len(loader) // batches_per_step
        self._batches = self.steps * batches_per_step

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[ShardBatch]:
        self.meter.clock.start()
        for batch in self.loader:
            self.meter.clock.end("data")
            self.meter.count(len(batch["pixels"]))
            yield batch
            if batch["step"] + 1 == self._batches:
                return
            self.meter.clock.start()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.loader.set_epoch(epoch)


class PreTrainer(RunTrainer):
    """Trains a `SubCellForPreTraining` from shards.

    Args:
        model: With the channels and classes that the shards have.
        args: As `resolve` fills them in.
        data: What is read.
        callbacks: More of Trainer's callbacks.
    """

    model: SubCellForPreTraining
    args: PreTrainingArguments

    def __init__(
        self,
        model: SubCellForPreTraining,
        args: PreTrainingArguments,
        data: PreTrainingData,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        validates = args.eval_strategy != "no"
        super().__init__(model=model, args=args, eval_dataset=data.validation_split if validates else None)
        self.data = data
        self.view_maker = ViewMaker(data.views)
        shown = None if data.sampling is None else data.sampling.counts(model.config.num_channels)
        cost = estimate_step_cost(model.config, model, len(data.views.views), shown=shown)
        self._flops_per_cell = cost.training_flops_per_cell
        self.meter = ThroughputMeter(args.device, args.mixed_precision, self._flops_per_cell)
        self.guard = StepGuard(self)
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        own = (progress_callback(bar=not args.disable_tqdm), self.guard, Monitoring(self))
        for callback in (*own, *(callbacks or [])):
            self.add_callback(callback)

    # ---- Batches, views and noise ----

    @cached_property
    def batches(self) -> WholeSteps:
        """The batches of this process, which shares them out by itself: they are not given to Accelerate."""
        args = self.args
        loader = training_loader(
            self.data.reader,
            self.data.batches,
            split=self.data.train_split,
            rank=args.process_index,
            world_size=args.world_size,
            workers=args.dataloader_num_workers,
            prefetch=args.dataloader_prefetch_factor or 2,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        )
        return WholeSteps(loader, args.gradient_accumulation_steps, self.meter)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """What Trainer iterates over, which has what it asks of a loader."""
        return self.batches  # type: ignore[return-value]

    def loader_state(self) -> dict[str, Any]:
        """The next batch, and which data it belongs to."""
        return self.batches.loader.state_dict()

    def resume_loader(self, checkpoint: Path) -> None:
        """Begin with the batch after the last one of a checkpoint."""
        self.batches.loader.load_state_dict(json.loads((checkpoint / LOADER_FILE).read_bytes()))

    def num_examples(self, dataloader: Any) -> int:
        """Cells of all processes in an epoch."""
        batches = self.data.batches
        return len(dataloader) * batches.antibodies_per_batch * batches.cells_per_antibody

    def make_views(self, batch: Mapping[str, Any], maker: ViewMaker) -> MultiViewBatch:
        """Choose the model's channels by name and make views of the batch, on its device, from its own seed."""
        stored, wanted = self.data.reader.index.crop_format.channels, self.model.config.channels
        pixels = batch["pixels"]
        if list(stored) != list(wanted):
            pixels = torch.stack([pixels[:, stored.index(name)] for name in wanted], dim=1)
        crops = CropBatch(
            pixels=pixels,
            cell_masks=batch["cell_masks"],
            antibodies=batch["antibodies"],
            locations=batch["locations"],
        )
        if self.model.config.cell_contrast_positives != "cell":
            crops["cell_groups"] = batch[_GROUPS[self.model.config.cell_contrast_positives]]
        # The views of the global batch are drawn alike by all processes: they do not depend on how many there are.
        return maker(crops, wanted, torch.Generator().manual_seed(batch["view_seed"]), **_part_of_batch(batch))

    def make_shown_views(self, batch: Mapping[str, Any]) -> tuple[MultiViewBatch, tuple[str, ...] | None]:
        """Views for training of the channels that the model is shown, and their names; None if all are."""
        views = self.make_views(batch, self.view_maker)
        if self.data.sampling is None:
            return views, None
        channels = list(self.model.config.channels)
        shown = self.data.sampling.draw(channels, batch["view_seed"])
        chosen = [channels.index(name) for name in shown.channels]
        return MultiViewBatch(**{**views, "pixel_values": views["pixel_values"][:, :, chosen]}), shown.names

    def draw_noise(self, batch: Mapping[str, Any], views: MultiViewBatch) -> ModelNoise:
        """What the model hides from itself in these views of a batch."""
        antibodies = self.data.batches.antibodies_per_batch
        pixels, part = views["pixel_values"], _part_of_batch(batch)
        return draw_noise(self.model.config, pixels, batch["view_seed"], antibodies=antibodies, **part)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> float:  # type: ignore[override]  # Trainer adds them up
        """Of a training step on these cells."""
        return self._flops_per_cell * len(inputs["pixels"])

    # ---- Loss, optimizer, teacher ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Views, forward pass, and a note of every component of the loss; arguments as Trainer's."""
        views, names = self.make_shown_views(inputs)
        noise = self.draw_noise(inputs, views)
        self.meter.clock.end("views")
        outputs = model(**views, **noise, channels=names)
        self.meter.clock.end("forward")
        self.guard.note_losses({name: value.detach() for name, value in outputs.losses.items()})
        if self.updates_within_backward:
            self.guard.check()
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass of a batch, in parts where `cached_gradient_chunks` says so; as Trainer's."""
        if self.args.cached_gradient_chunks == 1:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._training_step_in_parts(inputs)
        self.meter.clock.end("backward")
        return loss

    def _training_step_in_parts(self, inputs: dict[str, Any]) -> Tensor:
        self.model.train()
        switch_to_training = getattr(self.optimizer, "train", None)  # schedule-free optimizers have it
        if callable(switch_to_training):
            switch_to_training()
        inputs = self.to_device(inputs)
        views, names = self.make_shown_views(inputs)
        noise = self.draw_noise(inputs, views)
        self.meter.clock.end("views")
        share, scaler = 1 / self.batches_in_step, self.loss_scaler
        step = CachedGradientStep(
            self.model,
            self.args.cached_gradient_chunks,
            self.accelerator.autocast,
            lambda loss: share * (loss if scaler is None else scaler.scale(loss)),
        )
        losses = step(views, noise, names)
        self.guard.note_losses(losses)
        if self.accelerator.sync_gradients:
            average_gradients(self.model.parameters())
        return self.model.weigh(losses).detach() * share

    def agree_to_stop(self, asked: bool) -> bool:
        """What the processes agreed on when the step was checked, so that no further message is needed."""
        return self.guard.stop_agreed

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Any of Trainer's optimizers by name, with SubCell's groups of weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            own_groups = settings.keys() & {"params", "model", "optimizer_dict"}
            if own_groups or not isinstance(kind, type) or not issubclass(kind, torch.optim.Optimizer):
                raise InputError(
                    f"optim={OptimizerNames(self.args.optim).value} groups parameters itself and would ignore "
                    "SubCell's weight decays. Choose another, such as adamw_torch, adafactor or sgd."
                )
            groups = parameter_groups(model, self.args.weight_decay, self.args.head_weight_decay)
            self.optimizer = kind(groups, **settings)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's line of the log, with the mean of every component of the loss and the throughput since the last."""
        if "loss" in logs:
            logs |= self.guard.read_mean_losses()
            logs |= self.meter.read(self.args.world_size)
        super().log(logs, start_time)

    # ---- Validation ----

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure the probe on every cell of a split: one view, surroundings removed, nothing hidden, no augmentation.

        The per-class table is written to `validation/` in the run's folder.

        Args:
            eval_dataset: Name of the split; None for the validation split.
            ignore_keys: Without meaning here; Trainer hands it over.
            metric_key_prefix: Put before the names of the metrics.

        Returns:
            The metrics of `summarize`, the probe's focal loss as `loss`, and the time taken; the same on all processes
            and for any number of them.
        """
        split = eval_dataset or self.data.validation_split
        started = time.perf_counter()
        logits, targets = self.score_cells(split)
        config = self.model.config
        loss = sigmoid_focal_loss(
            torch.from_numpy(logits), torch.from_numpy(targets), config.focal_alpha, config.focal_gamma
        )
        table = score_locations(logits, targets, list((config.id2label or {}).values()))
        found = {"loss": float(loss), **summarize(logits, targets, table)}
        found["runtime"] = time.perf_counter() - started
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        if self.is_world_process_zero():
            with self.tolerance.of("tables of validations", self.state.global_step):
                write_table(table, self.run_folder / "validation" / f"{split}-{self.state.global_step}.csv")
        self.log(metrics)
        self.announce_validation(metrics)
        return metrics

    @torch.no_grad()
    def score_cells(self, split: str | None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Logits of the probe and labels of every cell of a split, `[cells, classes]`, in the order of the shards."""
        args = self.args
        loader = in_order_loader(
            self.data.reader,
            args.per_device_eval_batch_size * args.world_size,
            split=split,
            rank=args.process_index,
            world_size=args.world_size,
            workers=args.dataloader_num_workers,
        )
        maker = ViewMaker(validation_views(self.data.views))
        self.model.eval()
        nn.Module.to(self.model, args.device)
        logits, targets = [], []
        for batch in loader:
            inputs = self.to_device(dict(batch))
            views = self.make_views(inputs, maker)
            with self.accelerator.autocast():
                found = self.model.predict_locations(self.model.subcell(views["pixel_values"][:, 0]).pooler_output)
            parts = found.float(), views["locations"].float(), inputs["repeated"]
            scored, labels, repeated = (self.accelerator.gather(part) for part in parts)
            logits.append(scored[~repeated].cpu())
            targets.append(labels[~repeated].cpu())
        return torch.cat(logits).numpy(), torch.cat(targets).numpy()

    # ---- What is written beside the weights ----

    def write_record(self, folder: Path) -> None:
        """Write the image processor, which prepares crops as training does, and the record that cards are made of."""
        config = self.model.config
        # The views of training, but for their randomness: cropped around the cell at the model's pixel size.
        SubCellImageProcessor(
            config.channels,
            dict(zip(("height", "width"), config.image_height_width, strict=True)),
            config.pixel_size_um,
            normalize=self.data.views.scaling,
            channel_tokens=config.channel_tokens,
        ).save_pretrained(folder)
        times, state = self.clock.read(self.args.world_size), self.state
        record = describe_training(config, self.args, self.data, state.log_history, state.global_step, times)
        if self.tolerance.failures:
            record["monitoring_failures"] = self.tolerance.failures
        with write_atomically(folder / TRAINING_RECORD_FILE) as file:
            file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def _part_of_batch(batch: Mapping[str, Any]) -> dict[str, int]:
    """Where the cells of this process are in the global batch; nothing for cells that are no part of one."""
    return {name: batch[name] for name in ("first_cell", "global_cells") if name in batch}
