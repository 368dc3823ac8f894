"""The one shape of an embedding table in memory."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted

SCHEMA_VERSION = 1
"""Increased when readers of earlier versions cannot read new files."""

METADATA_KEY = "subcell_hf"
"""Where a file keeps `table_facts`: key of the Parquet schema's metadata, of AnnData's `uns`, of an npz."""

_CHECKSUM = "crc32"
"""Key of the checksum of the other facts, which those of Parquet's pages do not cover; older files have none."""

CELL_ID, FIELD_OF_VIEW = "cell_id", "field_of_view"
TOP_LOCATIONS = 3

Rows = npt.NDArray[Any] | Sequence[int] | slice


@dataclass(frozen=True)
class EmbeddingTable:
    """Cells, their embeddings, and where their protein is.

    Attributes:
        cells: One row per cell, index 0, 1, …: `cell_id` (unique), `field_of_view`, metadata as text, empty where
            unknown (`antibody`, `gene`, `locations` joined by `;`, `cell_line`, `plate`, `well`, `split`, …), quality
            columns `qc_…`, and `top_location_1` … `3` with `top_probability_1` … `3` where cells are classified.
        embeddings: `[cells, width]` float32. Those of several passes are concatenated.
        probabilities: `[cells, classes]` float32, of several passes the mean; None where there is no classifier.
        classes: Names of the columns of `probabilities`.
        pass_probabilities: Name of a pass → its probabilities `[cells, classes]`; empty where there is one pass.
        provenance: Where the embeddings come from, as JSON has it.
    """

    cells: pd.DataFrame
    embeddings: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None = None
    classes: tuple[str, ...] = ()
    pass_probabilities: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=lambda: MappingProxyType({}))
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        return len(self.cells)

    def select(self, rows: Rows) -> "EmbeddingTable":
        """A table of some of the cells.

        Args:
            rows: Positions in the order wanted, a slice, or `[cells]` bool.
        """
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = rows if rows.size else rows.astype(np.int64)  # an empty list has no type that could index
        chosen = np.arange(len(self))[rows]
        return EmbeddingTable(
            self.cells.iloc[chosen].reset_index(drop=True),
            self.embeddings[chosen],
            None if self.probabilities is None else self.probabilities[chosen],
            self.classes,
            {name: values[chosen] for name, values in self.pass_probabilities.items()},
            self.provenance,
        )


def check_table(table: EmbeddingTable, where: str) -> EmbeddingTable:
    """Refuse a table whose parts do not fit together.

    Args:
        table: Any table.
        where: What to call it in messages.

    Returns:
        The same table.

    Raises:
        InputError: If sizes differ, ids are missing or occur twice, or numbers are not finite.
    """
    cells, columns = table.cells, list(table.cells.columns)
    check_cells(cells, where)
    needed = {"embedding", "probabilities", *(f"probabilities_{name}" for name in table.pass_probabilities)}
    taken = [name for name in columns if name in needed]
    if taken:
        raise InputError(f"{where} has the metadata column {taken[0]!r}, a reserved name. Rename it.")
    check_block(table.embeddings, (len(cells), None), f"{where}, embedding")
    blocks = {f"probabilities_{name}": values for name, values in table.pass_probabilities.items()}
    if table.probabilities is not None:
        blocks["probabilities"] = table.probabilities
    for name, values in blocks.items():
        check_block(values, (len(cells), len(table.classes)), f"{where}, {name}")
    if table.probabilities is None and table.classes:
        raise InputError(f"{where} names {len(table.classes)} classes and has no probabilities; expected both or none.")
    return table


def check_cells(cells: pd.DataFrame, where: str) -> None:
    """Refuse cells without names, or with names that occur twice.

    Args:
        cells: What is known of the cells.
        where: What to call the table in messages.

    Raises:
        InputError: Saying what was found.
    """
    columns = list(cells.columns)
    for name in (CELL_ID, FIELD_OF_VIEW):
        if name not in columns:
            raise InputError(f"{where} has no column {name!r}; it has {', '.join(map(str, columns)) or 'none'}.")
    unnamed = int((cells[CELL_ID] == "").sum())
    if unnamed:
        raise InputError(
            f"{where}: {counted(unnamed, 'cell has', 'cells have')} no cell_id, expected one for each cell. Add it."
        )
    refuse_repeated_ids(cells[CELL_ID], where)


def refuse_repeated_ids(ids: "pd.Series[Any]", where: str) -> None:
    """Refuse ids of which one occurs twice.

    Args:
        ids: `cell_id` of all cells.
        where: What to call their table in messages.

    Raises:
        InputError: Saying which.
    """
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{where}: {len(repeated)} values of cell_id occur before, the first is {repeated.iloc[0]!r}; expected "
            "every cell once. Rename the cells, or join tables of different runs with a prefix."
        )


