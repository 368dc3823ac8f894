"""The experiment trackers that Trainer reports to: which they are, and pictures for them."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback


def name_watcher(callback: TrainerCallback) -> str | None:
    """What a callback that only watches a training is called in messages; None for any other."""
    trackers = {kind: name for name, kind in INTEGRATION_TO_CALLBACK.items()}
    tracker = next((trackers[kind] for kind in type(callback).__mro__ if kind in trackers), None)
    if tracker is not None:
        return f"reports to {tracker}"
    return "progress lines" if isinstance(callback, ProgressCallback | PrinterCallback) else None


def send_pictures(callbacks: Iterable[TrainerCallback], pictures: Mapping[str, Path], step: int) -> list[str]:
    """Hand pictures to every tracker at work that can show them: TensorBoard, Weights & Biases, trackio.

    Args:
        callbacks: Those of the trainer, Trainer's own for `report_to` among them.
        pictures: Name → PNG file.
        step: Optimizer steps taken.

    Returns:
        Names of the trackers that took them.
    """
    told = []
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            for name, path in pictures.items():
                image = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
                callback.tb_writer.add_image(f"pictures/{name}", image, step, dataformats="HWC")
            callback.tb_writer.flush()
            told.append("tensorboard")
        elif isinstance(callback, WandbCallback) and callback._initialized:
            images = {f"pictures/{name}": callback._wandb.Image(str(path)) for name, path in pictures.items()}
            callback._wandb.log({**images, "train/global_step": step})
            told.append("wandb")
        elif isinstance(callback, TrackioCallback) and callback._initialized:
            images = {f"pictures/{name}": callback._trackio.Image(str(path)) for name, path in pictures.items()}
            callback._trackio.log({**images, "train/global_step": step})
            told.append("trackio")
    return told
