"""An int8 model for CPUs, calibrated on the user's cells and judged on others: what `subcell optimize` runs."""

import hashlib
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subcell_hf.errors import InputError
from subcell_hf.evaluation.comparison.agreement import Agreement, AgreementLimits, measure_agreement
from subcell_hf.inference.engine.prepared_cells import prepare_cells
from subcell_hf.inference.models.loading import CellEncoder, ModelFolder, find_models
from subcell_hf.inference.models.openvino_encoder import (
    INT8_FILE,
    OPTIMIZATION_FILE,
    convert_encoder,
    import_openvino,
    openvino_core,
)
from subcell_hf.inference.models.quantization import (
    FLOAT_LAYERS,
    FLOAT_OPERATIONS,
    SMOOTHING,
    choose_float_precision,
    quantize_encoder,
)
from subcell_hf.inference.sources.blocks import CellSource
from subcell_hf.inference.sources.recognition import open_source
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.model import configuration_subcell
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.progress import hide_weight_bars, progress_bar
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.model_folders import load_weights
from subcell_hf.storage.records import describe_files, write_record
from subcell_hf.workflows.machine.optimize_settings import FEWEST_CALIBRATED, FEWEST_JUDGED, OptimizeSettings

OPTIMIZATION_FORMAT = 1
"""Version of `optimization.json`."""

_LIBRARIES = ("subcell-hf", "torch", "transformers", "openvino", "nncf")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimizedModel:
    """Result of `optimize_model`.

    Attributes:
        folder: Folder with the float and the int8 model.
        agreement: Figures of the int8 model against the float one.
        record: Content of `optimization.json`.
    """

    folder: Path
    agreement: Agreement
    record: Mapping[str, Any]


@dataclass(frozen=True)
class _Cells:
    """Cells as the model sees them, with what is known of them."""

    images: list[Tensor]  # each [1, channels, height, width]
    records: list[Mapping[str, Any]]
    digests: list[str]

    def facts(self, source: str) -> dict[str, Any]:
        """What is recorded of them."""
        total = hashlib.sha256("".join(self.digests).encode()).hexdigest()
        sizes = sorted({f"{image.shape[-2]}×{image.shape[-1]}" for image in self.images})
        return {"input": source, "cells": len(self.images), "cells_sha256": total, "image_sizes_px": sizes}


def optimize_model(
    model: str | Path,
    calibrate: str | Path,
    output: str | Path,
    *,
    judge: str | Path | None = None,
    revision: str | None = None,
    options: SourceOptions | None = None,
    settings: OptimizeSettings | None = None,
) -> OptimizedModel:
    """Quantize a model to int8 for OpenVINO, and write it beside the float model if both agree.

    Example:
        ```python
        from subcell_hf.workflows import optimize_model

        optimized = optimize_model("subcell-rybg", "images", "subcell-rybg-int8")
        print(optimized.agreement.describe())
        ```

    Args:
        model: Folder or Hub id.
        calibrate: Images, crops or shards to calibrate on, as `subcell embed` takes them.
        output: Folder to write; must not exist or be empty.
        judge: Others to judge the result on; None: every second block (field of view, image of one cell, or 64 cells of
            shards) of `calibrate`, in random order, is kept for that.
        revision: Branch, tag or commit of a model on the Hub.
        options: How images are read, segmented and cropped.
        settings: How to do it.

    Returns:
        The folder, and how well both models agree.

    Raises:
        InputError: If a limit is not met, with all figures; there are too few cells; or an input cannot be used.
        OSError: If a file cannot be written.
    """
    output, settings = Path(output), settings or OptimizeSettings()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not empty. Choose another folder, or remove its content.")
    import_openvino()
    hide_weight_bars()
    (found,) = find_models(str(model), revision=revision)
    calibrated, judged = _read_cells(found, calibrate, judge, options or SourceOptions(), settings)
    _logger.info("Calibrating on %d cells, judging on %d others.", len(calibrated.images), len(judged.images))
    encoder = load_weights(SubCellModel, found.folder)
    quantized = quantize_encoder(convert_encoder(encoder), calibrated.images)
    precision = choose_float_precision(quantized, calibrated.images[0])
    del encoder
    with write_folder_atomically(output) as staging:
        _copy_model(found.folder, staging)
        (staging / INT8_FILE).parent.mkdir()
        import_openvino().save_model(quantized, staging / INT8_FILE, compress_to_fp16=False)
        weights = [*staging.glob("*.safetensors"), *(staging / INT8_FILE).parent.iterdir()]
        record: dict[str, Any] = {
            "format": OPTIMIZATION_FORMAT,
            "model": {"name": found.name, "revision": found.revision, "weights_sha256": found.checksum},
            "method": {
                "precision": "int8 weights per channel and activations, after SmoothQuant",
                "smoothing": SMOOTHING,
                "float_layers": [*FLOAT_LAYERS, *FLOAT_OPERATIONS],
            },
            "float_precision": precision,
            "calibration": calibrated.facts(str(calibrate)),
            "judged": judged.facts(str(judge if judge is not None else calibrate)),
            "settings": asdict(settings),
            "machine": f"{openvino_core().get_property('CPU', 'FULL_DEVICE_NAME')}, {platform.machine()}",
            "versions": {name: version(name) for name in _LIBRARIES},
            "files": describe_files(staging, sorted(weights)),
        }
        write_record(staging / OPTIMIZATION_FILE, record)
        agreement = _judge(found, staging, judged)
        if unmet := settings.limits.find_unmet(agreement):
            raise InputError(
                f"The int8 model does not agree with {found.name}: {'; '.join(unmet)}. All figures: "
                f"{agreement.describe()}. Nothing was written. Calibrate on more cells, or on cells that are more like "
                "those that will be embedded, or set lower limits if these figures are good enough for you."
            )
        record["agreement"] = asdict(agreement)
        record["below_default_limits"] = AgreementLimits().find_unmet(agreement)
        write_record(staging / OPTIMIZATION_FILE, record)
    _logger.info("%s", agreement.describe())
    return OptimizedModel(output, agreement, record)


