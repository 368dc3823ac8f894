"""Whether calibrated sets of locations keep their recall on antibodies that nothing has seen.

    PYTHONPATH=. python benchmarks/calibration.py TABLE [--recall 0.9] [--splits 100] [--train OTHER]
    PYTHONPATH=. python benchmarks/calibration.py --shards SHARDS --model MODEL

TABLE is any embedding table with `antibody` and `locations`, such as `embeddings/baselines/features.parquet` of `make
quickstart`: classical features of simulated cells. A logistic regression per location learns from a third of the
antibodies. The others are divided at random a hundred times into as many for calibration as for the test. The reference
is a threshold of 0.5, which is not calibrated.

With `--train OTHER` the regression learns from the splits `train` and `validation` of another table of the same model,
and all antibodies of TABLE are divided.

With `--shards SHARDS --model MODEL` novelty is calibrated thirty times on a random half of the antibodies outside the
training split of the shards. The others are embedded as they are, blurred, with noise, enlarged, reduced, and with
other intensities.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, zoom

from benchmarks.embeddings import embed
from subcell_hf.cells.quality import focus
from subcell_hf.evaluation.localization.labels import class_scheme, location_targets
from subcell_hf.evaluation.localization.location_sets import choose_location_sets, measure_cells
from subcell_hf.evaluation.localization.novelty import calibrate_fields, calibrate_novelty
from subcell_hf.evaluation.localization.probes import LinearProbe
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.locations_subcell import novelty_p_values
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.report.novelty import summarize_novelty
from subcell_hf.shards.reader import ShardReader
from subcell_hf.tables.files import read_table

CALIBRATIONS = 30


def main() -> None:
    """Train once, calibrate on every split, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    if given.shards is not None:
        print(json.dumps({"name": "novelty", "figures": measure_shifts(given.shards, given.model)}))
        return
    table = read_table(given.table)
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
    noise = np.random.default_rng(0).normal(0, 1, values.shape)
    crops = {"none": (pixels, masks)}
    for sigma in (0.6, 1.0, 2.0):
        crops[f"blurred by {sigma} px"] = (gaussian_filter(values, (0, 0, sigma, sigma)), masks)
    for level in (6, 12):
        crops[f"noise of {level} of 255"] = (values + level * noise, masks)
    for factor in (1.25, 0.8):
        crops[f"scaled by {factor}"] = (rescaled(pixels, factor, 1), rescaled(masks, factor, 0))
    for gain in (0.5, 1.5):
        crops[f"gain {gain}"] = (gain * values, masks)
    crops["gamma 0.7"] = (255 * (values / 255) ** 0.7, masks)
    return {name: (np.round(shown).clip(0, 255).astype(np.uint8), inside) for name, (shown, inside) in crops.items()}


def rescaled(values: np.ndarray, factor: float, order: int) -> np.ndarray:
    """Planes enlarged or reduced about their middle, of the same size."""
    edge = values.shape[-1]
    scaled = zoom(values, (*[1] * (values.ndim - 2), factor, factor), order=order)
    before = abs(scaled.shape[-1] - edge) // 2
    if factor > 1:
        return scaled[..., before : before + edge, before : before + edge]
    after = edge - scaled.shape[-1] - before
    return np.pad(scaled, [*[(0, 0)] * (values.ndim - 2), (before, after), (before, after)])


def measure_shifts(shards: Path, model_folder: Path) -> dict[str, dict[str, float]]:
    """Shift → mean shares of cells and fields with a p-value up to 0.05; in how many calibrations a run is flagged."""
    reader = ShardReader(shards)
    model = SubCellModel.from_pretrained(model_folder)
    scaling = SubCellImageProcessor.from_pretrained(model_folder).normalize
    table = pd.read_parquet(shards / "cells.parquet")

    def described(rows: np.ndarray, crops: np.ndarray, masks: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        focused = [focus(*crop) for crop in zip(crops, masks, strict=True)]
        columns = [f"qc_focus_{channel}" for channel in model.config.channels]
        cells = table.iloc[rows][["field_of_view", "antibody"]].reset_index(drop=True)
        return cells.join(pd.DataFrame(focused, columns=columns, dtype=np.float64)), embed(model, scaling, crops, masks)

    rows = reader.split_rows("train")
    trained, reference = described(rows, *reader.read(rows))
    rows = np.concatenate([reader.split_rows(name) for name in ("validation", "test")])
    shifts = {name: described(rows, *crops) for name, crops in shifted_crops(*reader.read(rows)).items()}
    plain, embeddings = shifts["none"]
    antibodies = plain["antibody"].to_numpy(object)
    names = np.unique(antibodies.astype(str))
    figures = {name: {"cells": 0.0, "fields": 0.0, "flagged": 0} for name in shifts}
    for seed in range(CALIBRATIONS):
        mine = np.isin(antibodies.astype(str), np.random.default_rng(seed).permutation(names)[: len(names) // 2])
        novelty = calibrate_novelty(reference, embeddings[mine], antibodies[mine])
        known = trained.assign(novelty_p_value=novelty_p_values(reference, novelty))
        others = plain[mine].assign(novelty_p_value=novelty_p_values(embeddings[mine], novelty))
        novelty["fields"] = calibrate_fields(known, others)
        for name, (cells, embedded) in shifts.items():
            shown = cells[~mine].assign(novelty_p_value=novelty_p_values(embedded[~mine], novelty))
            found = summarize_novelty(shown, novelty)
            assert found is not None
            figures[name]["cells"] += found.share / CALIBRATIONS
            figures[name]["fields"] += found.unlike_fields / found.fields / CALIBRATIONS
            figures[name]["flagged"] += found.differs
    return {name: {key: round(value, 4) for key, value in own.items()} for name, own in figures.items()}


if __name__ == "__main__":
    main()
