"""Simulated screens: profiles of wells with known answers, from which the answers of an analysis can be judged.

A well is described by numbers as a model gives them, not by images. Its profile is the sum of a plate's batch effect,
an effect of its place at the edge, what its number of cells alone changes, the response to its treatment, and noise
that grows as cells become fewer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.images.wells import well_name
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import LOCK_FILE, claim_folder
from subcell_hf.storage.parquet_files import WRITING

SCREEN_PROFILES, SCREEN_PLATE_MAP, SCREEN_TRUTH = "profiles.parquet", "plate_map.csv", "truth.csv"

_ROWS, _COLUMNS = 16, 24
_FEATURES = 64
_REPLICATES = 3
_DOSES_UM = tuple(10 * 3.0 ** -np.arange(6.0)[::-1])
_NEGATIVE, _POSITIVE = 32, 16
"""Control wells of each plate."""
_MECHANISMS = 5
_TYPICAL_CELLS = 300

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedScreen:
    """One 384-well plate map on three replicate plates, each with another layout.

    Attributes:
        profiles: One row per well: `Metadata_Plate`, `Metadata_Well`, `Metadata_cell_count`, then the features.
        plate_map: `plate`, `well`, `treatment`, `dose` (micromolar), `control_type` (negcon, poscon or empty),
            `mechanism` (of reference compounds).
        truth: One row per treatment that is no control: `treatment`, `active`, `ec50` (micromolar, missing where
            there is none), `toxic_only`.
        failed_controls: Plate and well of the negative controls that failed.
    """

    profiles: pd.DataFrame
    plate_map: pd.DataFrame
    truth: pd.DataFrame
    failed_controls: tuple[tuple[str, str], ...]


def simulate_screen(seed: int, *, edge_effect: float = 1.0) -> SimulatedScreen:
    """Simulate a screen of 56 compounds at six doses on three plates.

    A quarter of the compounds are active, with a four-parameter response along one direction of the features; a third
    of those also lower the number of cells. A tenth lower the number of cells only, which changes what the number of
    cells changes in any well. The others do nothing. Some negative controls fail, on one plate many.

    Args:
        seed: Random seed; the same seed gives the same screen.
        edge_effect: Size of the effect of the outer wells and of the trend over columns; 0: none.

    Raises:
        InputError: If the seed is negative.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}: expected 0 or more.")
    generator = np.random.default_rng([seed, 25])
    truth, mechanisms = _compounds(generator)
    plate_map = pd.concat(
        [_plate(truth, mechanisms, f"plate{number + 1}", generator) for number in range(_REPLICATES)], ignore_index=True
    )
    failed = _failed_controls(plate_map, generator)
    cells, profiles = _profiles(plate_map, truth, failed, edge_effect, generator)
    names = [f"feature_{number:02d}" for number in range(_FEATURES)]
    metadata = {"Metadata_Plate": plate_map["plate"], "Metadata_Well": plate_map["well"], "Metadata_cell_count": cells}
    frame = pd.concat([pd.DataFrame(metadata), pd.DataFrame(profiles, columns=names)], axis=1)
    wells = tuple(zip(plate_map["plate"][failed], plate_map["well"][failed], strict=True))
    kept = ["plate", "well", "treatment", "dose", "control_type", "mechanism"]
    return SimulatedScreen(frame, plate_map[kept], truth.drop(columns=["kind", "name"]), wells)


