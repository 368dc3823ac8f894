"""Pictures and the page of a run, as a callback of the trainer.

Whatever fails here is a warning: a training is not ended by what watches it.

Everything lies in `monitoring/` of the run's folder: `index.html`, `loss_curves.png` and `pictures/<kind>-<step>.png`;
the pictures also go to the trackers of `report_to` that can show them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from subcell_hf import __version__
from subcell_hf.augmentation.presets import validation_views
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.storage.atomic import write_atomically

if TYPE_CHECKING:
    from subcell_hf.training.monitoring.model_pictures import Picture, PictureCells
    from subcell_hf.training.pretraining.trainer import PreTrainer

MONITORING_FOLDER = "monitoring"


class Monitoring(TrainerCallback):
    """Draws pictures and writes the page, on the first process alone.

    Args:
        trainer: The one that is watched; its arguments say what is drawn and when.
    """

    def __init__(self, trainer: PreTrainer) -> None:
        self.trainer = trainer
        self._picture_steps = 0
        self._cells: PictureCells | None = None
        self._drawn_at = -1
        self._page_shows: tuple[int, int, int, str] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Show the model before its first step."""
        epochs = self.trainer.args.picture_epochs
        if epochs:
            steps = len(self.trainer.get_train_dataloader()) // args.gradient_accumulation_steps
            self._picture_steps = max(1, round(epochs * steps))
        if state.global_step == 0:
            self._draw(state)
        self._write_page(state, "training")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Draw if it is time, and after the last step, while trackers still listen."""
        due = self._picture_steps and state.global_step % self._picture_steps == 0
        if due or state.global_step >= state.max_steps:
            self._draw(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a validation."""
        if self.trainer.args.picture_epochs is None:
            self._draw(state)
        self._write_page(state, "training")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a checkpoint."""
        self._write_page(state, "training")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """When training ends, for whatever reason."""
        self._write_page(state, "finished" if state.global_step >= state.max_steps else "stopped")

    def _draw(self, state: TrainerState) -> None:
        step = state.global_step
        if self.trainer.args.picture_epochs == 0 or self._drawn_at == step or not state.is_world_process_zero:
            return
        self._drawn_at = step
        trainer = self.trainer
        nn.Module.to(trainer.model, trainer.args.device)  # Trainer may not have moved it yet.
        paths: dict[str, Path] = {}
        with trainer.tolerance.of("monitoring pictures", step):
            from subcell_hf.training.monitoring.model_pictures import draw_pictures

            with trainer.accelerator.autocast():
                pictures = draw_pictures(trainer.model, self._load_cells())
            folder = trainer.run_folder / MONITORING_FOLDER / "pictures"
            for name, drawn in pictures.items():
                paths[name] = _write_picture(folder / f"{name}-{step:08d}.png", drawn)
        with trainer.tolerance.of("pictures for trackers", step):
            from subcell_hf.training.monitoring.trackers import send_pictures

            send_pictures(trainer.callbacks, paths, step)

    def _load_cells(self) -> PictureCells:
        """The cells of the pictures, read once."""
        if self._cells is None:
            from subcell_hf.training.monitoring.model_pictures import PictureCells, caption_rows, choose_rows

            trainer, data = self.trainer, self.trainer.data
            reader = data.reader
            rows = choose_rows(reader, data.validation_split or data.train_split, trainer.args.picture_cells)
            pixels, cell_masks = reader.read(rows)
            batch = {
                "pixels": torch.from_numpy(pixels),
                "cell_masks": torch.from_numpy(cell_masks),
                "antibodies": torch.from_numpy(reader.cells.antibody[rows].astype("int64")),
                "locations": torch.from_numpy(reader.cells.location_sets[reader.cells.location_set[rows]]),
                "fields_of_view": torch.from_numpy(reader.cells.field_of_view[rows].astype("int64")),
                "cell_lines": torch.from_numpy(reader.cells.cell_line[rows].astype("int64")),
                "view_seed": 0,
            }
            batch = trainer.to_device(batch)
            views = trainer.make_views(batch, ViewMaker(validation_views(data.views)))
            self._cells = PictureCells(
                views["pixel_values"][:, 0], views["cell_masks"][:, 0], caption_rows(reader, rows)
            )
        return self._cells

    def _write_page(self, state: TrainerState, status: str) -> None:
        drawn = (state.global_step, len(state.log_history), self._drawn_at, status)
        if not self.trainer.args.run_page or not state.is_world_process_zero or drawn == self._page_shows:
            return
        self._page_shows = drawn
        with self.trainer.tolerance.of("updates of the run's page", state.global_step):
            self._render_page(state, status)

    def _render_page(self, state: TrainerState, status: str) -> None:
        from subcell_hf.training.monitoring.run_page import RunFacts, write_run_page

        trainer, data = self.trainer, self.trainer.data
        split = data.validation_split
        facts = RunFacts(
            folder=trainer.run_folder,
            summary=describe_model(trainer),
            weights={name: getattr(trainer.model.config, f"{name}_weight") for name in _OBJECTIVES},
            step=state.global_step,
            total_steps=state.max_steps,
            validation_cells=len(data.reader.split_rows(split)) if split else 0,
            status=status,
            version=__version__,
        )
        write_run_page(facts, state.log_history)


_OBJECTIVES = ("reconstruction", "cell_contrast", "protein_contrast", "protein_centroid", "probe")


def describe_model(trainer: PreTrainer) -> str:
    """What is trained, in a line: objectives, size of the model, channels, batch, device and precision."""
    config, args, batches = trainer.model.config, trainer.args, trainer.data.batches
    weights = {name: getattr(config, f"{name}_weight") for name in _OBJECTIVES[:-1]}
    objectives = " + ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in weights.items() if value)
    parameters = sum(parameter.numel() for parameter in trainer.model.subcell.parameters())
    height, width = config.image_height_width
    precision = {"no": "fp32"}.get(args.mixed_precision, args.mixed_precision)
    processes = f"{args.world_size} processes" if args.world_size > 1 else "one process"
    return (
        f"{objectives or 'supervised'} · encoder of {parameters / 1e6:.3g} M parameters · "
        f"{height}×{width} px of {', '.join(config.channels)} · "
        f"{batches.antibodies_per_batch} antibodies × {batches.cells_per_antibody} cells · "
        f"{processes} on {args.device.type}, {precision}"
    )


def _write_picture(path: Path, picture: Picture) -> Path:
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="PNG")
    with write_atomically(path) as file:
        file.write(encoded.getvalue())
    return path