def _read_cells(
    model: ModelFolder,
    calibrate: str | Path,
    judge: str | Path | None,
    options: SourceOptions,
    settings: OptimizeSettings,
) -> tuple[_Cells, _Cells]:
    """Cells to calibrate on, and others to judge by: no two of them have the same pixels."""
    source, (used,), what = open_source(calibrate, [model], options)
    _logger.info("%s: %s.", calibrate, what)
    names = _shuffled(source, settings.seed)
    other, other_model, other_names = source, used, names[1::2]
    if judge is not None:
        other, (other_model,), what = open_source(judge, [model], options)
        _logger.info("%s: %s.", judge, what)
        other_names = _shuffled(other, settings.seed)
    seen: set[str] = set()
    calibrated = _take(source, used, names if judge is not None else names[::2], settings.calibration_cells, seen)
    judged = _take(other, other_model, other_names, settings.judged_cells, seen)
    for cells, least, use in ((calibrated, FEWEST_CALIBRATED, "calibrate on"), (judged, FEWEST_JUDGED, "judge on")):
        if len(cells.images) < least:
            raise InputError(
                f"{calibrate if judge is None or cells is calibrated else judge} has {len(cells.images)} usable cells "
                f"to {use}, expected at least {least}. No cell serves both purposes, nor do two with the same pixels. "
                "Give more images, or others to judge on (--judge)."
            )
    return calibrated, judged


def _shuffled(source: CellSource, seed: int) -> list[str]:
    names = list(source.names())
    return [names[index] for index in np.random.default_rng(seed).permutation(len(names))]


def _take(source: CellSource, model: ModelFolder, names: Sequence[str], most: int, seen: set[str]) -> _Cells:
    """Read cells until there are enough; those whose pixels were seen before are passed over."""

    def unseen() -> Iterator[tuple[Tensor, Mapping[str, Any], str]]:
        for cells in prepare_cells(source, model, names):
            for image, record in zip(cells.images.split(1), cells.records, strict=True):
                digest = hashlib.sha256(image.numpy().tobytes()).hexdigest()
                if digest not in seen:
                    seen.add(digest)
                    yield image, record, digest

    taken = list(islice(unseen(), most))
    return _Cells([cell[0] for cell in taken], [cell[1] for cell in taken], [cell[2] for cell in taken])


def _copy_model(folder: Path, staging: Path) -> None:
    """Copy the files of a float model; the code that loads it is added where the Hub's cache lacks it."""
    code = Path(configuration_subcell.__file__).parent.glob("*_subcell*.py")
    for path in (*code, *folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.name != OPTIMIZATION_FILE:
            shutil.copyfile(path, staging / path.name)


def _judge(model: ModelFolder, staging: Path, judged: _Cells) -> Agreement:
    """Compare the int8 model, loaded as `subcell embed` loads it, with the float model."""
    device = torch.device("cpu")
    encoders = (
        CellEncoder(model, device, "fp32"),
        CellEncoder(replace(model, folder=staging), device, "int8", openvino="CPU"),
    )
    found: tuple[list[Tensor], ...] = ([], [])
    scores: tuple[list[Tensor], ...] = ([], [])
    with progress_bar(len(judged.images), "cells", "judge") as bar:
        for image in judged.images:
            for number, encoder in enumerate(encoders):
                embeddings, probabilities, _ = encoder(image)
                found[number].append(embeddings)
                scores[number].extend([] if probabilities is None else [probabilities])
            bar.update()
    vectors = [torch.cat(parts).numpy() for parts in found]
    chances = [torch.cat(parts).numpy() if parts else None for parts in scores]
    return measure_agreement(*vectors, *chances, classes=model.classes, targets=_targets(model, judged.records))


def _targets(model: ModelFolder, records: Sequence[Mapping[str, Any]]) -> Any:
    """`[cells, classes]`, 1 where a cell is known to have a location; None if none is known."""
    known = [str(record.get("locations") or "") for record in records]
    if not model.classes or not any(known):
        return None
    from subcell_hf.evaluation.localization.labels import ClassScheme, location_targets

    scheme = ClassScheme(model.name, model.classes, {name: name for name in model.classes})
    return location_targets(known, scheme)
