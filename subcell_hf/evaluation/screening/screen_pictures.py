"""Pictures of a screen as data of its page: plates, dose responses, changes of locations, and cells."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.evaluation.screening.dose_response import DoseCurve
from subcell_hf.images.wells import row_letters, well_position
from subcell_hf.tables.cell_pictures import CellPicture

CURVE_WIDTH, CURVE_HEIGHT = 240, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 8, 10, 20

_MOST_LOCATIONS = 4
_MOST_STRIPS = 40
_CELLS_PER_STRIP = 6

_FORMATS = ((8, 12), (16, 24), (32, 48))
"""Rows and columns of plates; a smaller one is drawn as the smallest that holds its wells."""


@dataclass(frozen=True)
class PlatePicture:
    """One plate.

    Attributes:
        plate: Its name.
        maps: Title → address of a picture of one pixel per well (`data:`).
        last_row: Letters of the last row.
        last_column: Number of the last column.
        note: What the page says beside it, or nothing.
    """

    plate: str
    maps: dict[str, str]
    last_row: str
    last_column: int
    note: str


@dataclass(frozen=True)
class CurvePicture:
    """One dose response, in pixels of an SVG.

    Attributes:
        treatment: Its name.
        points: Centres of the wells.
        path: The fitted curve, or empty.
        ec50: Place of the EC50 and of its interval, where identified.
        x_ticks, y_ticks: Place and label of each tick.
        zero: Place of the response 0.
        text: What is said of it.
    """

    treatment: str
    points: tuple[tuple[float, float], ...]
    path: str
    ec50: tuple[float, float, float] | None
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    zero: float
    text: str


@dataclass(frozen=True)
class LocationPicture:
    """Locations that a treatment changes.

    Attributes:
        treatment: Its name.
        rows: Location, percent in controls, percent in treated wells, what is said of the change.
    """

    treatment: str
    rows: tuple[tuple[str, float, float, str], ...]


@dataclass(frozen=True)
class CellStrips:
    """Cells of a treatment beside cells of the controls on the same plates.

    Attributes:
        treatment: Its name.
        treated: Address of a strip of cells (`data:`).
        controls: The same of controls.
        text: What is said of the treated wells.
    """

    treatment: str
    treated: str
    controls: str
    text: str


def draw_plates(wells: pd.DataFrame, notes: dict[str, str]) -> tuple[list[PlatePicture], dict[str, tuple[str, str]]]:
    """Heat maps of all plates, and what the ends of the colour scales mean; nothing where wells have no places.

    Args:
        wells: As `ScreenResult.wells`.
        notes: Plate → what to say of it.
    """
    places = [well_position(str(well)) for well in wells["well"]]
    if any(place is None for place in places):
        return [], {}
    rows, columns = np.array(places, dtype=np.intp).T
    shape = next((s for s in _FORMATS if rows.max() <= s[0] and columns.max() <= s[1]), (rows.max(), columns.max()))
    measures = {"distance from controls": wells["distance"].to_numpy(dtype=np.float64)}
    if "cell_count" in wells:
        measures["number of cells"] = wells["cell_count"].to_numpy(dtype=np.float64)
    limits = {name: (float(np.quantile(v, 0.01)), float(np.quantile(v, 0.99))) for name, v in measures.items()}
    drawn = []
    for plate in dict.fromkeys(wells["plate"]):
        there = (wells["plate"] == plate).to_numpy()
        maps = {}
        for name, values in measures.items():
            grid = np.full(shape, np.nan)
            grid[rows[there] - 1, columns[there] - 1] = values[there]
            maps[name] = _heat_map(grid, *limits[name])
        last = row_letters(int(shape[0]))
        drawn.append(PlatePicture(str(plate) or "plate", maps, last, int(shape[1]), notes.get(str(plate), "")))
    return drawn, {name: (f"{low:.3g}", f"{high:.3g}") for name, (low, high) in limits.items()}


def _heat_map(values: npt.NDArray[np.float64], low: float, high: float) -> str:
    """A PNG of one pixel per value; transparent where there is none."""
    import matplotlib
    from PIL import Image

    scaled = (values - low) / max(high - low, 1e-300)
    pixels = (matplotlib.colormaps["cividis"](np.clip(np.nan_to_num(scaled), 0, 1)) * 255).round().astype(np.uint8)
    pixels[np.isnan(values)] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def draw_curve(treatment: str, points: pd.DataFrame, curve: DoseCurve | None, text: str) -> CurvePicture:
    """One dose response.

    Args:
        treatment: Its name.
        points: `dose` and `response` of its wells.
        curve: What was fitted, or None.
        text: What to say of it.
    """
    doses, responses = points["dose"].to_numpy(dtype=np.float64), points["response"].to_numpy(dtype=np.float64)
    logs = np.log10(doses)
    left, right = logs.min() - 0.15, logs.max() + 0.15
    low, high = min(0.0, float(responses.min())), max(1.0, float(responses.max()))
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)

    def x_of(log: float) -> float:
        return round(_LEFT + float(log - left) / float(right - left) * (CURVE_WIDTH - _LEFT - _RIGHT), 1)

    def y_of(value: float) -> float:
        return round(_TOP + (high - value) / (high - low) * (CURVE_HEIGHT - _TOP - _BOTTOM), 1)

    path, ec50 = "", None
    if curve is not None:
        steps = np.linspace(left, right, 61)
        fitted = np.clip(curve.at(10**steps), low, high)
        path = "M" + "L".join(f"{x_of(x)} {y_of(y)}" for x, y in zip(steps, fitted, strict=True))
        if curve.identified:
            ends = (curve.ec50, curve.ec50_low, curve.ec50_high)
            found = [x_of(float(np.clip(np.log10(end), left, right))) for end in ends]
            ec50 = (found[0], found[1], found[2])
    step = 10 ** np.floor(np.log10(high - low))
    step = next(step * factor for factor in (0.2, 0.5, 1, 2) if (high - low) / (step * factor) <= 6)
    y_values = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    decades = range(int(np.ceil(left)), int(np.floor(right)) + 1)
    return CurvePicture(
        treatment=treatment,
        points=tuple((x_of(x), y_of(y)) for x, y in zip(logs, responses, strict=True)),
        path=path,
        ec50=ec50,
        x_ticks=tuple((x_of(exponent), f"{10.0**exponent:g}") for exponent in decades),
        y_ticks=tuple((y_of(value), f"{value + 0.0:g}") for value in y_values),
        zero=y_of(0),
        text=text,
    )


def draw_locations(changes: pd.DataFrame) -> list[LocationPicture]:
    """The largest changes of each treatment whose interval excludes 0.

    Args:
        changes: As `LocationChanges.table`.
    """
    clear = changes[(changes["change_low"] > 0) | (changes["change_high"] < 0)]
    drawn = []
    for name, rows in clear.groupby("treatment", sort=False):
        shown = [
            (
                row.location,
                round(float(row.control), 2),
                round(float(row.treated), 2),
                f"{row.change:+.1f} ({row.change_low:+.1f} to {row.change_high:+.1f})",
            )
            for row in rows.head(_MOST_LOCATIONS).itertuples()
        ]
        drawn.append(LocationPicture(str(name), tuple(shown)))
    return drawn


def draw_cells(
    hits: pd.DataFrame, wells: pd.DataFrame, pictures: Mapping[tuple[str, str], Sequence[CellPicture]]
) -> list[CellStrips]:
    """Cells of active treatments, those of the highest doses first, and of controls, where both have pictures.

    Args:
        hits: As `ScreenResult.hits`.
        wells: As `ScreenResult.wells`.
        pictures: Plate and well → pictures of its cells.
    """
    drawn = []
    controls = wells[wells["role"] == "control"]
    for name in hits.loc[hits["active"], "treatment"].iloc[:_MOST_STRIPS]:
        own = wells[(wells["treatment"] == name) & (wells["role"] == "treated")]
        own = own.sort_values("dose", ascending=False, kind="stable")
        there = own[[(row.plate, row.well) in pictures for row in own.itertuples()]]
        if own["dose"].notna().any():
            there = there[there["dose"] == there["dose"].max()]
        beside = controls[controls["plate"].isin(there["plate"])]
        treated, untreated = _alternating(there, pictures), _alternating(beside, pictures)
        shown = min(len(treated), len(untreated))  # as many of each, so that both are drawn in one size
        if shown:
            strips = _strip(treated[:shown]), _strip(untreated[:shown])
            dose = there["dose"].iloc[0]
            drawn.append(CellStrips(str(name), strips[0], strips[1], f"dose {dose:g}" if pd.notna(dose) else ""))
    return drawn


def _alternating(wells: pd.DataFrame, pictures: Mapping[tuple[str, str], Sequence[CellPicture]]) -> list[CellPicture]:
    """A few cells, from as many wells as possible."""
    found = [list(pictures.get((row.plate, row.well), ())) for row in wells.itertuples()]
    turns = max(map(len, found), default=0)
    return [cells[turn] for turn in range(turns) for cells in found if turn < len(cells)][:_CELLS_PER_STRIP]


def _strip(cells: Sequence[CellPicture]) -> str:
    """Pictures side by side."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([cell.composite_pixels() for cell in cells], axis=1)).save(buffer, "webp")
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def curve_sizes() -> Sequence[int]:
    """Width, height and margins (left, right, top, bottom) of a curve in pixels."""
    return CURVE_WIDTH, CURVE_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM
