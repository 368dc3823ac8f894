"""How what `small` learns grows with steps, antibodies and cells, and what each of its objectives adds.

The recipe is pretrained on parts of the train split of one data set: fewer steps, fewer antibodies, or fewer cells of
each, one of the three at a time. Every embedding is scored as in `learning_small.py`, by probes that learn from all
cells of the train split and are scored on the test split's antibodies. A power law of the three numbers is fitted to
the error 1 − score by least squares of logarithms: `exponent` of `steps` says by which power of the steps the error
falls. It holds within the range that was measured, of one seed.

`--ablation` also trains at the middle number of steps without either contrast, with the linear patch embedding alone,
without and with reconstruction, and with pooling heads that both contrasts share.

The antibodies scored here are of the seed that `small` was chosen on. Trainings that are there already in `--work` are
not run again. The last line is JSON.

    PYTHONPATH=. python benchmarks/learning_scale.py --work FOLDER [--ablation] [--words "--bf16 true"]
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embeddings import embed
from benchmarks.learning import FIELDS_SEED, prepare_shards, pretrain
from benchmarks.learning_small import CROP_PX, OUTPUT_PX, SCORES, SMALL, Truth, score_table
from subcell_hf.cells.sources import crop_source
from subcell_hf.evaluation.baselines.baselines import make_baselines
from subcell_hf.evaluation.localization.bootstrap import bootstrap_weights
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.shards.jobs import CropSource, ListedCrops
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.types import FieldCrops

STEPS = (180, 540, 1620)
SHARES = (9, 3, 1)  # of the antibodies, one of so many
CELLS_PER_FIELD = (1, 3, None)  # None: all
LINEAR = ("--patch_embedding_type", "linear")  # reconstruction needs it
RECONSTRUCTION = (
    *("--reconstruction_weight", "0.3", "--mask_ratio", "0.25"),  # and the quickstart's decoder: by default it is large
    *("--decoder_hidden_size", "32", "--decoder_num_hidden_layers", "1"),
    *("--decoder_num_attention_heads", "2", "--decoder_intermediate_size", "128"),
)
ABLATION = {
    "without cell contrast": ("--cell_contrast_weight", "0", "--cell_pooling_heads", "0"),
    "without protein contrast": ("--protein_contrast_weight", "0"),
    "linear patch embedding": LINEAR,
    "linear patch embedding, with reconstruction": (*LINEAR, *RECONSTRUCTION),
    "shared pooling heads": ("--cell_pooling_heads", "0"),
}


@dataclass(frozen=True)
class SomeCells:
    """A part of a folder of crops.

    Attributes:
        source: All crops.
        antibodies: Whose cells belong to it.
        cells_per_field: The first so many of each field of view; None for all.
    """

    source: CropSource
    antibodies: frozenset[str]
    cells_per_field: int | None

    def fields(self) -> list[ListedCrops]:
        """Fields of view of these antibodies."""
        return [field for field in self.source.fields() if field.metadata["antibody"] in self.antibodies]

    def read(self, name: str) -> FieldCrops:
        """The first cells of one field."""
        crops, kept = self.source.read(name), slice(self.cells_per_field)
        return replace(crops, pixels=crops.pixels[kept], cell_masks=crops.cell_masks[kept], cells=crops.cells[kept])

    def fingerprint(self) -> str:
        """Changes with the crops and with the part."""
        return json.dumps([self.source.fingerprint(), sorted(self.antibodies), self.cells_per_field])


@dataclass(frozen=True)
class Point:
    """One training: on how much, for how long, and with which changes."""

    name: str
    steps: int = STEPS[1]
    share: int = 1
    cells_per_field: int | None = None
    words: tuple[str, ...] = ()


def plan(ablation: bool) -> list[Point]:
    """The middle, two points on each axis from it, and the ablation."""
    points = [Point(f"{steps} steps", steps=steps) for steps in STEPS]
    points += [Point(f"1/{share} of the antibodies", share=share) for share in SHARES if share > 1]
    points += [Point(f"{count} cells per field", cells_per_field=count) for count in CELLS_PER_FIELD if count]
    return points + ([Point(name, words=words) for name, words in ABLATION.items()] if ablation else [])


def write_part(work: Path, reader: ShardReader, point: Point) -> Path:
    """Shards of the train split's part that a point trains on."""
    if point.share == 1 and point.cells_per_field is None:
        return work / "shards"
    antibodies = frozenset(reader.index.splits["train"][:: point.share])
    part = SomeCells(crop_source(work / "crops"), antibodies, point.cells_per_field)
    folder = work / "parts" / point.name.replace("/", "_of_").replace(" ", "_")
    write_shards(part, folder, ShardSettings(split_fractions={"train": 1.0}), progress=False)
    return folder


