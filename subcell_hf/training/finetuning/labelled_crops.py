"""Single-cell crops with custom labels: from shards, a CSV of crop files, or a folder of the datasets library.

| source | pixels | labels | splits |
| --- | --- | --- | --- |
| shards | their cells, with masks | their locations | of the index |
| a CSV | images in column `file`; `mask` | column `labels` (joined by `;`) or `label` | column `split` |
| a saved dataset | `pixels` `[channels, height, width]`; `cell_mask` | `labels` or `label` | its own |

A crop without a label, `-1` or null in a dataset, an empty cell of `label`, is left out of training and counted.

A CSV, or a dataset, without splits is split at random, so that the cells of one group (an antibody, a plate, an image)
stay together.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError, counted
from subcell_hf.images.files import read_image
from subcell_hf.images.planes import channel_stack, label_plane
from subcell_hf.images.tables import read_table
from subcell_hf.shards.index import INDEX_FILE
from subcell_hf.shards.reader import ShardReader

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Labels = tuple[str, ...] | None

UNLABELLED = -1
"""What the datasets library, and tables after its example, have for a label that nobody has given."""


class LabelledCrops(Protocol):
    """Crops that can be read one at a time, in any process."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of each plane."""

    @property
    def pixel_size_um(self) -> float | None:
        """Edge of a pixel in micrometres; None where nobody knows."""

    @property
    def labels(self) -> Sequence[Labels]:
        """The labels of every crop; None where nobody has labelled it."""

    @property
    def splits(self) -> Sequence[str]:
        """The split of every crop; empty where there are none."""

    @property
    def groups(self) -> Sequence[str]:
        """What every crop belongs to; those of one group stay in one split."""

    def read(self, row: int) -> tuple[Pixels, Mask | None]:
        """Pixels `[channels, height, width]` and cell mask `[height, width]`, True inside."""


@dataclass(frozen=True)
class ShardCrops:
    """The cells of shards, labelled with their locations."""

    reader: ShardReader
    channels: tuple[str, ...] = field(init=False)
    pixel_size_um: float | None = field(init=False)
    labels: Sequence[Labels] = field(init=False)
    splits: Sequence[str] = field(init=False)
    groups: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        index, cells = self.reader.index, self.reader.cells
        sets = [tuple(name for name, has in zip(index.classes, row, strict=True) if has) for row in cells.location_sets]
        split_of = {antibody: split for split, antibodies in index.splits.items() for antibody in antibodies}
        antibodies = [index.antibodies[number] for number in cells.antibody]
        form = index.crop_format
        for name, value in {
            "channels": tuple(form.channels),
            "pixel_size_um": float(form.pixel_size_um),
            "labels": [sets[number] or None for number in cells.location_set],
            "splits": [split_of.get(antibody, "") for antibody in antibodies] if split_of else [],
            "groups": antibodies,
        }.items():
            object.__setattr__(self, name, value)

    def read(self, row: int) -> tuple[Pixels, Mask | None]:
        """One cell."""
        pixels, masks = self.reader.read(np.array([row]))
        return pixels[0], masks[0]


@dataclass(frozen=True)
class FileCrops:
    """Crops in separate files, one per row of a CSV."""

    files: Sequence[Path]
    masks: Sequence[Path | None]
    channels: tuple[str, ...]
    pixel_size_um: float | None
    labels: Sequence[Labels]
    splits: Sequence[str]
    groups: Sequence[str]

    def read(self, row: int) -> tuple[Pixels, Mask | None]:
        """One file, and its mask where it has one."""
        pixels = channel_stack(read_image(self.files[row]), named_channels=len(self.channels))
        if len(pixels) != len(self.channels):
            raise InputError(
                f"{self.files[row]} has {counted(len(pixels), 'plane')}; expected {len(self.channels)}: "
                f"{', '.join(self.channels)}. Name the planes with --channel_names."
            )
        path = self.masks[row]
        if path is None:
            return pixels, None
        mask = label_plane(read_image(path), pixels.shape[1:], str(path)) > 0
        if mask.shape != pixels.shape[1:]:
            raise InputError(f"{path} is {mask.shape}; expected the shape of {self.files[row]}, {pixels.shape[1:]}.")
        return pixels, mask


