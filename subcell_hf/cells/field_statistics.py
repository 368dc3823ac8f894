"""Few numbers that describe a field of view, and how unusual they are.

These are the means over its cells of the logarithm of the novelty p-value and of the focus of each channel. Blur and
noise change the focus of every cell of a field by little, and the embedding hardly.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.cells.quality import FOCUS_OF

P_VALUE = "novelty_p_value"
"""Column of the conformal p-value of each cell."""

_LEAST = 1e-6


def field_values(cells: pd.DataFrame, columns: Sequence[str], by: Sequence[str] = ("field_of_view",)) -> pd.DataFrame:
    """Mean logarithm of columns over the cells of each field of view that has a name; NaN where all are missing.

    Args:
        cells: With the columns.
        columns: Positive numbers: novelty p-values and focus.
        by: Columns that name a field.

    Returns:
        `[fields, columns]`, by the names of the fields.
    """
    logarithms = np.log(cells[list(columns)].astype(np.float64).clip(lower=_LEAST))
    named = cells["field_of_view"].fillna("").astype(str) != ""
    return logarithms[named].groupby([cells.loc[named, name].astype(str) for name in by]).mean()


def focus_columns(cells: pd.DataFrame) -> list[str]:
    """Columns of the focus of each channel that have a number in every cell or most."""
    return [str(name) for name in cells if str(name).startswith(FOCUS_OF) and cells[name].notna().mean() > 0.5]


def measure_fields(values: pd.DataFrame, calibrated: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Squared Mahalanobis distance of each field to the reference fields; a missing value counts as their mean.

    Args:
        values: See `field_values`.
        calibrated: `mean` `[columns]` and `inverse_covariance` `[columns, columns]`.

    Returns:
        `[fields]`.
    """
    centred = (values - np.asarray(calibrated["mean"])).fillna(0).to_numpy(np.float64)
    distances: npt.NDArray[np.float64] = np.einsum(
        "fi,ij,fj->f", centred, np.asarray(calibrated["inverse_covariance"], np.float64), centred
    )
    return distances


def field_p_values(values: pd.DataFrame, calibrated: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Conformal p-value of each field: of fields of fresh antibodies at most a share α has one up to α, on average.

    Args:
        values: See `field_values`.
        calibrated: See `measure_fields`; and `distances`, ascending from 0, with the `p_values` from each to the next.

    Returns:
        `[fields]`.
    """
    place = np.searchsorted(calibrated["distances"], measure_fields(values, calibrated), side="right") - 1
    return np.asarray(calibrated["p_values"], np.float64)[np.maximum(place, 0)]