def write_screen(seed: int, output: Path | str) -> SimulatedScreen:
    """Simulate a screen and write it; the same seed gives the same files.

    Args:
        seed: Random seed.
        output: Folder for `profiles.parquet`, `plate_map.csv` and `truth.csv`: new, empty, or of an earlier call.

    Raises:
        InputError: If the folder holds anything else.
        OSError: If a file cannot be written.
    """
    output = Path(output)
    names = (SCREEN_PROFILES, SCREEN_PLATE_MAP, SCREEN_TRUTH)
    screen = simulate_screen(seed)
    with claim_folder(output):
        others = sorted(path.name for path in output.iterdir() if path.name not in (*names, LOCK_FILE))
        if others:
            raise InputError(f"{output} holds {others[0]!r}, expected a new or empty folder. Choose another --output.")
        with write_atomically(output / SCREEN_PROFILES) as file:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pandas(screen.profiles, preserve_index=False), file, **WRITING)
        for name, table in ((SCREEN_PLATE_MAP, screen.plate_map), (SCREEN_TRUTH, screen.truth)):
            with write_atomically(output / name) as file:
                file.write(table.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode())
    return screen


def _compounds(generator: np.random.Generator) -> tuple[pd.DataFrame, dict[str, str]]:
    """What is true of each compound, and the mechanism of the reference compounds among them."""
    kinds = np.array(["active"] * 10 + ["active and toxic"] * 5 + ["toxic"] * 6 + ["inactive"] * 35)
    kinds = kinds[generator.permutation(len(kinds))]
    active = np.char.startswith(kinds, "active")
    # Between the lowest and the highest dose, away from both.
    ec50 = np.exp(generator.uniform(np.log(_DOSES_UM[1]), np.log(_DOSES_UM[-2]), size=len(kinds)))
    names = [f"compound{number + 1:02d}" for number in range(len(kinds))]
    truth = pd.DataFrame(
        {
            "treatment": names,
            "active": active,
            "ec50": np.where(active, ec50, np.nan),
            "toxic_only": kinds == "toxic",
            "kind": kinds,
            "name": [f"mechanism{number % _MECHANISMS + 1}" for number in range(len(kinds))],
        }
    )
    known = truth[truth["active"]].iloc[::2]
    return truth, dict(zip(known["treatment"], known["name"], strict=True))


def _plate(truth: pd.DataFrame, mechanisms: dict[str, str], plate: str, generator: np.random.Generator) -> pd.DataFrame:
    """One plate: every compound at every dose once, and controls, in random order."""
    treatments = np.repeat(truth["treatment"].to_numpy(), len(_DOSES_UM))
    doses = np.tile(_DOSES_UM, len(truth))
    rows = pd.DataFrame(
        {
            "plate": plate,
            "treatment": [*treatments, *["DMSO"] * _NEGATIVE, *["reference"] * _POSITIVE],
            "dose": [*doses, *[np.nan] * _NEGATIVE, *[_DOSES_UM[-1]] * _POSITIVE],
            "control_type": [""] * len(treatments) + ["negcon"] * _NEGATIVE + ["poscon"] * _POSITIVE,
        }
    )
    rows["mechanism"] = rows["treatment"].map(mechanisms).fillna("")
    places = generator.permutation(_ROWS * _COLUMNS)[: len(rows)]
    rows["row"], rows["column"] = places // _COLUMNS + 1, places % _COLUMNS + 1
    rows["well"] = [well_name(row, column) for row, column in zip(rows["row"], rows["column"], strict=True)]
    return rows.sort_values(["row", "column"], ignore_index=True)


