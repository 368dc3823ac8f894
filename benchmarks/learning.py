"""What pretraining learns: embeddings of held-out antibodies against features that need no training.

Cells are simulated, a model is pretrained through `recipes/pretrain.py` on the antibodies of the train split, and its
embeddings are frozen. A linear probe learns the locations from the train split's cells and is scored on cells of the
test split's antibodies (and genes), which neither it nor the model has seen. The score is macro mAP: average precision
of every location that some of these cells have, and its mean. Nearest neighbours (`subcell_hf.evaluation`'s) are scored
alike, and a third probe tells the cell line: mean over lines of the share of test cells told right. The same probes
score an untrained SubCell of the same seed, intensity and texture features of the same crops (as they are, and with
every channel scaled), and principal components of their pixels. What a probe leaves open is chosen on the validation
split, for each kind of features on its own.

The cells are of another seed than the quickstart's, whose scores the recipe was chosen by. `--ablation` pretrains for
every set of objectives too, with the seeds named. With `--montages` the 90 real cells of that folder are classified as
well (linear and 5 nearest neighbours, leaving one image out at a time).

Trainings that are there already in `--work` are not run again. The last line is JSON.

    PYTHONPATH=. python benchmarks/learning.py --work FOLDER [--seeds 0 1 2] [--ablation 0 1]
        [--montages ../shared/data/hpa_montages]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from benchmarks.embeddings import Floats, embed
from benchmarks.montages import score_montages
from subcell_hf.cells.cell_features import measure_cells
from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import crop_source
from subcell_hf.evaluation.baselines.baselines import make_baselines
from subcell_hf.evaluation.localization.probes import NeighbourProbe
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.simulation.simulate import simulate_dataset

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "configs" / "quickstart.yaml"
EDGES_PX, FIELD_PX, FIELD_PIXEL_SIZE_UM = (384, 72), 384, 0.2135694
FIELDS_SEED = 2
PENALTIES = (0.003, 0.03, 0.3, 3.0)  # inverse strengths, as scikit-learn counts them
WITHOUT = {
    "reconstruction": ("--reconstruction_weight", "0", "--mask_ratio", "0"),
    "cell": ("--cell_contrast_weight", "0"),
    "protein": ("--protein_contrast_weight", "0"),
    "labels": ("--probe_detached", "true"),
}
"""How each objective of the recipe is switched off; `labels` is the probe's loss reaching the encoder."""
ABLATION = tuple(tuple(kept.split("+")) for kept in (
    "labels", "cell+protein+labels", "reconstruction+protein+labels", "reconstruction+cell+labels",
    "reconstruction+cell+protein", "cell+protein", "reconstruction+protein", "protein",
))  # fmt: skip
"""Sets of objectives beside all four: labels alone, one left out, and fewer of the published model's three."""
ALL = "all objectives"
SCORES = ("macro_map", "neighbours", "cell_line")
SCALED_FEATURES = "features, channels scaled"  # one by one, as the recipe's model sees them
TRAININGS_AT_ONCE = 2  # of one thread each: small layers gain little from a second


def prepare_shards(
    work: Path,
    fields: int,
    antibodies: int,
    workers: int,
    seed: int = FIELDS_SEED,
    edges_px: tuple[int, int] = EDGES_PX,
    domain_randomization: bool = False,
) -> ShardReader:
    """Simulate, crop and shard, or take what an earlier call made; `edges_px` of a crop, before and after resizing."""
    where, settings = work / "fields", CropSettings(crop_px=edges_px[0], output_px=edges_px[1])
    size_px, pixel_size_um = FIELD_PX, FIELD_PIXEL_SIZE_UM
    simulate_dataset(
        fields, seed, where, antibodies=antibodies, size_px=size_px, pixel_size_um=pixel_size_um, workers=workers,
        domain_randomization=domain_randomization,
    )  # fmt: skip
    crop_fields(where, work / "crops", settings=settings, workers=workers)
    fractions = {"train": 0.7, "validation": 0.1, "test": 0.2}
    write_shards(crop_source(work / "crops"), work / "shards", ShardSettings(split_fractions=fractions))
    return ShardReader(work / "shards")


def pretrain(folder: Path, shards: Path, words: Sequence[str], recipe: Path = RECIPE) -> float:
    """Run the recipe in a process of its own and of one thread, unless its model is there.

    Returns:
        Seconds it took, as written down beside the model.
    """
    record = folder / "seconds.json"
    if not record.is_file():
        command = [sys.executable, str(ROOT / "recipes" / "pretrain.py"), str(recipe), "--shards", str(shards)]
        command += ["--output_dir", str(folder), "--disable_tqdm", "true", *words]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        record.write_text(json.dumps(time.perf_counter() - start))
    return float(json.loads(record.read_text()))


def measure_scaled(pixels: npt.NDArray[Any], masks: npt.NDArray[np.bool_], reader: ShardReader) -> Floats:
    """Classical features `[cells, features]` of crops after masking, every channel scaled to [0, 1]."""
    masked = pixels.astype(np.float32) * masks[:, None]
    low, high = (bound(masked, axis=(2, 3), keepdims=True) for bound in (np.min, np.max))
    return measure_cells((masked - low) / (high - low + 1e-6), masks, reader.index.crop_format.channels)[0]


def untrained_model(trained: Path, seed: int) -> SubCellModel:
    """A SubCell with the shape of a trained one and weights of its own seed."""
    torch.manual_seed(seed)
    return SubCellModel(SubCellModel.from_pretrained(trained).config)


def linear_probe(features: Sequence[Floats], locations: Sequence[Floats]) -> tuple[float, dict[int, float]]:
    """Macro mAP on the test split of one logistic regression per location.

    Args:
        features: Of train, validation and test split, `[cells, width]` each.
        locations: Of the same, `[cells, classes]`.

    Returns:
        The score and average precision of every location that counts: some cells of the train split and some, but not
        all, of the test split have it.
    """
    scaler = StandardScaler().fit(features[0])
    train, validation, test = (scaler.transform(part) for part in features)
    known = np.flatnonzero((locations[0].sum(0) > 0) & (locations[0].sum(0) < len(train)))
    best = max(PENALTIES, key=lambda penalty: _macro(_average_precisions(
        train, locations[0], validation, locations[1], known, penalty)))  # fmt: skip
    precisions = _average_precisions(train, locations[0], test, locations[2], known, best)
    return _macro(precisions), precisions


def neighbour_probe(features: Sequence[Floats], locations: Sequence[Floats]) -> float:
    """Macro mAP on the test split where nearest cells of the train split vote; for arguments see `linear_probe`."""
    targets = [part.astype(np.uint8) for part in locations]
    votes = NeighbourProbe().fit_predict(features[0], targets[0], features[1], targets[1], features[2])[0]
    scored = [
        column for column, truth in enumerate(targets[2].T) if targets[0][:, column].any() and 0 < truth.mean() < 1
    ]
    return _macro(
        {column: float(average_precision_score(targets[2][:, column], votes[:, column])) for column in scored}
    )


def cell_line_probe(features: Sequence[Floats], lines: Sequence[npt.NDArray[np.int32]]) -> float:
    """Mean over cell lines of the share of test cells that a logistic regression tells right.

    Args:
        features: Of train, validation and test split, `[cells, width]` each.
        lines: Of the same, `[cells]`.
    """
    return float(balanced_accuracy_score(lines[2], predict_lines(features, lines)))


