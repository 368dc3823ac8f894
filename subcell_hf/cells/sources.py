"""Where shards get their crops from: a folder of crops, or images that are cropped on the way."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from subcell_hf.cells.custom_segmentation import describe_segmentation
from subcell_hf.cells.folder import TABLE_FILE, read_crops_json, read_field_crops
from subcell_hf.cells.partners.h5sc import H5SC_SUFFIX, H5scCrops
from subcell_hf.cells.segmentation import segment_cells
from subcell_hf.cells.single_cells import CropSettings, crop_field
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldSource, FoundFields, ReadingOptions, list_fields, size_and_time
from subcell_hf.images.folder_contents import CROPS_FILE
from subcell_hf.shards.jobs import CropSource, ListedCrops
from subcell_hf.storage.parquet_files import read_parquet_file
from subcell_hf.types import FieldCrops


@dataclass(frozen=True)
class CroppedFields:
    """What `subcell crops` has written.

    Attributes:
        folder: The folder of crops.
    """

    folder: Path

    @cached_property
    def _table(self) -> pa.Table:
        read_crops_json(self.folder)  # Refuses a folder that is not finished.
        return read_parquet_file(self.folder / TABLE_FILE)

    @cached_property
    def _rows(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Positions in the table by field of view."""
        names = self._table["field_of_view"].to_numpy(zero_copy_only=False).astype(str)
        order = np.argsort(names, kind="stable")
        fields, starts = np.unique(names[order], return_index=True)
        ends = [*starts[1:], len(order)]  # no field at all is a case too
        return {field: order[start:end] for field, start, end in zip(fields.tolist(), starts, ends, strict=False)}

    @cached_property
    def _facts(self) -> Mapping[str, Any]:
        return read_crops_json(self.folder)

    def fields(self) -> list[ListedCrops]:
        """Every field of view that has cells, with what is known of its first one."""
        firsts = self._table.take(pa.array([rows[0] for rows in self._rows.values()], pa.int64())).to_pylist()
        return [
            ListedCrops(name, {key: str(value) for key, value in row.items() if value is not None})
            for name, row in zip(self._rows, firsts, strict=True)
        ]

    def read(self, name: str) -> FieldCrops:
        """The crops of one field.

        Raises:
            ValueError: If its file is damaged or does not fit the table.
        """
        rows = self._table.take(pa.array(self._rows[name])).to_pylist()
        return read_field_crops(self.folder, rows, self._facts)

    def fingerprint(self) -> str:
        """Checksum of the table of crops and of how they were made."""
        facts = [self._facts[name] for name in ("settings", "channels", "dtype")]
        table = hashlib.sha256((self.folder / TABLE_FILE).read_bytes()).hexdigest()
        return table + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ImageFields:
    """Fields of view whose images are segmented where needed and cropped when they are read.

    Attributes:
        source: Folder of images, table or image; see `find_fields`.
        reading: How to read the images.
        settings: How to crop.
        segmentation: How to find cells in fields that have no mask.
    """

    source: Path
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    settings: CropSettings = field(default_factory=CropSettings)
    segmentation: str = "watershed"

    @cached_property
    def _listed(self) -> FoundFields:
        return list_fields(self.source, self.reading)

    @cached_property
    def _found(self) -> Mapping[str, FieldSource]:
        return {item.name: item for item in self._listed.fields}

    def unused(self) -> Mapping[str, str]:
        """Images that belong to no field, with the reason."""
        return self._listed.unused

    def fields(self) -> list[ListedCrops]:
        """Every field of view, without reading pixels."""
        return [ListedCrops(name, item.metadata) for name, item in self._found.items()]

    def read(self, name: str) -> FieldCrops:
        """Read, segment and crop one field.

        Raises:
            FieldError: If anything about it is wrong.
        """
        image = self._found[name].read()
        if image.label_mask is None:
            image = replace(image, label_mask=segment_cells(image, self.segmentation, trusted=self.reading.trust_masks))
        return crop_field(image, self.settings)

    def fingerprint(self) -> str:
        """Changes with the settings and with name, size or time of any image."""
        files = [(str(path), *size_and_time(path)) for item in self._found.values() for path in item.files]
        facts = [files, asdict(self.settings), self.reading.facts(), describe_segmentation(self.segmentation)]
        metadata = {name: dict(item.metadata) for name, item in self._found.items()}
        return hashlib.sha256(json.dumps([*facts, metadata], sort_keys=True, default=str).encode()).hexdigest()


def h5sc_source(path: Path, reading: ReadingOptions) -> H5scCrops:
    """Cells of a `.h5sc` file of scPortrait.

    Args:
        path: The file.
        reading: Its pixel size and channel mapping; nothing else applies to such a file.

    Raises:
        InputError: If the pixel size is missing, or another option is given.
    """
    used = ReadingOptions(pixel_size_um=reading.pixel_size_um, channel_mapping=reading.channel_mapping)
    others = [name for name, value in asdict(reading).items() if value != asdict(used)[name]]
    if others:
        raise InputError(
            f"{path} holds single cells: only the pixel size and the channel mapping apply to it, not "
            f"{', '.join(name.replace('_', ' ') for name in others)}. Leave the other options out."
        )
    size_um = reading.pixel_size_um
    if size_um is None:
        size_um = H5scCrops(path, 0).stated_pixel_size_um()
    if size_um is None:
        raise InputError(f"{path} does not say how large a pixel is. Give the pixel size (--pixel-size-um).")
    return H5scCrops(path, size_um, reading.channel_mapping)


def crop_source(path: Path, images: ImageFields | None = None) -> CropSource:
    """What a path holds: a folder of crops, scPortrait's cells, or images.

    Args:
        path: Folder of crops, `.h5sc` file, or whatever `find_fields` takes.
        images: How to read and crop images; its `source` is replaced.

    Raises:
        InputError: If the path holds crops and something is said about images.
    """
    if path.suffix.lower() == H5SC_SUFFIX:
        return h5sc_source(path, ReadingOptions() if images is None else images.reading)
    if not (path / CROPS_FILE).is_file():
        return replace(images or ImageFields(path), source=path)
    if images is not None and replace(images, source=path) != ImageFields(path):
        raise InputError(
            f"{path} holds crops, which are made already: channels, pixel size, metadata and segmentation can only be "
            "chosen where images are given. Leave them out, or run `subcell crops` again with them."
        )
    return CroppedFields(path)