def _failed_controls(plate_map: pd.DataFrame, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Two negative controls anywhere, and ten of one plate, bool [wells]."""
    negative = np.flatnonzero(plate_map["control_type"] == "negcon")
    failed = np.zeros(len(plate_map), dtype=bool)
    failed[generator.choice(negative, size=2, replace=False)] = True
    worst = f"plate{generator.integers(_REPLICATES) + 1}"
    there = negative[plate_map["plate"].to_numpy()[negative] == worst]
    failed[generator.choice(there, size=10, replace=False)] = True
    return failed


def _profiles(
    plate_map: pd.DataFrame,
    truth: pd.DataFrame,
    failed: npt.NDArray[np.bool_],
    edge_effect: float,
    generator: np.random.Generator,
) -> tuple[npt.NDArray[np.int64], Array]:
    """Number of cells [wells] and features [wells, features]."""
    known = truth.set_index("treatment")
    treatment, dose = plate_map["treatment"].to_numpy(), plate_map["dose"].to_numpy()
    directions = _directions(known, generator)
    strength = {name: generator.uniform(3.5, 8.0) for name in known.index[known["active"]]}
    hills = {name: generator.uniform(1.0, 2.5) for name in known.index}
    lowest, highest = np.log([_DOSES_UM[2], _DOSES_UM[-1]])
    toxic_ec50 = {name: float(np.exp(generator.uniform(lowest, highest))) for name in known.index}
    profiles = np.zeros((len(plate_map), _FEATURES))
    survival = np.ones(len(plate_map))
    for name, fact in known.iterrows():
        rows = treatment == name
        if fact["active"]:
            response = 1 / (1 + (fact["ec50"] / dose[rows]) ** hills[name])
            profiles[rows] += strength[name] * response[:, None] * directions[name]
        if "toxic" in fact["kind"]:
            most = 0.85 if fact["toxic_only"] else 0.5
            survival[rows] = 1 - most / (1 + (toxic_ec50[name] / dose[rows]) ** 2)
    profiles[treatment == "reference"] += 14 * _unit(generator)
    profiles[failed] += 14 * _unit(generator)
    cells = generator.poisson(_TYPICAL_CELLS * survival * np.exp(generator.normal(scale=0.12, size=len(survival))))
    crowding = cells / _TYPICAL_CELLS
    profiles += 8 * (1 - crowding)[:, None] * _unit(generator) + 4 * (1 - crowding)[:, None] ** 2 * _unit(generator)
    profiles += _noise(len(profiles), generator) * np.sqrt(0.7 + 0.3 / np.maximum(crowding, 0.03))[:, None]
    profiles += edge_effect * _place_effect(plate_map, generator)
    for plate in sorted(set(plate_map["plate"])):
        rows = (plate_map["plate"] == plate).to_numpy()
        profiles[rows] = profiles[rows] * np.exp(generator.normal(scale=0.15, size=_FEATURES)) + generator.normal(
            scale=1.5, size=_FEATURES
        )
    return cells, profiles * np.exp(generator.normal(size=_FEATURES)) + generator.normal(scale=5, size=_FEATURES)


def _directions(known: pd.DataFrame, generator: np.random.Generator) -> dict[str, Array]:
    """A direction for each compound; those of one mechanism have similar ones."""
    shared = [_unit(generator) for _ in range(_MECHANISMS)]
    found = {}
    for name, mechanism in known["name"].items():
        mixed = shared[int(str(mechanism).removeprefix("mechanism")) - 1] + 0.5 * _unit(generator)
        found[str(name)] = mixed / np.linalg.norm(mixed)
    return found


def _place_effect(plate_map: pd.DataFrame, generator: np.random.Generator) -> Array:
    """Outer wells differ from the others, and the first columns from the last, [wells, features]."""
    row, column = plate_map["row"].to_numpy(), plate_map["column"].to_numpy()
    outer = (row == 1) | (row == _ROWS) | (column == 1) | (column == _COLUMNS)
    trend = (column - (_COLUMNS + 1) / 2) / _COLUMNS
    effect: Array = 4 * outer[:, None] * _unit(generator) + 3 * trend[:, None] * _unit(generator)
    return effect


def _noise(wells: int, generator: np.random.Generator) -> Array:
    """Noise of standard deviation 1 in every feature, half of it shared among features."""
    loadings = generator.normal(size=(12, _FEATURES))
    loadings /= np.linalg.norm(loadings, axis=0) * np.sqrt(2)
    own = generator.normal(scale=np.sqrt(0.5), size=(wells, _FEATURES))
    mixed: Array = generator.normal(size=(wells, 12)) @ loadings + own
    return mixed


def _unit(generator: np.random.Generator, size: Sequence[int] | int = _FEATURES) -> Array:
    """A direction of the features."""
    direction = generator.normal(size=size)
    found: Array = direction / np.linalg.norm(direction)
    return found