@dataclass(frozen=True)
class DatasetCrops:
    """Rows of a dataset of the datasets library."""

    rows: Any
    channels: tuple[str, ...]
    pixel_size_um: float | None
    labels: Sequence[Labels]
    splits: Sequence[str]
    groups: Sequence[str]

    def read(self, row: int) -> tuple[Pixels, Mask | None]:
        """One row."""
        record = self.rows[row]
        pixels = np.asarray(record["pixels"])
        if pixels.ndim != 3 or len(pixels) != len(self.channels):
            raise InputError(
                f"Row {row} has pixels of shape {pixels.shape}; expected [{len(self.channels)}, height, width] with "
                f"the channels {', '.join(self.channels)}. Name the planes with --channel_names."
            )
        mask = record.get("cell_mask")
        return pixels, None if mask is None else np.asarray(mask) > 0


def open_crops(
    source: str, channel_names: Sequence[str] = (), pixel_size_um: float | None = None, group_column: str | None = None
) -> LabelledCrops:
    """Open labelled crops, whatever they are kept in.

    Args:
        source: Folder or URL of shards, a CSV file, or a folder that `Dataset.save_to_disk` wrote.
        channel_names: Names of the planes; shards name their own.
        pixel_size_um: Edge of a pixel in micrometres, where known; shards know their own.
        group_column: Column of what belongs together; None for `antibody`, `gene` or `field_of_view`, whichever is
            there first. Cells of shards go by antibody.

    Raises:
        InputError: If there is nothing of the kind, or columns or names are missing.
    """
    path = Path(source)
    if path.suffix.lower() == ".csv":
        return _open_table(path, channel_names, pixel_size_um, group_column)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _open_dataset(path, channel_names, pixel_size_um, group_column)
    if "://" in source or (path / INDEX_FILE).is_file():
        if channel_names or pixel_size_um or group_column:
            raise InputError(
                f"{source} holds shards, which say channels, pixel size and antibodies themselves: leave out "
                "channel_names, pixel_size_um and group_column."
            )
        return ShardCrops(ShardReader(source))
    raise InputError(
        f"data is {source}: expected a folder of shards (with {INDEX_FILE}), a .csv file with a column `file`, or a "
        "folder that Dataset.save_to_disk wrote."
    )


def with_random_splits(crops: LabelledCrops, validation_fraction: float, seed: int) -> list[str]:
    """The splits of crops: their own, or `train` and `validation` at random, whole groups together.

    Args:
        crops: With or without splits.
        validation_fraction: Share of the groups that validate.
        seed: Of the choice; the same group goes to the same split whatever the others are.

    Returns:
        Name of the split of each crop.

    Raises:
        InputError: If the fraction is not between 0 and 1.
    """
    if crops.splits:
        return list(crops.splits)
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction is {validation_fraction}: expected a share between 0 and 1.")

    def share(group: str) -> float:
        return int(hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()[:12], 16) / 16**12

    labelled = {group for group, labels in zip(crops.groups, crops.labels, strict=True) if labels is not None}
    ordered = sorted(labelled, key=share)
    validating = set(ordered[: max(1, round(validation_fraction * len(ordered)))])
    return ["validation" if group in validating else "train" for group in crops.groups]


def _open_table(path: Path, names: Sequence[str], pixel_size_um: float | None, group_column: str | None) -> FileCrops:
    rows = read_table(path)
    columns = set(rows[0]) if rows else set()
    _require_names(names, str(path))
    if "file" not in columns or not columns & {"label", "labels"}:
        raise InputError(
            f"{path} has the columns {', '.join(sorted(columns)) or 'none'}; expected `file` and `label` or `labels`."
        )
    files = [path.parent / row["file"] for row in rows]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise InputError(f"{path} lists {counted(len(missing), 'file')} that cannot be found, first {missing[0]}.")
    return FileCrops(
        files=files,
        masks=[path.parent / row["mask"] if row.get("mask") else None for row in rows],
        channels=tuple(names),
        pixel_size_um=pixel_size_um,
        labels=_labels_of_table(rows),
        splits=[row["split"] for row in rows] if "split" in columns else [],
        groups=_groups([dict(row) for row in rows], group_column, str(path)),
    )


def _open_dataset(
    path: Path, names: Sequence[str], pixel_size_um: float | None, group_column: str | None
) -> DatasetCrops:
    from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets, load_from_disk

    _require_names(names, str(path))
    loaded = load_from_disk(str(path))
    parts: dict[str, Dataset] = dict(loaded) if isinstance(loaded, DatasetDict) else {"": loaded}
    rows = concatenate_datasets(list(parts.values())).with_format("numpy")
    column = next((name for name in ("labels", "label") if name in rows.column_names), None)
    if "pixels" not in rows.column_names or column is None:
        raise InputError(
            f"{path} has the columns {', '.join(rows.column_names)}; expected `pixels` [channels, height, width] and "
            "`label` or `labels`."
        )
    plain = rows.with_format(None)
    kind = getattr(rows.features[column], "feature", rows.features[column])
    labels = _labels_of_dataset(list(plain[column]), kind.int2str if isinstance(kind, ClassLabel) else str)
    others = [name for name in rows.column_names if name not in ("pixels", "cell_mask")]
    splits = (
        [split for split, part in parts.items() for _ in range(len(part))] if isinstance(loaded, DatasetDict) else []
    )
    groups = _groups([dict(row) for row in plain.select_columns(others)], group_column, str(path))
    return DatasetCrops(rows, tuple(names), pixel_size_um, labels, splits, groups)


def _labels_of_table(rows: Sequence[dict[str, str]]) -> list[Labels]:
    """Labels of a CSV: an empty cell of `label` is none at all, one of `labels` says that no class fits."""
    texts = [row.get("labels", row.get("label", "")) for row in rows]
    labels = [tuple(name.strip() for name in text.split(";") if name.strip()) for text in texts]
    names = {name for row in labels for name in row}
    # Beside classes that are numbers, -1 is how numbers say that there is none.
    absent = {str(UNLABELLED)} if all(re.fullmatch(r"-?\d+", name) for name in names) else set()
    several = bool(rows) and "labels" in rows[0]
    return [_given(tuple(n for n in row if n not in absent), was_empty=several and not row) for row in labels]


def _labels_of_dataset(values: Sequence[Any], name_of: Callable[[Any], str]) -> list[Labels]:
    """Labels of a dataset: None, -1, NaN and empty texts are none at all, an empty list says that no class fits."""

    def is_given(item: Any) -> bool:
        is_number = isinstance(item, int | float) and not isinstance(item, bool)
        return not (item is None or item == "" or (is_number and (item != item or item == UNLABELLED)))

    return [
        _given(tuple(name_of(item) for item in value if is_given(item)), was_empty=not value)
        if isinstance(value, list)
        else ((name_of(value),) if is_given(value) else None)
        for value in values
    ]


def _given(names: tuple[str, ...], *, was_empty: bool) -> Labels:
    return names if names or was_empty else None


def _groups(rows: Sequence[dict[str, Any]], wanted: str | None, where: str) -> list[str]:
    columns = set(rows[0]) if rows else set()
    if wanted is not None and wanted not in columns:
        raise InputError(f"{where} has no column {wanted!r} (group_column); it has {', '.join(sorted(columns))}.")
    column = wanted or next((name for name in ("antibody", "gene", "field_of_view") if name in columns), None)
    return [str(row[column]) if column else str(number) for number, row in enumerate(rows)]


def _require_names(names: Sequence[str], where: str) -> None:
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"{where} does not name the channels of its crops, and channel_names is {list(names) or 'not set'}: "
            "give a different name for each plane, such as --channel_names red yellow blue green."
        )


def only_split(splits: Sequence[str], wanted: str) -> npt.NDArray[np.int64]:
    """Rows of one split.

    Args:
        splits: Split of each crop.
        wanted: Name of the split.

    Returns:
        int64 [rows of the split].

    Raises:
        InputError: If there is none.
    """
    rows = np.array([row for row, split in enumerate(splits) if split == wanted], dtype=np.int64)
    if not len(rows):
        known = ", ".join(sorted(set(splits) - {""})) or "none"
        raise InputError(f"No crop is in the split {wanted!r}; available splits: {known}.")
    return rows
