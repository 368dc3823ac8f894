"""How unusual a cell or a field of view is, as a conformal p-value calibrated by antibody.

The distance of a cell is that of its embedding to reference cells, in units of their covariance. Its p-value compares
it with the distances of the cells of antibodies that took no part in the covariance: among cells of fresh antibodies of
the same kind, at most a share α has a p-value up to α, on average over calibrations. As cells of one antibody are no
independent evidence, an antibody counts once, and the fresh one once more (Lee, Barber and Willett 2023,
arXiv:2306.06342).

Fields have p-values of the same kind, by the means over their cells of the novelty and of the focus of each channel.
"""

import base64
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.cells.field_statistics import P_VALUE, field_values, focus_columns, measure_fields
from subcell_hf.errors import InputError

FEWEST_ANTIBODIES = 39
"""With these the least p-value is 0.025."""

FEWEST_CELLS = 50
"""Reference cells, or fields, of which a covariance is made, at least."""

_MOST_COMPONENTS = 32
_LEVELS = 200


def calibrate_novelty(
    reference: npt.NDArray[np.float32], embeddings: npt.NDArray[np.float32], antibodies: npt.NDArray[np.object_]
) -> dict[str, Any]:
    """Measure reference cells, and tabulate the p-values of distances to them.

    Args:
        reference: `[reference cells, width]`, such as the training cells.
        embeddings: `[cells, width]` of other antibodies.
        antibodies: `[cells]`, names.

    Returns:
        For a model's configuration, as JSON has it: see `subcell_hf.model`'s `measure_novelty` and `novelty_p_values`,
        and the numbers of `antibodies` and `reference_cells`.

    Raises:
        InputError: If reference cells or antibodies are too few, or all reference cells have the same embedding.
    """
    from subcell_hf.model.locations_subcell import measure_novelty  # the island imports torch

    _, group = np.unique(antibodies.astype(str), return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    if count < FEWEST_ANTIBODIES or len(reference) < FEWEST_CELLS:
        raise InputError(
            f"Novelty cannot be calibrated by {count} antibodies and {len(reference)} reference cells; expected at "
            f"least {FEWEST_ANTIBODIES} and {FEWEST_CELLS}."
        )
    novelty = {**_measure_reference(reference), "antibodies": count, "reference_cells": len(reference)}
    return {**novelty, **_tabulate(measure_novelty(embeddings, novelty), group)}


def calibrate_fields(reference: pd.DataFrame, cells: pd.DataFrame) -> dict[str, Any]:
    """Measure reference fields of view, and tabulate the p-values of distances to them.

    Args:
        reference: Cells of reference fields: columns `field_of_view`, `antibody`, `novelty_p_value`, and
            `qc_focus_<channel>` where known.
        cells: The same of other antibodies.

    Returns:
        The entry `fields` of novelty in a model's configuration, as JSON has it: see
        `subcell_hf.cells.field_statistics`.

    Raises:
        InputError: If reference fields or antibodies are too few.
    """
    columns = [P_VALUE, *(name for name in focus_columns(reference) if name in focus_columns(cells))]
    by = ("antibody", "field_of_view")
    known, values = field_values(reference, columns, by), field_values(cells, columns, by)
    antibodies, group = np.unique(values.index.get_level_values("antibody"), return_inverse=True)
    if len(antibodies) < FEWEST_ANTIBODIES or len(known) < FEWEST_CELLS:
        raise InputError(
            f"The novelty of fields of view cannot be calibrated by {len(antibodies)} antibodies and {len(known)} "
            f"reference fields; expected at least {FEWEST_ANTIBODIES} and {FEWEST_CELLS}."
        )
    mean = known.mean()
    covariance = np.atleast_2d(np.cov(known.fillna(mean).to_numpy(), rowvar=False))
    least = 1e-6 * max(float(np.trace(covariance)), 1e-6)  # as for cells
    inverse = np.linalg.inv(covariance + least * np.eye(len(columns)))
    fields: dict[str, Any] = {
        "columns": columns,
        "mean": mean.tolist(),
        "deviations": np.sqrt(np.diag(covariance) + least).tolist(),
        "inverse_covariance": inverse.tolist(),
    }
    return {**fields, **_tabulate(measure_fields(values, fields), group), "reference_fields": len(known)}


def _tabulate(distances: npt.NDArray[np.float64], group: npt.NDArray[np.intp]) -> dict[str, list[float]]:
    """Distances and the conformal p-values from each to the next, where each antibody counts once."""
    count = int(group.max()) + 1
    steps, place = np.unique(distances, return_inverse=True)
    shares = np.bincount(place, 1 / np.bincount(group)[group])  # of an antibody, at each distance
    exact = np.minimum((1 + np.cumsum(shares[::-1])[::-1]) / (count + 1), 1)
    # A table with even steps of the logarithm; a distance between two has the p-value of the smaller one.
    levels = np.geomspace(1, 1 / (count + 1), _LEVELS)
    kept = np.unique(np.searchsorted(-exact, -levels, side="right").clip(max=len(exact) - 1))
    return {
        "distances": [0.0, *steps[kept].tolist(), float(np.nextafter(steps[-1], np.inf))],
        "p_values": [1.0, *exact[kept].tolist(), 1 / (count + 1)],
    }


def _measure_reference(reference: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Mean and covariance of reference cells, with components rounded as they are stored."""
    values = reference.astype(np.float64)
    mean = values.mean(axis=0).astype("<f4")
    centred = values - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    components = min(_MOST_COMPONENTS, reference.shape[1] // 2, len(reference) // 4)
    residual = float(np.mean(variances[: reference.shape[1] - components]))
    if not variances[-1] > 0:
        raise InputError("Novelty cannot be calibrated: all reference cells have the same embedding.")
    least = 1e-6 * float(variances[-1])  # a direction in which nothing varies would make every cell infinitely far
    kept = directions[:, ::-1][:, :components].T
    return {
        "mean": base64.b64encode(mean.tobytes()).decode(),
        "components": base64.b64encode(kept.astype("<f2").tobytes()).decode(),
        "variances": np.maximum(variances[::-1][:components], least).tolist(),
        "residual_variance": max(residual, least),
    }
