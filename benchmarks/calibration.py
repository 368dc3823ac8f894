"""Whether calibrated sets of locations keep their recall on antibodies that nothing has seen.

    python benchmarks/calibration.py TABLE [--recall 0.9] [--splits 100]

TABLE is any embedding table with `antibody` and `locations`, such as `embeddings/baselines/features.parquet` of `make
quickstart`: classical features of simulated cells. A logistic regression per location learns from a third of the
antibodies. The others are divided at random a hundred times into as many for calibration as for the test. The reference
is a threshold of 0.5, which is not calibrated.
"""

import argparse
import json
import platform
from pathlib import Path

import numpy as np

from subcell_hf.evaluation.localization.labels import class_scheme, location_targets
from subcell_hf.evaluation.localization.location_sets import choose_location_sets, measure_cells
from subcell_hf.evaluation.localization.probes import LinearProbe
from subcell_hf.tables.files import read_table


def main() -> None:
    """Train once, calibrate on every split, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--splits", type=int, default=100)
    given = parser.parse_args()
    table = read_table(given.table)
    scheme = class_scheme("31")
    targets = location_targets(table.cells["locations"].tolist(), scheme)
    labelled = targets.any(axis=1)
    targets, embeddings = targets[labelled], table.embeddings[labelled]
    names, antibody = np.unique(table.cells["antibody"].to_numpy(str)[labelled], return_inverse=True)
    order = np.random.default_rng(0).permutation(len(names))
    third = len(names) // 3
    train, validation, rest = order[: third * 3 // 4], order[third * 3 // 4 : third], order[third:]
    parts = [np.isin(antibody, part) for part in (train, validation, rest)]
    probe = LinearProbe()
    known = [values[part] for part in parts[:2] for values in (embeddings, targets)]
    probabilities = probe.fit_predict(*known, embeddings[parts[2]])[0]
    targets, antibody = targets[parts[2]], antibody[parts[2]]
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
            "train_antibodies": third,
            "cells": int(labelled.sum()),
            "classes_that_occur": int(targets.any(axis=0).sum()),
        },
        "device": platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