def check_block(values: npt.NDArray[Any], shape: tuple[int, int | None], where: str) -> None:
    """Refuse numbers of another shape than `[cells, width]`, or that are not finite.

    Args:
        values: The numbers.
        shape: Rows and columns expected; None for any number of columns above 0.
        where: What to call them in messages.

    Raises:
        InputError: Saying what was found.
    """
    fits = values.ndim == 2 and values.shape[0] == shape[0] and values.shape[1] == (shape[1] or values.shape[1])
    if not fits or values.shape[1] == 0:
        expected = f"{shape[0]} cells x {'at least 1' if shape[1] is None else shape[1]}"
        raise InputError(f"{where} has shape {values.shape}, expected {expected}. Is the file of another run?")
    for start in range(0, len(values), 8192):  # in pieces: a mask of all of a large table would take gigabytes
        sound = np.isfinite(values[start : start + 8192]).all(axis=1)
        if not sound.all():
            raise InputError(
                f"{where}: row {start + int(np.argmin(sound))} is NaN or infinite, expected finite numbers. Leave "
                "such cells out, or embed them again."
            )


def table_facts(table: EmbeddingTable) -> dict[str, Any]:
    """What a file says of the table beside its columns."""
    return {
        "schema_version": SCHEMA_VERSION,
        "classes": list(table.classes),
        "passes": list(table.pass_probabilities),
        "provenance": dict(table.provenance),
    }


def facts_to_json(facts: Mapping[str, Any]) -> str:
    """`table_facts` as text, with a checksum; the same facts give the same text."""
    plain = json.loads(json.dumps(facts))
    return json.dumps({**plain, _CHECKSUM: _checksum(plain)}, sort_keys=True, ensure_ascii=False)


def _checksum(facts: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def facts_from_json(text: str | bytes, where: str) -> dict[str, Any]:
    """Facts that a file holds.

    Raises:
        InputError: If they are no JSON of a version that is known here.
    """
    try:
        facts: dict[str, Any] = json.loads(text)
        found = int(facts["schema_version"])
        checksum = facts.pop(_CHECKSUM, None)
        if found <= SCHEMA_VERSION and checksum not in (None, _checksum(facts)):
            raise ValueError("their checksum differs")
        known = [facts[name] for name in ("classes", "passes", "provenance")]
        if list(map(type, known)) != [list, list, dict]:
            raise ValueError("classes, passes or provenance have unexpected types")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where}: its {METADATA_KEY} metadata are damaged ({error}). Write the table again."
        ) from error
    if not 1 <= found <= SCHEMA_VERSION:
        raise InputError(
            f"{where} has schema version {found}, this subcell_hf knows 1 to {SCHEMA_VERSION}. Install a newer "
            "subcell_hf."
        )
    return facts


def frame_of_records(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What is known of cells as columns: places and quality keep their kind, metadata are texts.

    Args:
        records: One for each cell; of a name that one lacks its value is empty.
    """
    names = dict.fromkeys(name for record in records for name in record)
    columns: dict[str, Any] = {}
    for name in names:
        values = [record.get(name) for record in records]
        kept = name.startswith("qc_") or all(value is None or not isinstance(value, str) for value in values)
        columns[name] = values if kept else ["" if value is None else str(value) for value in values]
    return pd.DataFrame(columns)


def calibrated_columns(
    embeddings: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    classes: Sequence[str],
    calibration: Mapping[str, Any],
) -> dict[str, npt.NDArray[Any]]:
    """What a calibrated classifier says of each cell.

    Args:
        embeddings: `[cells, width]`.
        probabilities: `[cells, classes]`.
        classes: Their names.
        calibration: `location_sets` and `novelty` of the model's configuration, those that it has.

    Returns:
        With `location_sets` the columns `location_set`, locations whose probability reaches the threshold, joined by
        `;` in the order of the classes, and `set_size`; with `novelty` the column `novelty_p_value`.

    Raises:
        InputError: If the embeddings have another width than the calibration's.
    """
    columns: dict[str, npt.NDArray[Any]] = {}
    if sets := calibration.get("location_sets"):
        inside = probabilities >= sets["threshold"]
        names = [";".join(name for name, kept in zip(classes, row, strict=True) if kept) for row in inside]
        columns["location_set"] = np.asarray(names, dtype=object)
        columns["set_size"] = inside.sum(axis=1).astype(np.int64)
    if novelty := calibration.get("novelty"):
        from subcell_hf.model.locations_subcell import novelty_p_values  # the island imports torch

        try:
            columns["novelty_p_value"] = novelty_p_values(embeddings, novelty)
        except ValueError as error:
            raise InputError(str(error)) from error
    return columns


def top_locations(probabilities: npt.NDArray[np.float32], classes: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """The most probable locations of each cell.

    Args:
        probabilities: `[cells, classes]`.
        classes: Their names.

    Returns:
        Columns `top_location_1`, `top_probability_1`, … up to 3, or to the number of classes; of equal probabilities
        the first class comes first.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_LOCATIONS]
    names = np.asarray(classes, dtype=object)
    columns: dict[str, npt.NDArray[Any]] = {}
    for rank in range(order.shape[1]):
        columns[f"top_location_{rank + 1}"] = names[order[:, rank]]
        columns[f"top_probability_{rank + 1}"] = np.take_along_axis(probabilities, order[:, rank : rank + 1], 1)[:, 0]
    return columns
