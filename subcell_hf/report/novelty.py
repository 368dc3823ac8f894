"""Whether the cells and fields of a run are like those that its classifier was calibrated on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.cells.field_statistics import P_VALUE, field_p_values, field_values
from subcell_hf.errors import counted

LEVEL = 0.05

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
        fields: Number of fields of view that were compared; 0 where the calibration has none, or other columns.
        unlike_fields: How many of them have a p-value up to 0.05.
        field_low: Lower end of the 95 % interval of their share, mean over units; None as above.
        farthest: Column by which fields differ most, if the run differs; empty otherwise.
        deviations: By how many standard deviations of fields they differ in it, on average.
    """

    share: float
    low: float | None
    high: float | None
    units: int
    unit: str
    fields: int = 0
    unlike_fields: int = 0
    field_low: float | None = None
    farthest: str = ""
    deviations: float = 0.0

    @property
    def differs(self) -> bool:
        """Whether more cells or fields are unusual than chance explains."""
        return any(low is not None and low > LEVEL for low in (self.low, self.field_low))

    def describe(self) -> str:
        """The result in sentences."""
        interval = "" if self.low is None else f"95 % interval {self.low:.1%} to {self.high:.1%}, "
        fields = farthest = advice = ""
        if self.fields:
            verb = "looks" if self.unlike_fields == 1 else "look"
            fields = (
                f" {self.unlike_fields} of {counted(self.fields, 'field')} {verb} unlike those of the calibration "
                f"(at most {LEVEL:.0%} expected)."
            )
        if self.differs:
            if self.farthest:
                way = "higher" if self.deviations > 0 else "lower"
                farthest = f" Farthest: {self.farthest}, {abs(self.deviations):.1f} standard deviations {way}."
            advice = " Locations and their sets are less reliable here than in the calibration."
        return (
            f"{self.share:.1%} of cells have a {P_VALUE} up to {LEVEL} ({interval}mean of "
            f"{counted(self.units, 'field of view', self.unit)}; at most {LEVEL:.0%} is expected).{fields}{farthest}"
            f"{advice}"
        )

    def as_json(self) -> dict[str, Any]:
        """For `run.json`."""
        return {**asdict(self), "differs": self.differs}


def novelty_columns(novelty: Mapping[str, Any]) -> tuple[str, ...]:
    """What `summarize_novelty` reads of a table, where the table has it."""
    names = (name for columns in _UNITS.values() for name in columns)
    return tuple(dict.fromkeys((P_VALUE, *names, *novelty.get("fields", {}).get("columns", ()))))


def summarize_novelty(cells: pd.DataFrame, novelty: Mapping[str, Any] | None) -> RunNovelty | None:
    """Compare a run with the calibration of its classifier.

    Args:
        cells: Columns `novelty_p_value`, `field_of_view`, and `antibody`, `plate`, `well` and the focus of channels
            where known.
        novelty: Of the classifier: number of `antibodies`, and `fields` where it has these; see `field_p_values`.

    Returns:
        The comparison; None where the classifier has no calibrated novelty.
    """
    if P_VALUE not in cells or not novelty:
        return None
    unit, shares = _mean_by_unit(cells, cells[P_VALUE].to_numpy(np.float64) <= _HIGHEST)
    share, low, high = _interval(shares, novelty["antibodies"])
    found = RunNovelty(share, low, high, len(shares), unit)
    calibrated = novelty.get("fields")
    if not calibrated or not {*calibrated["columns"]} <= {*cells.columns}:
        return found
    values = field_values(cells, calibrated["columns"])
    if not len(values):
        return found
    unlike = field_p_values(values, calibrated) <= _HIGHEST
    names = [name for name in cells.columns if name in ("antibody", "plate", "well")]
    fields = cells[["field_of_view", *names]].astype({"field_of_view": str}).drop_duplicates("field_of_view")
    fields = fields.set_index("field_of_view").loc[values.index].reset_index()
    _, field_low, _ = _interval(_mean_by_unit(fields, unlike)[1], novelty["antibodies"])
    deviations = (values - calibrated["mean"]).mean() / np.asarray(calibrated["deviations"])
    place = int(np.argmax(np.abs(deviations.fillna(0).to_numpy())))
    found = replace(found, fields=len(values), unlike_fields=int(unlike.sum()), field_low=field_low)
    if not found.differs:
        return found
    return replace(found, farthest=calibrated["columns"][place], deviations=float(deviations.iloc[place]))


def _interval(shares: npt.NDArray[np.float64], antibodies: int) -> tuple[float, float | None, float | None]:
    """Mean over units and its 95 % interval."""
    share = float(shares.mean())
    if len(shares) < 2:
        return share, None, None
    error = _NORMAL_95 * float(shares.std(ddof=1)) * float(np.sqrt(1 / len(shares) + 1 / antibodies))
    return share, max(share - error, 0.0), min(share + error, 1.0)


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
