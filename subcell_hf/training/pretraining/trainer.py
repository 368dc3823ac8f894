"""Pretraining with transformers' Trainer, exact on one process or many.

The loss is the model's; this makes views on the device, names what went into the loss, moves the teacher, measures the
probe and keeps checkpoints that can be trusted. With gradient accumulation every micro-batch is a contrastive batch of
its own, over all processes, and their losses are averaged: more accumulation means steadier gradients, not more
negatives. For more negatives choose more antibodies per batch, and where these do not fit into memory
`cached_gradient_chunks` (see `cached_gradients`), which gives the gradient of the undivided batch.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_callback import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.training_args import OptimizerNames

from subcell_hf.augmentation.presets import validation_views
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.errors import InputError
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.objectives_subcell import sigmoid_focal_loss
from subcell_hf.shards.streaming import ShardBatch, ShardLoader, in_order_loader, training_loader
from subcell_hf.training.monitoring.cost import estimate_step_cost
from subcell_hf.training.monitoring.monitoring import Monitoring
from subcell_hf.training.monitoring.probe_metrics import score_locations, summarize, write_table
from subcell_hf.training.monitoring.terminal_progress import progress_callback
from subcell_hf.training.monitoring.throughput import ThroughputMeter
from subcell_hf.training.pretraining.arguments import PreTrainingArguments
from subcell_hf.training.pretraining.cached_gradients import CachedGradientStep, average_gradients
from subcell_hf.training.pretraining.metered_trainer import MeteredTrainer
from subcell_hf.training.pretraining.optimization import parameter_groups
from subcell_hf.training.pretraining.resolution import PreTrainingData
from subcell_hf.types import CropBatch, MultiViewBatch

_MODEL_STREAM = 0x5DEECE66D
"""Keeps the model's own draws (dropout, hidden patches) apart from those of the views, which have the same seed."""


class WholeSteps:
    """The batches of an epoch, as many as fill whole optimizer steps; those left over are not used in this epoch."""

    def __init__(self, loader: ShardLoader, batches_per_step: int) -> None:
        self.loader = loader
        self.steps = len(loader) // batches_per_step
        self._batches = self.steps * batches_per_step

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[ShardBatch]:
        for batch in self.loader:
            yield batch
            if batch["step"] + 1 == self._batches:
                return

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.loader.set_epoch(epoch)