def predict_lines(features: Sequence[Floats], lines: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    """Cell lines `[cells]` of the test split by that regression; for arguments see `cell_line_probe`."""
    scaler = StandardScaler().fit(features[0])
    train, validation, test = (scaler.transform(part) for part in features)
    probes = [
        LogisticRegression(C=penalty, max_iter=300, class_weight="balanced").fit(train, lines[0])
        for penalty in PENALTIES
    ]
    best = max(probes, key=lambda probe: balanced_accuracy_score(lines[1], probe.predict(validation)))
    predicted: npt.NDArray[np.int32] = best.predict(test)
    return predicted


def _average_precisions(
    train: Floats, targets: Floats, scored: Floats, truth: Floats, classes: npt.NDArray[np.intp], penalty: float
) -> dict[int, float]:
    found = {}
    for column in classes:
        if 0 < truth[:, column].sum() < len(truth):
            probe = LogisticRegression(C=penalty, max_iter=300, class_weight="balanced").fit(train, targets[:, column])
            found[int(column)] = float(average_precision_score(truth[:, column], probe.decision_function(scored)))
    return found


def _macro(precisions: dict[int, float]) -> float:
    return float(np.mean(list(precisions.values())))


def score_simulated(arguments: argparse.Namespace, reader: ShardReader, runs: dict[str, Path]) -> dict[str, Any]:
    """All scores of every run, of untrained models, and of the baselines.

    Args:
        arguments: Of the command line: the folder with shards, seeds of the untrained models, workers.
        reader: Of the shards.
        runs: Name → folder of a pretraining.

    Returns:
        `macro_map`, `neighbours`, `cell_line`: name → score; `per_location`: name → location → average precision.
    """
    splits = [reader.split_rows(name) for name in ("train", "validation", "test")]
    table = reader.cells
    locations = [table.location_sets[table.location_set[rows]].astype(np.float32) for rows in splits]
    lines = [table.cell_line[rows] for rows in splits]
    scores: dict[str, Any] = {score: {} for score in (*SCORES, "per_location")}

    def score(name: str, features: list[Floats]) -> None:
        macro, found = linear_probe(features, locations)
        scores["macro_map"][name] = round(macro, 4)
        scores["neighbours"][name] = round(neighbour_probe(features, locations), 4)
        scores["cell_line"][name] = round(cell_line_probe(features, lines), 4)
        scores["per_location"][name] = {reader.index.classes[column]: round(v, 4) for column, v in found.items()}

    for name, baseline in make_baselines(arguments.work / "shards", workers=arguments.workers, progress=False).items():
        score(name, [baseline.embeddings[rows] for rows in splits])
    crops = [reader.read(rows) for rows in splits]
    score(SCALED_FEATURES, [measure_scaled(*part, reader) for part in crops])
    models = {name: SubCellModel.from_pretrained(folder / "model") for name, folder in runs.items()}
    first = next(iter(runs.values())) / "model"
    models |= {f"untrained, seed {seed}": untrained_model(first, seed) for seed in arguments.seeds}
    scaling = SubCellImageProcessor.from_pretrained(first).normalize
    for name, model in models.items():
        score(name, [embed(model, scaling, *part) for part in crops])
    return scores


def main(words: Sequence[str] | None = None) -> None:
    """Make the cells, pretrain, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cells and trainings; kept")
    parser.add_argument("--small", action="store_true", help="the recipe small, on cells of its own: learning_small.py")
    parser.add_argument("--fields", type=int, help="simulated fields of view; default: 480, of small 2880")
    parser.add_argument("--antibodies", type=int, help="simulated antibodies; default: half the fields")
    parser.add_argument("--fields-seed", type=int, default=46, help="of small: seed of the simulated cells")
    parser.add_argument("--runs", default="runs", help="of small: folder in WORK for the trainings, one per --words")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the pretrainings")
    parser.add_argument("--ablation", type=int, nargs="+", default=[], help="seeds of every other set of objectives")
    parser.add_argument("--montages", type=Path, help="folder of real cells")
    parser.add_argument("--workers", type=int, default=2, help="processes that simulate, crop and measure")
    parser.add_argument("--words", default="", help="more arguments for every pretraining, as one text")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args(words)
    arguments.fields = arguments.fields or (2880 if arguments.small else 480)
    arguments.antibodies = arguments.antibodies or arguments.fields // 2
    if arguments.small:
        from benchmarks.learning_small import measure as measure_small  # which imports this file

        line = json.dumps(measure_small(arguments))
    else:
        line = json.dumps(measure(arguments))
    if arguments.output:
        arguments.output.write_text(line + "\n", encoding="utf-8")
    print(line)


def run_name(kept: Sequence[str], seed: int) -> str:
    """How a pretraining, and its folder, is called."""
    return f"seed {seed}" if len(kept) == len(WITHOUT) else f"{'+'.join(kept)}, seed {seed}"


def switch_off(kept: Sequence[str]) -> list[str]:
    """The words that leave the recipe these objectives alone."""
    return [word for name, words in WITHOUT.items() if name not in kept for word in words]


def summarize(scores: Mapping[str, float], runs: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Mean over the runs of each kind, and standard deviation where there are several."""
    found = {}
    for name, own in runs.items():
        values = [scores[run] for run in own]
        found[name] = {"mean": round(float(np.mean(values)), 4)}
        if len(values) > 1:
            found[name]["standard_deviation"] = round(float(np.std(values, ddof=1)), 4)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All of it.

    Returns:
        The benchmark's line.
    """
    work, seeds = arguments.work, arguments.seeds
    reader = prepare_shards(work, arguments.fields, arguments.antibodies, arguments.workers)
    planned = [(tuple(WITHOUT), seed) for seed in seeds]
    planned += [(kept, seed) for seed in arguments.ablation for kept in ABLATION]
    jobs = {run_name(kept, seed): ["--seed", str(seed), *switch_off(kept)] for kept, seed in planned}
    runs = {name: work / "runs" / name.replace(", ", "_").replace(" ", "_") for name in jobs}
    more = arguments.words.split()
    with ThreadPoolExecutor(TRAININGS_AT_ONCE) as pool:
        found = pool.map(lambda name: pretrain(runs[name], work / "shards", [*jobs[name], *more]), jobs)
        seconds = dict(zip(jobs, found, strict=True))
    scores = score_simulated(arguments, reader, runs)
    kinds = {ALL: [run_name(tuple(WITHOUT), seed) for seed in seeds]}
    kinds |= {"+".join(kept): [run_name(kept, seed) for seed in arguments.ablation] for kept in ABLATION}
    kinds |= {"untrained": [f"untrained, seed {seed}" for seed in seeds]}
    kinds |= {name: [name] for name in ("features", SCALED_FEATURES, "pixels")}
    kinds = {name: own for name, own in kinds.items() if own}
    over_seeds = {score: summarize(scores[score], kinds) for score in SCORES}
    figures: dict[str, Any] = {score: scores[score] for score in SCORES}
    for score, found_of in over_seeds.items():
        figures[f"{score}_over_seeds"] = found_of
        figures[f"{score}_margins"] = {
            name: round(found_of[ALL]["mean"] - own["mean"], 4) for name, own in found_of.items() if name != ALL
        }
    figures |= {
        "average_precision": {name: scores["per_location"][name] for name in (f"seed {seeds[0]}", "features")},
        "pretraining_s": {name: round(taken, 1) for name, taken in seconds.items()},
        "cells": {name: len(reader.split_rows(name)) for name in reader.index.splits},
        "antibodies": {name: len(found) for name, found in reader.index.splits.items()},
    }
    if arguments.montages:
        trained = {seed: runs[f"seed {seed}"] / "model" for seed in seeds}
        models = {f"seed {seed}": SubCellModel.from_pretrained(folder) for seed, folder in trained.items()}
        models |= {f"untrained, seed {seed}": untrained_model(folder, seed) for seed, folder in trained.items()}
        scaling = SubCellImageProcessor.from_pretrained(trained[seeds[0]]).normalize
        figures["real_cells_right"] = score_montages(arguments.montages, models, scaling)
    best = max(over_seeds["macro_map"][name]["mean"] for name in ("untrained", "features", SCALED_FEATURES, "pixels"))
    return {
        "name": "what pretraining learns of held-out antibodies",
        "ratio": round(over_seeds["macro_map"][ALL]["mean"] / best, 3),
        "reference": "the best of untrained SubCell, intensity and texture features, and pixel PCA; macro mAP",
        "figures": figures,
    }


if __name__ == "__main__":
    main()
