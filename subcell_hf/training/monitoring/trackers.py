"""The experiment trackers that Trainer reports to: which they are, and pictures for them."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from subcell_hf.training.runs.trainer_adapter import TRACKERS, tensorboard_writer, tracker_module


def name_watcher(callback: TrainerCallback) -> str | None:
    """What a callback that only watches a training is called in messages; None for any other."""
    trackers = {kind: name for name, kind in TRACKERS.items()}
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
    receivers = []
    for callback in callbacks:
        writer, tracker = tensorboard_writer(callback), tracker_module(callback)
        if writer is not None:
            for name, path in pictures.items():
                image = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
                writer.add_image(f"pictures/{name}", image, step, dataformats="HWC")
            writer.flush()
            receivers.append("tensorboard")
        elif tracker is not None:
            name_of_tracker, module = tracker
            images = {f"pictures/{name}": module.Image(str(path)) for name, path in pictures.items()}
            module.log({**images, "train/global_step": step})
            receivers.append(name_of_tracker)
    return receivers
