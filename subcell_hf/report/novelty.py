"""Whether the cells of a run are like those that its classifier was calibrated on."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import counted

LEVEL = 0.05
NOVELTY_COLUMNS = ("novelty_p_value", "antibody", "plate", "well")
"""What `summarize_novelty` reads beside the field of view, where a table has it."""

_HIGHEST = LEVEL + 1e-6  # p-values are rounded to float32
_NORMAL_95 = 1.96
_UNITS = {"antibodies": ("antibody",), "wells": ("plate", "well"), "fields of view": ("field_of_view",)}


@dataclass(frozen=True)
class RunNovelty:
    """The p-values of novelty of a run.

    Attributes:
        share: Share of cells with a p-value up to 0.05, mean over units; at most 0.05 is expected of cells like
            those of the calibration.
        low: Lower end of its 95 % interval, which takes into account that calibration antibodies are a sample, too;
            None with one unit.
        high: Upper end.
        units: Number of units.
        unit: What they are: antibodies where there are several, else wells, else fields of view.
        unlike_fields: Fields whose cells' mean p-value, twice, is at most 0.05: a p-value however cells of a field
            depend on each other (Vovk and Wang 2020, doi 10.1093/biomet/asaa027).
        fields: Number of fields.
    """

    share: float
    low: float | None
    high: float | None
    units: int
    unit: str
    unlike_fields: int
    fields: int

    @property
    def differs(self) -> bool:
        """Whether more cells are unusual than chance explains."""
        return self.low is not None and self.low > LEVEL

    def describe(self) -> str:
        """The result in sentences."""
        interval = "" if self.low is None else f"95 % interval {self.low:.1%} to {self.high:.1%}, "
        fields = f"{self.unlike_fields} of {self.fields} fields look unlike the calibration cells."
        advice = " Locations and their sets are less reliable here than in the calibration." if self.differs else ""
        return (
            f"{self.share:.1%} of cells have a novelty_p_value up to {LEVEL} ({interval}mean of "
            f"{counted(self.units, 'field of view', self.unit)}; at most {LEVEL:.0%} is expected). {fields}{advice}"
        )

    def as_json(self) -> dict[str, Any]:
        """For `run.json`."""
        return {**asdict(self), "differs": self.differs}


def summarize_novelty(cells: pd.DataFrame, antibodies: int | None) -> RunNovelty | None:
    """Compare a run with the calibration of its classifier.

    Args:
        cells: Columns `novelty_p_value`, `field_of_view`, and `antibody`, `plate` and `well` where known.
        antibodies: Number of calibration antibodies.

    Returns:
        The comparison; None where the classifier has no calibrated novelty.
    """
    if "novelty_p_value" not in cells or not antibodies:
        return None
    p_values = cells["novelty_p_value"].to_numpy(np.float64)
    unit, shares = _mean_by_unit(cells, p_values <= _HIGHEST)
    share, low, high = float(shares.mean()), None, None
    if len(shares) > 1:
        error = _NORMAL_95 * float(shares.std(ddof=1)) * float(np.sqrt(1 / len(shares) + 1 / antibodies))
        low, high = max(share - error, 0.0), min(share + error, 1.0)
    means = pd.Series(p_values).groupby(cells["field_of_view"].astype(str).to_numpy()).mean()
    return RunNovelty(share, low, high, len(shares), unit, int((2 * means <= _HIGHEST).sum()), len(means))


def _mean_by_unit(cells: pd.DataFrame, values: npt.NDArray[np.bool_]) -> tuple[str, npt.NDArray[np.float64]]:
    """Name of the units, and the mean of each, by the first kind of unit of which there are several."""
    for unit, names in _UNITS.items():
        columns = [name for name in names if name in cells]
        if names[-1] not in columns:
            continue
        keys = cells[columns].fillna("").astype(str)
        last = unit == "fields of view"  # cells of one image may have no name of it
        named = (keys[names[-1]] != "").to_numpy() | last
        means = pd.Series(values[named]).groupby([keys[name].to_numpy()[named] for name in columns]).mean()
        if len(means) > 1 or last:
            return unit, means.to_numpy(np.float64)
    raise ValueError("cells have no column field_of_view")
