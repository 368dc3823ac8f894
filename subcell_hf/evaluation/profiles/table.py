"""Profiles: numbers that describe cells, fields or wells, beside metadata that says which."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError

METADATA_PREFIX = "Metadata_"

_MAX_LISTED = 5


@dataclass(frozen=True)
class ProfileTable:
    """One row per profile.

    Attributes:
        metadata: Text columns with a RangeIndex; None where a value is missing.
        features: float64 [profiles, features], all finite.
        names: Name of each feature.
    """

    metadata: pd.DataFrame
    features: npt.NDArray[np.float64]
    names: tuple[str, ...]

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


def read_profiles(paths: Sequence[Path]) -> ProfileTable:
    """Read one or several tables of profiles and put their rows below each other.

    CSV files (also compressed) and parquet files whose metadata columns begin with `Metadata_` are read as pycytominer
    writes them: every other column is a feature. Anything else is read as an embedding table.

    Args:
        paths: Files or folders; all must have the same features in the same order.

    Raises:
        InputError: If a table cannot be read, features differ, are not numbers or are missing somewhere.
    """
    if not paths:
        raise InputError("No profiles were given; name at least one table.")
    tables = [_read_one(Path(path)) for path in paths]
    for path, table in zip(paths[1:], tables[1:], strict=True):
        if table.names != tables[0].names:
            raise InputError(
                f"{path} has other features ({len(table.names)}) than {paths[0]} ({len(tables[0].names)}); tables that "
                "are read together must have the same features in the same order."
            )
    if len(tables) == 1:
        return tables[0]
    metadata = pd.concat([table.metadata for table in tables], ignore_index=True).astype(object)
    metadata = metadata.where(metadata.notna(), None)
    return ProfileTable(metadata, np.concatenate([table.features for table in tables]), tables[0].names)


def _read_one(path: Path) -> ProfileTable:
    """One table."""
    if not path.exists():
        raise InputError(f"{path} does not exist; expected a table of profiles.")
    if not holds_profiles(path):
        from subcell_hf.inference.tables import read_table

        table = read_table(path)
        features = np.asarray(table.embeddings, dtype=np.float64)
        names = tuple(f"embedding_{index}" for index in range(features.shape[1]))
        return ProfileTable(_as_text(table.cells), _finite(features, names, path), names)
    frame = _read_cytomining_frame(path)
    columns = [str(column) for column in frame.columns]
    metadata = [column for column in columns if column.startswith(METADATA_PREFIX)]
    names = tuple(column for column in columns if not column.startswith(METADATA_PREFIX))
    wrong = [name for name in names if not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong:
        raise InputError(
            f"{path} has columns that are neither numbers nor metadata: {_some(wrong)}. Let the names of metadata "
            f"columns begin with {METADATA_PREFIX}, or remove them."
        )
    if not names:
        raise InputError(f"{path} has metadata but no features.")
    features = frame[list(names)].to_numpy(dtype=np.float64)
    return ProfileTable(_as_text(frame[metadata]), _finite(features, names, path), names)


def holds_profiles(path: Path) -> bool:
    """Whether a table is written as pycytominer does, with columns that begin with `Metadata_`."""
    name = path.name.lower()
    if path.is_dir():
        return False
    if any(ending in name for ending in (".csv", ".tsv")):
        header = pd.read_csv(path, sep=_separator(path), nrows=0).columns
        return any(str(column).startswith(METADATA_PREFIX) for column in header)
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        columns = pq.read_schema(path).names
        return any(str(column).startswith(METADATA_PREFIX) for column in columns) and "embedding" not in columns
    return False


def _separator(path: Path) -> str:
    return "\t" if ".tsv" in path.name.lower() else ","


def _read_cytomining_frame(path: Path) -> pd.DataFrame:
    """The table with its columns."""
    if path.name.lower().endswith(".parquet"):
        return pd.read_parquet(path)
    header = pd.read_csv(path, sep=_separator(path), nrows=0).columns
    text = {column: str for column in header if str(column).startswith(METADATA_PREFIX)}
    return pd.read_csv(path, sep=_separator(path), dtype=text)


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Metadata as text, None where there is none; an empty text is none, too."""
    columns = {}
    for name in frame.columns:
        values = frame[name].astype(object)
        missing = values.isna()
        text = values.where(missing, values.map(str))
        columns[str(name)] = [None if gone or value == "" else value for gone, value in zip(missing, text, strict=True)]
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)), dtype=object)


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