def fit_power_law(amounts: Sequence[Sequence[float]], scores: Sequence[float]) -> dict[str, float]:
    """Exponents of steps, antibodies and cells per antibody in the error 1 − score, and the fit's largest residual.

    Args:
        amounts: `[points, 3]`.
        scores: `[points]`, below 1.
    """
    logs = np.log(np.array(amounts, np.float64))
    design = np.column_stack([np.ones(len(logs)), logs])
    errors = np.log(1 - np.array(scores, np.float64))
    found = np.linalg.lstsq(design, errors, rcond=None)[0]
    residual = float(np.abs(np.exp(design @ found) - np.exp(errors)).max())
    names = ("factor", "steps", "antibodies", "cells_per_antibody")
    values = [float(np.exp(found[0])), *found[1:].tolist()]
    return {name: round(value, 4) for name, value in zip(names, values, strict=True)} | {"residual": round(residual, 4)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the cells, pretrain, score, fit.

    Returns:
        The benchmark's line.
    """
    work = arguments.work
    edges_px = (CROP_PX, OUTPUT_PX)
    reader = prepare_shards(work, arguments.fields, arguments.antibodies, arguments.workers, FIELDS_SEED, edges_px)
    points = plan(arguments.ablation)
    parts = {point.name: write_part(work, reader, point) for point in points}
    folders = {point.name: work / "runs" / point.name.replace("/", "_of_").replace(" ", "_") for point in points}

    def train(point: Point) -> float:
        words = ["--max_steps", str(point.steps), "--validation_split", "none", "--save_strategy", "no"]
        return pretrain(folders[point.name], parts[point.name], [*words, *point.words, *arguments.words.split()], SMALL)

    with ThreadPoolExecutor(arguments.workers) as pool:
        seconds = dict(zip(parts, pool.map(train, points), strict=True))
    splits = [reader.split_rows(name) for name in ("train", "validation", "test")]
    truth = Truth.read(reader, splits)
    once = bootstrap_weights(int(truth.antibodies.max()) + 1, 1, np.random.default_rng(0))
    crops = [reader.read(rows) for rows in splits]
    scores: dict[str, dict[str, float]] = {}
    for name, folder in folders.items():
        model = SubCellModel.from_pretrained(folder / "model")
        scaling = SubCellImageProcessor.from_pretrained(folder / "model").normalize
        scores[name] = score_table([embed(model, scaling, *part) for part in crops], truth, once).exact
    features = make_baselines(work / "shards", workers=arguments.workers, progress=False)["features"]
    scores["features"] = score_table([features.embeddings[rows] for rows in splits], truth, once).exact
    sizes = {}
    for point in points:
        part = ShardReader(parts[point.name])
        trained = part.split_rows("train")
        antibodies = len(part.index.splits["train"])
        sizes[point.name] = (point.steps, antibodies, len(trained) / antibodies)
    axes = [point.name for point in points if not point.words]
    laws = {score: fit_power_law([sizes[name] for name in axes], [scores[name][score] for name in axes])
            for score in SCORES}  # fmt: skip
    middle = f"{STEPS[1]} steps"
    return {
        "name": "how what small learns grows with steps, antibodies and cells",
        "ratio": round(scores[middle]["linear"] / scores["features"]["linear"], 3),
        "reference": "intensity and texture features of the same cells; linear probe, macro mAP",
        "figures": {
            "scores": {name: {key: round(value, 4) for key, value in own.items()} for name, own in scores.items()},
            "trained_on": {
                name: {"steps": steps, "antibodies": antibodies, "cells_per_antibody": round(cells, 2)}
                for name, (steps, antibodies, cells) in sizes.items()
            },
            "exponents_of_the_error": laws,
            "pretraining_s": {name: round(taken, 1) for name, taken in seconds.items()},
        },
    }


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cells and trainings; kept")
    parser.add_argument("--fields", type=int, default=2880, help="simulated fields of view")
    parser.add_argument("--antibodies", type=int, default=1440, help="simulated antibodies")
    parser.add_argument("--ablation", action="store_true", help="train with other objectives, too")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--words", default="", help="more arguments for every pretraining, as one text")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args(words)
    line = json.dumps(measure(arguments))
    if arguments.output:
        arguments.output.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
