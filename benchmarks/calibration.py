"""Whether calibrated sets of locations keep their recall on antibodies that nothing has seen.

    PYTHONPATH=. python benchmarks/calibration.py TABLE [--recall 0.9] [--splits 100] [--train OTHER]
        [--shards SHARDS --model MODEL]

TABLE is any embedding table with `antibody` and `locations`, such as `embeddings/baselines/features.parquet` of `make
quickstart`: classical features of simulated cells. A logistic regression per location learns from a third of the
antibodies. The others are divided at random a hundred times into as many for calibration as for the test. The reference
is a threshold of 0.5, which is not calibrated.

With `--train OTHER` the regression learns from the splits `train` and `validation` of another table of the same model,
and all antibodies of TABLE are divided.

With `--shards SHARDS --model MODEL` TABLE is one that the model made of the shards, with their splits, and novelty is
calibrated thirty times on a random half of the antibodies outside the training split. The others are embedded as they
are, blurred, enlarged, reduced and with noise.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from benchmarks.embeddings import embed
from subcell_hf.evaluation.localization.labels import class_scheme, location_targets
from subcell_hf.evaluation.localization.location_sets import choose_location_sets, measure_cells
from subcell_hf.evaluation.localization.novelty import calibrate_novelty
from subcell_hf.evaluation.localization.probes import LinearProbe
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.locations_subcell import novelty_p_values
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.report.novelty import summarize_novelty
from subcell_hf.shards.reader import ShardReader
from subcell_hf.tables.files import EmbeddingTable, read_table

CALIBRATIONS = 30


def main() -> None:
    """Train once, calibrate on every split, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    table = read_table(given.table)
    if given.shards is not None:
        print(json.dumps({"name": "novelty", "figures": measure_shifts(table, given.shards, given.model)}))
        return
    scheme = class_scheme("31")
    targets = location_targets(table.cells["locations"].tolist(), scheme)
    labelled = targets.any(axis=1)
    targets, embeddings = targets[labelled], table.embeddings[labelled]
    names, antibody = np.unique(table.cells["antibody"].to_numpy(str)[labelled], return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    if given.train is None:
        trained = len(names) // 3
        train, validation, rest = order[: trained * 3 // 4], order[trained * 3 // 4 : trained], order[trained:]
        splits = [np.isin(antibody, part) for part in (train, validation)]
        known = [values[split] for split in splits for values in (embeddings, targets)]
    else:
        other, rest = read_table(given.train), order
        learned = location_targets(other.cells["locations"].tolist(), scheme)
        splits = [(other.cells["split"] == name).to_numpy() for name in ("train", "validation")]
        trained = int(other.cells["antibody"][splits[0] | splits[1]].nunique())
        known = [values[split] for split in splits for values in (other.embeddings, learned)]
    used = np.isin(antibody, rest)
    probabilities = LinearProbe().fit_predict(*known, embeddings[used])[0]
    targets, antibody = targets[used], antibody[used]
    recalls, plain, sizes, precisions = [], [], [], []
    for seed in range(given.splits):
        chosen = np.random.default_rng(seed + 1).permutation(rest)[: len(rest) // 2]
        mine = np.isin(antibody, chosen)
        sets = choose_location_sets(
            probabilities[mine], targets[mine], antibody[mine].astype(object), target=given.recall
        )
        _, group = np.unique(antibody[~mine], return_inverse=True)

        def over_antibodies(values: np.ndarray, group: np.ndarray = group) -> float:
            return float((np.bincount(group, values) / np.bincount(group)).mean())

        held_out = probabilities[~mine], targets[~mine]
        recalls.append(over_antibodies(measure_cells(*held_out, sets.threshold, "recall")))
        precisions.append(over_antibodies(measure_cells(*held_out, sets.threshold, "precision")))
        plain.append(over_antibodies(measure_cells(*held_out, 0.5, "recall")))
        sizes.append(float(np.median((held_out[0] >= sets.threshold).sum(axis=1))))
    result = {
        "name": "calibration",
        "ratio": round(float(np.mean(recalls) / np.mean(plain)), 2),
        "reference": "sets of the locations with a probability of at least 0.5",
        "figures": {
            "target_recall": given.recall,
            "splits_that_keep_it": int((np.array(recalls) >= given.recall).sum()),
            "splits": given.splits,
            "mean_recall": round(float(np.mean(recalls)), 4),
            "least_recall": round(min(recalls), 4),
            "mean_precision": round(float(np.mean(precisions)), 4),
            "median_set_size": float(np.median(sizes)),
            "recall_at_0.5": round(float(np.mean(plain)), 4),
            "splits_that_keep_it_at_0.5": int((np.array(plain) >= given.recall).sum()),
            "calibration_antibodies": len(rest) // 2,
            "test_antibodies": len(rest) - len(rest) // 2,
            "train_antibodies": trained,
            "cells": int(labelled.sum()),
            "classes_that_occur": int(targets.any(axis=0).sum()),
        },
        "device": platform.machine(),
    }
    print(json.dumps(result))


def shifted_crops(pixels: np.ndarray, masks: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name → crops `[cells, channels, height, width]` uint8 and masks, as another microscope might show them."""
    values = pixels.astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 12, values.shape)
    crops = {"none": (pixels, masks)}
    for sigma in (0.6, 1.0):
        crops[f"blurred by {sigma} px"] = (np.round(gaussian_filter(values, (0, 0, sigma, sigma))), masks)
    for factor in (1.3, 0.75):
        crops[f"scaled by {factor}"] = (rescaled(pixels, factor, 1), rescaled(masks, factor, 0))
    crops["noise"] = (np.clip(values + noise, 0, 255), masks)
    return {name: (shown.astype(np.uint8), outlines) for name, (shown, outlines) in crops.items()}


def rescaled(values: np.ndarray, factor: float, order: int) -> np.ndarray:
    """Planes enlarged or reduced about their middle, of the same size."""
    edge = values.shape[-1]
    scaled = zoom(values, (*[1] * (values.ndim - 2), factor, factor), order=order)
    before = abs(scaled.shape[-1] - edge) // 2
    if factor > 1:
        return scaled[..., before : before + edge, before : before + edge]
    after = edge - scaled.shape[-1] - before
    return np.pad(scaled, [*[(0, 0)] * (values.ndim - 2), (before, after), (before, after)])


def measure_shifts(table: EmbeddingTable, shards: Path, model_folder: Path) -> dict[str, dict[str, float]]:
    """Shift → mean share of cells with a p-value up to 0.05, and in how many of the calibrations it is flagged."""
    reader = ShardReader(shards)
    rows = np.concatenate([reader.split_rows(name) for name in ("validation", "test")])
    model = SubCellModel.from_pretrained(model_folder)
    scaling = SubCellImageProcessor.from_pretrained(model_folder).normalize
    shifts = {name: embed(model, scaling, *crops) for name, crops in shifted_crops(*reader.read(rows)).items()}
    cells, reference = table.select(rows).cells, table.embeddings[(table.cells["split"] == "train").to_numpy()]
    antibodies = cells["antibody"].to_numpy(object)
    names = np.unique(antibodies.astype(str))
    figures = {name: {"share": 0.0, "unlike_fields": 0.0, "flagged": 0} for name in shifts}
    for seed in range(CALIBRATIONS):
        mine = np.isin(antibodies.astype(str), np.random.default_rng(seed).permutation(names)[: len(names) // 2])
        novelty = calibrate_novelty(reference, shifts["none"][mine], antibodies[mine])
        for name, embeddings in shifts.items():
            shown = cells[~mine].reset_index(drop=True)
            shown = shown.assign(novelty_p_value=novelty_p_values(embeddings[~mine], novelty))
            found = summarize_novelty(shown, novelty["antibodies"])
            assert found is not None
            figures[name]["share"] += found.share / CALIBRATIONS
            figures[name]["unlike_fields"] += found.unlike_fields / found.fields / CALIBRATIONS
            figures[name]["flagged"] += found.differs
    return {name: {key: round(value, 4) for key, value in own.items()} for name, own in figures.items()}


if __name__ == "__main__":
    main()
