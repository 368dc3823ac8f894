"""Fine-tuning a SubCell on custom labelled crops: the whole model, or only the head.

```python
run = resolve_fine_tuning(parse_fine_tuning(["--init_checkpoint", "model", "--data", "crops.csv", …]))
tuner = FineTuner(run)
tuner.train()
tuner.save_final_model()  # AutoModelForImageClassification and AutoImageProcessor load that folder
```

Crops go through the very image processor that is saved with the model, and validation sees them as inference does;
training sees random views of them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers.trainer_utils import EvalPrediction

from subcell_hf.augmentation.presets import validation_views
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from subcell_hf.model.objectives_subcell import sigmoid_focal_loss
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.training.finetuning.finetuning_resolution import FineTuningRun
from subcell_hf.training.finetuning.labelled_crops import LabelledCrops
from subcell_hf.training.monitoring.probe_metrics import score_locations, summarize, write_table
from subcell_hf.training.runs.run_trainer import RunTrainer
from subcell_hf.types import CropBatch

_LARGEST_WEIGHT = 20.0
"""Largest class weight: without a limit, a class with one crop in ten thousand would dominate the loss."""


class LabelledCropDataset(Dataset[dict[str, Tensor]]):
    """Crops at the size of the model, one at a time.

    Args:
        crops: Where they come from.
        rows: Which of them.
        targets: `[crops, classes]` float32, or `[crops]` int64, of all crops of `crops`.
        processor: The model's; masking and scaling are left to the views.
    """

    def __init__(
        self,
        crops: LabelledCrops,
        rows: npt.NDArray[np.int64],
        targets: npt.NDArray[Any],
        processor: SubCellImageProcessor,
    ) -> None:
        self.crops = crops
        self.rows = rows
        self.targets = targets
        self.processor = processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """`pixels` float32 `[channels, height, width]`, `cell_masks` bool `[height, width]` and `targets`."""
        row = int(self.rows[number])
        pixels, mask = self.crops.read(row)
        inside = np.ones(pixels.shape[1:], dtype=bool) if mask is None else mask
        prepared = self.processor.preprocess(
            pixels,
            cell_masks=inside,
            channels=self.crops.channels,
            pixel_size_um=self.crops.pixel_size_um,
            do_mask=False,
            do_normalize=False,
            return_cell_masks=True,
        )
        return {
            "pixels": prepared["pixel_values"][0],
            "cell_masks": prepared["cell_masks"][0],
            "targets": torch.as_tensor(self.targets[row]),
        }


class FineTuner(RunTrainer):
    """Trains a `SubCellForImageClassification` on labelled crops.

    Args:
        run: From `resolve_fine_tuning`.
    """

    model: SubCellForImageClassification

    def __init__(self, run: FineTuningRun) -> None:
        self.run = run
        train, validation = (
            LabelledCropDataset(run.crops, rows, run.targets, run.processor) for rows in (run.train, run.validation)
        )
        self._table_rows: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
        self._last_batch: tuple[int, int] | None = None  # step and number in it, of the batch that was last seen
        super().__init__(
            model=run.build_model(),
            args=run.training,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=_stack,
            processing_class=run.processor,
            compute_metrics=self._measure,
        )
        self.label_names = ["targets"]
        self._views = {True: ViewMaker(run.views), False: ViewMaker(validation_views(run.views))}
        self._weights = class_weights(run.targets[run.train], len(run.classes), run.training.class_weights)

    def make_pixel_values(self, inputs: Mapping[str, Tensor], training: bool) -> Tensor:
        """Random views of the crops, or what inference sees: `[crops, channels, height, width]`."""
        cells = len(inputs["pixels"])
        crops = CropBatch(
            pixels=inputs["pixels"],
            cell_masks=inputs["cell_masks"],
            # Views share surroundings out among the cells of an antibody; here any of the batch may keep its own.
            antibodies=torch.zeros(cells, dtype=torch.int64, device=inputs["pixels"].device),
            locations=torch.zeros(cells, 1, device=inputs["pixels"].device),
        )
        generator = torch.Generator().manual_seed(self._next_seed() if training else 0)
        return self._views[training](crops, self.run.config.channels, generator)["pixel_values"][:, 0]

    def _next_seed(self) -> int:
        """Seed of the next batch's views, which follows from the run's seed, the process and the step alone."""
        step, batch = self.state.global_step, 0
        if self._last_batch is not None and self._last_batch[0] == step:
            batch = self._last_batch[1] + 1  # accumulated in the same step
        self._last_batch = (step, batch)
        place = (self.args.seed, self.args.process_index, step, batch)
        return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Views, forward pass and the loss that was asked for; arguments as Trainer's."""
        training = model.training
        if self.run.freeze_encoder:
            self.model.subcell.eval()  # no dropout in what is not trained
        outputs = model(self.make_pixel_values(inputs, training))
        loss = classification_loss(outputs.logits, inputs["targets"], self.run.loss, self.run.config, self._weights)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, logits and targets of a batch; arguments as Trainer's."""
        inputs = self.to_device(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach(), outputs.logits.float(), inputs["targets"]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measure on the validation split; the per-class table is written to `validation/` in the run's folder."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.is_world_process_zero() and self._table_rows is not None:
            scores, targets = self._table_rows
            table = score_locations(scores, targets, self.run.classes)
            with self.tolerance.of("tables of validations", self.state.global_step):
                write_table(table, self.run_folder / "validation" / f"{self.state.global_step}.csv")
        return metrics

    def _measure(self, prediction: EvalPrediction) -> dict[str, float]:
        logits, targets = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        scores, multi_hot = logits, targets
        found = {}
        if self.run.single_label:
            multi_hot = np.eye(logits.shape[1], dtype=np.float32)[targets]
            scores = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            chosen = logits.argmax(axis=1)
            found["accuracy"] = float(accuracy_score(targets, chosen))
            found["macro_f1"] = float(f1_score(targets, chosen, average="macro", zero_division=0))
        self._table_rows = (scores, multi_hot)
        return found | summarize(scores, multi_hot, score_locations(scores, multi_hot, self.run.classes))

    def write_record(self, folder: Path) -> None:
        """Write what was asked for and what was measured last; Trainer writes the processor."""
        measured = [line for line in self.state.log_history if "eval_loss" in line][-1:]
        record = self.run.describe() | {"measured": measured[0] if measured else {}}
        if self.tolerance.failures:
            record["monitoring_failures"] = self.tolerance.failures
        with write_atomically(folder / "fine_tuning.json") as file:
            file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Any of Trainer's optimizers by name, with a learning rate of the encoder and one of the head."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(_parameter_groups(self.model, self.run.training), **settings)
        return self.optimizer


def class_weights(targets: npt.NDArray[Any], classes: int, how: str) -> Tensor | None:
    """What a positive of every class counts, `[classes]`; None where all count alike.

    Args:
        targets: Of the training crops: `[crops, classes]` 0 or 1, or `[crops]` indices.
        classes: How many.
        how: `"none"`, or `"balanced"`: the negatives per positive of a class (multi-label), or the mean class size over
            the class's own (single label), from 1/20 to 20.
    """
    if how == "none":
        return None
    if targets.ndim == 1:
        counts = np.bincount(targets, minlength=classes).clip(min=1)
        weights = len(targets) / (classes * counts)
    else:
        counts = targets.sum(axis=0).clip(min=1)
        weights = (len(targets) - counts) / counts
    return torch.as_tensor(weights.clip(1 / _LARGEST_WEIGHT, _LARGEST_WEIGHT), dtype=torch.float32)


def classification_loss(
    logits: Tensor, targets: Tensor, kind: str, config: Any, weights: Tensor | None = None
) -> Tensor:
    """The loss of a batch.

    Args:
        logits: `[crops, classes]`.
        targets: `[crops, classes]` 0 or 1, or `[crops]` int64 for `"cross_entropy"`.
        kind: `"focal"`, `"bce"` or `"cross_entropy"`.
        config: Gives `focal_alpha` and `focal_gamma`.
        weights: What a positive of every class counts; None for 1.

    Returns:
        Scalar.
    """
    logits = logits.float()
    weights = None if weights is None else weights.to(logits.device)
    if kind == "cross_entropy":
        return F.cross_entropy(logits, targets, weight=weights)
    targets = targets.to(logits.dtype)
    if kind == "bce":
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        losses = sigmoid_focal_loss(logits, targets, config.focal_alpha, config.focal_gamma, reduction="none")
    return (losses if weights is None else losses * (1 + (weights - 1) * targets)).mean()


def _parameter_groups(model: nn.Module, training: Any) -> list[dict[str, Any]]:
    """Encoder and head, each with and without weight decay; what is frozen is left out."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= 2 and not name.endswith(("bias", "cls_token", "position_embeddings"))
            groups.setdefault((name.startswith("classifier."), decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": training.head_learning_rate if head else training.learning_rate,
            "weight_decay": training.weight_decay if decayed else 0.0,
        }
        for (head, decayed), parameters in groups.items()
    ]


def _stack(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
