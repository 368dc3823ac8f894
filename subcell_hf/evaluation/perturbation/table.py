"""Profiles: numbers that describe cells, fields or wells, beside metadata that says which."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, InputWarning
from subcell_hf.storage.foreign_tables import read_column_names, read_foreign_table
from subcell_hf.storage.text_values import text_values
from subcell_hf.tables.run_record import origin_of, refuse_other_origin

METADATA_PREFIX = "Metadata_"

_MAX_LISTED = 5
_COUNTED = re.compile(r"(.*_)?(image|object|table)_?number", re.IGNORECASE)


@dataclass(frozen=True)
class ProfileTable:
    """One row per profile.

    Attributes:
        metadata: Text columns with a RangeIndex; None where a value is missing.
        features: float64 [profiles, features], all finite.
        names: Name of each feature.
        origin: What computed the features, by `subcell_hf.tables.run_record.origin_of`; empty where that is unknown.
    """

    metadata: pd.DataFrame
    features: npt.NDArray[np.float64]
    names: tuple[str, ...]
    origin: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of profiles."""
        return len(self.features)

    def select(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> "ProfileTable":
        """The given rows, in the given order."""
        return replace(self, metadata=self.metadata.iloc[rows].reset_index(drop=True), features=self.features[rows])

    def with_features(self, features: npt.NDArray[np.float64], names: Sequence[str] | None = None) -> "ProfileTable":
        """The same rows with other numbers."""
        return replace(self, features=features, names=self.names if names is None else tuple(names))

    def column(self, name: str) -> npt.NDArray[np.object_]:
        """Values of a metadata column: text, or None.

        Raises:
            InputError: If there is no such column.
        """
        if name not in self.metadata.columns:
            raise InputError(
                f"The profiles have no column {name!r}; their metadata columns are {', '.join(self.metadata.columns)}."
            )
        values = self.metadata[name].astype(object)
        # pandas makes NaN of None wherever it takes a column for text.
        column: npt.NDArray[np.object_] = values.where(values.notna(), None).to_numpy(dtype=object)
        return column


def read_profiles(paths: Sequence[Path], metadata: Collection[str] = ()) -> ProfileTable:
    """Read one or several tables of profiles and put their rows below each other.

    CSV files (also packed) and parquet files whose metadata columns begin with `Metadata_` are read as pycytominer
    writes them: every other column is a feature, except CellProfiler's numbers of images and objects.
    Anything else is read as an embedding table. Metadata are texts in every format: `0012` is not `12`, and `NA` is a
    word.

    Args:
        paths: Files or folders; all must have the same features in the same order.
        metadata: Further columns that are no features, whatever they hold.

    Raises:
        InputError: If a table cannot be read, features differ, are not numbers or are missing somewhere, or embeddings
            were computed in different ways.
    """
    if not paths:
        raise InputError("No profiles were given; name at least one table.")
    tables = [_read_one(Path(path), frozenset(metadata)) for path in paths]
    for path, table in zip(paths[1:], tables[1:], strict=True):
        if table.names != tables[0].names:
            raise InputError(
                f"{path} has other features ({len(table.names)}) than {paths[0]} ({len(tables[0].names)}); tables that "
                "are read together must have the same features in the same order."
            )
        known = next((place for place, other in enumerate(tables) if other.origin), 0)
        refuse_other_origin(path, table.origin, paths[known], tables[known].origin)
    if len(tables) == 1:
        return tables[0]
    joined = pd.concat([table.metadata for table in tables], ignore_index=True).astype(object)
    joined = joined.where(joined.notna(), None)
    return ProfileTable(joined, np.concatenate([table.features for table in tables]), tables[0].names)


def _read_one(path: Path, metadata: frozenset[str]) -> ProfileTable:
    """One table."""
    if not holds_profiles(path):
        from subcell_hf.tables.files import read_table

        cells = read_table(path, metadata)
        features = np.asarray(cells.embeddings, dtype=np.float64)
        names = tuple(f"embedding_{index}" for index in range(features.shape[1]))
        texts = {str(name): text_values(cells.cells[name], f"{path}, {name}") for name in cells.cells.columns}
        frame, origin = _metadata_frame(texts, len(cells)), origin_of(cells.provenance)
        return ProfileTable(frame, _finite(features, names, path), names, origin)
    table = read_foreign_table(path)
    unmarked = [name for name in table.columns if _COUNTED.fullmatch(name) and not _is_metadata(name)]
    known = [name for name in table.columns if _is_metadata(name) or name in {*metadata, *unmarked}]
    if unmarked:
        warnings.warn(
            f"{path} numbers images or objects in {_some(unmarked)}, which are taken for metadata. Rename the columns "
            "if they are features.",
            InputWarning,
            stacklevel=3,
        )
    names = tuple(name for name in table.columns if name not in known)
    if not names:
        raise InputError(f"{path} has metadata but no features.")
    features = np.empty((len(table), len(names)))
    wrong = []
    for place, name in enumerate(names):
        try:
            features[:, place] = table.numbers(name)
        except InputError as error:
            wrong.append((name, error))
    if wrong:
        raise InputError(
            f"{path} has columns that are neither numbers nor metadata: {_some([name for name, _ in wrong])}. Let the "
            f"names of metadata columns begin with {METADATA_PREFIX}, or remove them. The first: {wrong[0][1]}"
        )
    texts = {name: table.text(name) for name in known}
    return ProfileTable(_metadata_frame(texts, len(table)), _finite(features, names, path), names)


def holds_profiles(path: Path) -> bool:
    """Whether a table is written as pycytominer does, with columns that begin with `Metadata_`."""
    name = path.name.lower()
    if not path.is_file() or not any(ending in name for ending in (".csv", ".tsv", ".parquet")):
        return False
    columns = read_column_names(path)
    return any(_is_metadata(column) for column in columns) and "embedding" not in columns


def _is_metadata(name: str) -> bool:
    return name.lower().startswith(METADATA_PREFIX.lower())


def _metadata_frame(texts: Mapping[str, Sequence[str]], rows: int) -> pd.DataFrame:
    """Columns of texts, None where there is none."""
    columns = {name: [value or None for value in values] for name, values in texts.items()}
    return pd.DataFrame(columns, index=pd.RangeIndex(rows), dtype=object)


def _finite(features: npt.NDArray[np.float64], names: Sequence[str], path: Path) -> npt.NDArray[np.float64]:
    """The numbers, all finite."""
    if not len(features):
        raise InputError(f"{path} has no rows.")
    bad = ~np.isfinite(features)
    if bad.any():
        columns = [names[int(index)] for index in np.flatnonzero(bad.any(axis=0))]
        raise InputError(
            f"{path} has {int(bad.sum())} missing or infinite values in {len(columns)} features: {_some(columns)}. "
            "Remove these features, or the profiles that lack them."
        )
    return features


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
