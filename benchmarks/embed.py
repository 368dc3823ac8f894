"""Files of single cells on disk → embeddings on disk: `subcell embed` against the published way of working.

    python benchmarks/embed.py [--device cuda] [--size base] [--cells 24] [--image-size-px 448] [--rounds 3]

The reference does what SubCellPortable does: it reads the four PNG files of one cell, scales them, runs the forward in
fp32 with a batch of one and all attentions computed, two classifiers after it, and saves a .npy for every cell. Ours is
the whole command from listing the files to `embeddings.parquet`, pictures and AnnData left out, in the way that
`--precision auto` takes on the device, once more in fp32 on torch, and `from_shards`, which hold the same cells. Same
files, same weights, one process, taken in turn; loading the weights is left out on both sides. `--different` cells are
drawn; the files of the others are the same under another name. On a CPU also in int8 on OpenVINO, by a model that
`subcell optimize` made (extra `cpu`; without limits, since random weights do not meet them).
Prints one JSON line; ratio is ours by default to the reference, in cells per second.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch

from subcell_hf.evaluation.comparison import AgreementLimits
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.embedding import Processes, embed_cells
from subcell_hf.inference.engine.forward import BatchEmbedder
from subcell_hf.inference.models.loading import ModelFolder, choose_device, find_models
from subcell_hf.inference.models.precision import choose_precision
from subcell_hf.inference.sources.recognition import open_source
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.model.configuration_subcell import SIZES, SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from subcell_hf.shards.index import INDEX_FILE
from subcell_hf.shards.jobs import ListedCrops
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.tables.files import read_table
from subcell_hf.types import FieldCrops
from subcell_hf.workflows.machine.optimize import optimize_model
from subcell_hf.workflows.machine.optimize_settings import FEWEST_CALIBRATED, FEWEST_JUDGED, OptimizeSettings

COLOURS = ("red", "yellow", "blue", "green")
PIXEL_SIZE_UM = 0.0800885
CELLS_PER_FIELD = 16


def write_crops(crops: Path, cells: int, size_px: int, seed: int, different: int) -> Path:
    """Random cells as PNG files, so many of which differ."""
    generator = np.random.default_rng(seed)
    crops.mkdir()
    for cell in range(cells):
        for colour in COLOURS:
            path, same = (crops / f"p_A1_{number}_{colour}.png" for number in (cell, cell % different))
            if path != same:
                path.hardlink_to(same)
                continue
            plane = generator.integers(0, 256, (size_px, size_px), np.uint8)
            path.write_bytes(imagecodecs.png_encode(plane, level=1))
    return crops


def read_cell(crops: Path, cell: int) -> np.ndarray:
    """`[channels, height, width]` uint8."""
    files = [(crops / f"p_A1_{cell}_{colour}.png").read_bytes() for colour in COLOURS]
    return np.stack([imagecodecs.png_decode(file) for file in files])


@dataclass(frozen=True)
class WrittenCells:
    """The same cells for shards, sixteen to a field of view."""

    crops: Path
    cells: int

    def fields(self) -> list[ListedCrops]:
        """Every field of view."""
        numbers = range(0, self.cells, CELLS_PER_FIELD)
        return [ListedCrops(str(n), {"antibody": f"HPA{n:06d}"}) for n in numbers]

    def read(self, name: str) -> FieldCrops:
        """The cells of a field, whose masks are full."""
        numbers = range(int(name), min(int(name) + CELLS_PER_FIELD, self.cells))
        pixels = np.stack([read_cell(self.crops, number) for number in numbers])
        masks = np.ones((len(pixels), *pixels.shape[2:]), np.bool_)
        cells = tuple({"cell_id": f"{name}_{n}", "field_of_view": name, "label": n} for n in numbers)
        return FieldCrops(name, pixels, masks, COLOURS, PIXEL_SIZE_UM, cells)

    def fingerprint(self) -> str:
        """Shards are always written anew here."""
        return f"{self.crops} {self.cells}"


def write_inputs(folder: Path, cells: int, size_px: int, model_size: str) -> tuple[Path, Path]:
    """Random cells, and a random model with two classifiers."""
    crops = write_crops(folder / "crops", cells, size_px, 0, arguments.different)
    torch.manual_seed(0)
    config = SubCellConfig.from_size(model_size, image_size=size_px, classifier_ensemble_size=2)
    SubCellForImageClassification(config).save_pretrained(folder / "model")
    SubCellImageProcessor(size=size_px, pixel_size_um=PIXEL_SIZE_UM).save_pretrained(folder / "model")
    return crops, folder / "model"


@torch.inference_mode()
def embed_as_published(model: SubCellForImageClassification, crops: Path, output: Path, cells: int) -> np.ndarray:
    """One cell at a time, fp32, attentions computed, one .npy per cell."""
    output.mkdir()
    device = next(model.parameters()).device
    embeddings = []
    for cell in range(cells):
        image = torch.from_numpy(read_cell(crops, cell).astype(np.float32))[None].to(device)
        image = (image - image.min()) / (image.max() - image.min() + 1e-6)
        outputs = model(image, output_attentions=True)
        np.save(output / f"{cell}_embedding.npy", outputs.pooler_output.cpu().numpy())
        np.save(output / f"{cell}_probabilities.npy", outputs.logits.sigmoid().cpu().numpy())
        embeddings.append(outputs.pooler_output[0].cpu().numpy())
    return np.stack(embeddings)


def embed_ours(folder: Path, cells: Path, models: tuple[ModelFolder, ...], precision: str, backend: str) -> np.ndarray:
    """The command, from files or shards, without loading the weights."""
    source, found, _ = open_source(
        cells, models, SourceOptions() if (cells / INDEX_FILE).exists() else SourceOptions(single_cells=True)
    )
    settings = EmbedSettings(
        engine_backend=backend, device=arguments.device, precision=precision, batch_size=arguments.batch_size,
        pictures=0, h5ad=False, progress=False, workers=arguments.workers,
    )  # fmt: skip
    embed_cells(source, found, folder, settings, processes=Processes())
    table = read_table(folder)
    order = np.argsort([int(name.split("_")[-1]) for name in table.cells["cell_id"]])
    return table.embeddings[order]


def optimize_inputs(model: Path, folder: Path) -> Path:
    """An int8 model, calibrated and judged on other random cells."""
    crops = write_crops(folder / "others", 2 * FEWEST_JUDGED, arguments.image_size_px, 1, 2 * FEWEST_JUDGED)
    settings = OptimizeSettings(FEWEST_CALIBRATED, FEWEST_JUDGED, AgreementLimits(-1, -1, -1))
    options = SourceOptions(single_cells=True)
    return optimize_model(model, crops, folder / "optimized", options=options, settings=settings).folder


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def keep_loaded_models() -> None:
    """Load every model once in this process."""
    loaded: dict[tuple[str, str, str | None], BatchEmbedder] = {}
    begin = BatchEmbedder.begin

    def begin_with_loaded(self: BatchEmbedder, batch: Any) -> Any:
        first = loaded.setdefault((batch.variant.name, self.precision, self.openvino), self)
        self._encoders, self._processors = first._encoders, first._processors
        return begin(self, batch)

    BatchEmbedder.begin = begin_with_loaded  # type: ignore[method-assign]


def main() -> None:
    """Measure both ways in turn."""
    device = choose_device(arguments.device)
    keep_loaded_models()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        crops, path = write_inputs(folder, arguments.cells, arguments.image_size_px, arguments.size)
        models = find_models(str(path))
        chosen = choose_precision("auto", models, device, backend="auto")
        backend = "openvino" if chosen.openvino else "torch"
        default = f"openvino_{chosen.name}" if chosen.openvino else chosen.name
        reference = SubCellForImageClassification.from_pretrained(path, attn_implementation="eager").eval().to(device)
        settings = ShardSettings(split_by=None)
        write_shards(WrittenCells(crops, arguments.cells), folder / "shards", settings, workers=arguments.workers or 1)
        ways = {default: (crops, models, chosen.name, backend), "fp32": (crops, models, "fp32", "torch")}
        ways["from_shards"] = (folder / "shards", models, chosen.name, backend)
        if arguments.openvino and device.type == "cpu" and find_spec("openvino") and find_spec("nncf"):
            ways["int8"] = (crops, find_models(str(optimize_inputs(path, folder))), "int8", "openvino")
        times: dict[str, list[float]] = {name: [] for name in ("reference", *ways)}
        results: dict[str, np.ndarray] = {}
        few = arguments.reference_cells or arguments.cells
        for number in range(arguments.rounds + 1):  # the first round loads, and is not counted
            for name in times:
                started = time.perf_counter()
                output = folder / f"{name}{number}"
                if name == "reference":
                    results[name] = embed_as_published(reference, crops, output, few)
                else:
                    results[name] = embed_ours(output, *ways[name])
                if number:
                    times[name].append(time.perf_counter() - started)
    done = {name: few if name == "reference" else arguments.cells for name in times}
    rates = {name: done[name] / statistics.median(values) for name, values in times.items()}
    exact = unit(results["reference"])
    cosine = {name: float((unit(values[:few]) * exact).sum(axis=1).min()) for name, values in results.items()}
    figures = {
        "cells_per_s": {name: round(rate, 3) for name, rate in rates.items()},
        "ratio_to_reference": {name: round(rate / rates["reference"], 2) for name, rate in rates.items()},
        "smallest_cosine_to_reference": {name: round(value, 6) for name, value in cosine.items()},
        "cells": arguments.cells,
        "image_size_px": arguments.image_size_px,
        "rounds": arguments.rounds,
        "default": default,
        "missing_ways": {} if "int8" in times else {"int8": "needs a CPU, the extra cpu, --openvino"},
    }
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        json.dumps(
            {
                "name": "embed",
                "ratio": round(rates[default] / rates["reference"], 2),
                "reference": "one cell at a time from PNG files, eager fp32, attentions, 2 classifiers, .npy per cell",
                "figures": figures,
                "machine": f"{machine}, {torch.get_num_threads()} threads",
                "versions": {"torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--size", default="base", choices=sorted(SIZES), help="size of the model")
    parser.add_argument("--cells", type=int, default=24, help="cells to embed")
    parser.add_argument("--different", type=int, default=64, help="cells that differ; the others repeat them")
    parser.add_argument("--image-size-px", type=int, default=448, help="edge of the images in pixels")
    parser.add_argument("--batch-size", type=int, help="images of a forward of ours; default: as subcell embed chooses")
    parser.add_argument("--reference-cells", type=int, help="cells that the reference embeds; default: all")
    parser.add_argument(
        "--openvino", action=argparse.BooleanOptionalAction, default=True, help="whether to measure int8 on a CPU"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes of ours that read")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds")
    arguments = parser.parse_args()
    main()