class PreTrainer(MeteredTrainer):
    """Trains a `SubCellForPreTraining` from shards.

    Args:
        model: With the channels and classes that the shards have.
        args: As `resolve` fills them in.
        data: What is read.
        callbacks: More of Trainer's callbacks.
    """

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
        self._batches: WholeSteps | None = None
        self._losses: dict[str, Tensor] = {}
        self._losses_counted = 0
        self._not_finite: Tensor | None = None
        self._stop_agreed = False
        cost = estimate_step_cost(model.config, model, len(data.views.views))
        self._flops_per_cell = cost.training_flops_per_cell
        self.meter = ThroughputMeter(args.device, args.mixed_precision, self._flops_per_cell)
        self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
        self.add_callback(progress_callback(bar=not args.disable_tqdm))
        self.add_callback(_StepGuard(self))
        self.add_callback(Monitoring(self))
        for callback in callbacks or []:
            self.add_callback(callback)

    # ---- Batches and views ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader that shares batches out by itself; not prepared by Accelerate on purpose."""
        if self._batches is None:
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
            self.train_loader = loader
            self._batches = WholeSteps(loader, args.gradient_accumulation_steps)
        return self._batches  # type: ignore[return-value]  # has what Trainer asks of a loader

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
        # The views of the global batch are drawn alike by all processes: they do not depend on how many there are.
        part = {name: batch[name] for name in ("first_cell", "global_cells") if name in batch}
        return maker(crops, wanted, torch.Generator().manual_seed(batch["view_seed"]), **part)

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
        views = self.make_views(inputs, self.view_maker)
        self.meter.clock.end("views")
        # What the model draws depends on the batch alone, so that going on is exact and processes differ.
        torch.manual_seed((inputs["view_seed"] ^ _MODEL_STREAM) + inputs["first_cell"])
        outputs = model(**views)
        self.meter.clock.end("forward")
        self._note_losses({name: value.detach() for name, value in outputs.losses.items()})
        if self.is_deepspeed_enabled:
            # DeepSpeed updates within the backward pass, before any callback is asked.
            self.check_step()
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass of a batch, in parts where `cached_gradient_chunks` says so; as Trainer's."""
        if self.args.cached_gradient_chunks == 1:
            return super().training_step(model, inputs, num_items_in_batch)
        self.model.train()
        switch_to_training = getattr(self.optimizer, "train", None)  # schedule-free optimizers have it
        if callable(switch_to_training):
            switch_to_training()
        inputs = self._prepare_inputs(inputs)
        views = self.make_views(inputs, self.view_maker)
        self.meter.clock.end("views")
        torch.manual_seed((inputs["view_seed"] ^ _MODEL_STREAM) + inputs["first_cell"])
        share = 1 / self.current_gradient_accumulation_steps
        scaler = getattr(self.accelerator, "scaler", None)
        step = CachedGradientStep(
            self.model,
            self.args.cached_gradient_chunks,
            self.accelerator.autocast,
            lambda loss: share * (loss if scaler is None else scaler.scale(loss)),
        )
        losses = step(views)
        self._note_losses(losses)
        if self.accelerator.sync_gradients:
            average_gradients(self.model.parameters())
        self.meter.clock.end("backward")
        return self.model.weigh(losses) * share

    def _note_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Keep the components of a batch's loss for the log, and whether all of them are finite."""
        for name, value in losses.items():
            self._losses[name] = self._losses.get(name, torch.zeros_like(value)) + value
        self._losses_counted += 1
        broken = ~torch.stack(list(losses.values())).isfinite()
        self._not_finite = broken if self._not_finite is None else self._not_finite | broken

    def check_step(self) -> None:
        """Let all processes agree, before an update, that losses and gradients are finite, and whether to stop.

        Raises:
            FloatingPointError: On every process alike, if a component of the loss or a gradient is NaN or infinite.
        """
        if self._not_finite is None:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        scaled = getattr(self.accelerator, "scaler", None) is not None  # It skips such steps by itself.
        gradients_broken = torch.zeros_like(self._not_finite[0])
        if gradients and not scaled and not self.is_deepspeed_enabled:
            gradients_broken = ~torch.stack(torch._foreach_norm(gradients)).sum().isfinite()
        stop = torch.full_like(gradients_broken, self.stop_asked)
        flags = torch.stack([*self._not_finite, gradients_broken, stop]).float()
        heard = self.accelerator.reduce(flags, reduction="sum").tolist()
        self._not_finite = None
        self._stop_agreed = bool(heard[-1])
        names = [name for name, count in zip([*self._losses, "the gradient"], heard, strict=False) if count]
        if names:
            raise FloatingPointError(
                f"Not finite in step {self.state.global_step + 1}: {', '.join(names)}. Nothing was updated; the last "
                f"complete checkpoint in {self.args.output_dir} is sound. Look at the loss before this step, lower the "
                "learning rate, or use bf16 or fp32 instead of fp16."
            )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Any of Trainer's optimizers by name, with SubCell's groups of weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            own_groups = settings.keys() & {"params", "model", "optimizer_dict"}
            if own_groups or not isinstance(kind, type) or not issubclass(kind, torch.optim.Optimizer):
                raise InputError(
                    f"optim={OptimizerNames(self.args.optim).value} sorts parameters by itself and would lose "
                    "SubCell's weight decays. Choose another, such as adamw_torch, adafactor or sgd."
                )
            groups = parameter_groups(model, self.args.weight_decay, self.args.head_weight_decay)
            self.optimizer = kind(groups, **settings)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's line of the log, with the mean of every component of the loss since the last one."""
        if "loss" in logs and self._losses_counted:
            means = torch.stack([*self._losses.values()]) / self._losses_counted
            means = self.accelerator.reduce(means, reduction="mean")
            logs |= {f"loss_{name}": value for name, value in zip(self._losses, means.tolist(), strict=True)}
            self._losses, self._losses_counted = {}, 0
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
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
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
            inputs = self._prepare_inputs(dict(batch))
            views = self.make_views(inputs, maker)
            with self.accelerator.autocast():
                found = self.model.probe(self.model.subcell(views["pixel_values"][:, 0]).pooler_output)
            parts = found.float(), views["locations"].float(), inputs["repeated"]
            scored, labels, repeated = (self.accelerator.gather(part) for part in parts)
            logits.append(scored[~repeated].cpu())
            targets.append(labels[~repeated].cpu())
        return torch.cat(logits).numpy(), torch.cat(targets).numpy()


class _StepGuard(TrainerCallback):
    """What happens around each optimizer step."""

    def __init__(self, trainer: PreTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.trainer.check_step()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.model.update_teacher()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self.trainer.meter.finish_step()
        batches = self.trainer._batches
        if batches is not None:
            # After going on within an epoch Trainer counts from its start.
            state.epoch = state.global_step / batches.steps
        if self.trainer._stop_agreed:
            self.trainer.stop_asked = True
            control.should_save = control.should_training_stop = True
        return control
