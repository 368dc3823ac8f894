"""How many labelled antibodies a probe needs."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from subcell_hf.evaluation.localization.labels import LabelledCells
from subcell_hf.evaluation.localization.probes import LinearProbe
from subcell_hf.evaluation.localization.ranking import summarize


def learning_curve(
    embeddings: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    labelled: LabelledCells,
    fractions: Sequence[float],
    seed: int,
) -> list[dict[str, float]]:
    """Score the linear probe on growing parts of the training antibodies, each part holding the smaller ones.

    Args:
        embeddings: `[rows of the table, width]`.
        rows: `[cells]`, row of each labelled cell.
        labelled: The cells.
        fractions: Shares of the training antibodies; at least two antibodies are taken.
        seed: Order in which antibodies are added, the same for every table.

    Returns:
        `fraction`, `antibodies`, `cells` and `macro_map` on test cells, by growing number of antibodies.
    """
    train, validation, test = (labelled.rows(name) for name in ("train", "validation", "test"))
    antibody = labelled.cells["antibody"].to_numpy()
    order = np.random.default_rng(seed).permutation(np.unique(antibody[train]))
    probe = LinearProbe(seed=seed)
    curve, before = [], 0
    for fraction in sorted(fractions):
        count = min(max(round(fraction * len(order)), 2), len(order))
        if count == before:
            continue
        before = count
        some = train[np.isin(antibody[train], order[:count])]
        found = probe.fit_predict(
            embeddings[rows[some]],
            labelled.targets[some],
            embeddings[rows[validation]],
            labelled.targets[validation],
            embeddings[rows[test]],
        )[0]
        score = summarize(labelled.targets[test], found)["macro_map"]
        curve.append(
            {"fraction": count / len(order), "antibodies": float(count), "cells": float(len(some)), "macro_map": score}
        )
    return curve
