"""One shard: a tar file whose bytes depend on nothing but the cells in it."""

import hashlib
import io
import json
import math
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.shards.cell_table import TAR_BLOCK_BYTES, location_targets
from subcell_hf.shards.codec import MASK_MEMBER, RECORD_MEMBER, CropFormat, encode_mask, encode_pixels
from subcell_hf.types import FieldCrops

MIN_PART_CELLS = 8
"""Cells in a part, at least, unless the antibody has fewer."""


@dataclass(frozen=True)
class EncodedCell:
    """One cell ready to be written.

    Attributes:
        record: Everything known of the cell, plain JSON values.
        mask: The compressed mask.
        pixels: The compressed crop.
    """

    record: Mapping[str, Any]
    mask: bytes
    pixels: bytes


class ShardWriter:
    """Appends cells to a tar file; headers carry no time, owner or host, so equal cells give equal bytes.

    Args:
        file: Open binary file, at its beginning.
        crop_format: What all crops have in common; written into every cell's record, so that a shard explains itself.
    """

    def __init__(self, file: BinaryIO, crop_format: CropFormat) -> None:
        self.file = file
        self.crop_format = crop_format
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    def add(self, key: str, cell: EncodedCell) -> dict[str, int]:
        """Append the three members of one cell: mask, pixels, record.

        Returns:
            The cell's place: `offset`, `mask_bytes`, `pixels_bytes` and `crc32`, as `CellTable` has them.
        """
        record = json.dumps(
            {**cell.record, "format": self.crop_format.as_record()}, ensure_ascii=False, sort_keys=True
        ).encode()
        mask = _member(f"{key}.{MASK_MEMBER}", cell.mask)
        pixels = _member(f"{key}.{self.crop_format.pixels_member}", cell.pixels)
        offset = self.size_bytes + TAR_BLOCK_BYTES
        self._write(mask + pixels + _member(f"{key}.{RECORD_MEMBER}", record))
        span = (mask + pixels)[TAR_BLOCK_BYTES : len(mask) + TAR_BLOCK_BYTES + len(cell.pixels)]
        return {
            "offset": offset,
            "mask_bytes": len(cell.mask),
            "pixels_bytes": len(cell.pixels),
            "crc32": zlib.crc32(span),
        }

    def finish(self) -> tuple[int, str]:
        """Write the end of the archive.

        Returns:
            Size of the file in bytes and its sha256, hexadecimal.
        """
        self._write(bytes(2 * TAR_BLOCK_BYTES))
        return self.size_bytes, self._hash.hexdigest()

    def _write(self, content: bytes) -> None:
        self.file.write(content)
        self._hash.update(content)
        self.size_bytes += len(content)


def cell_key(shard: int, part: int, position: int) -> str:
    """Name of a sample in a tar file: number of the shard, of the part in it and of the cell in that."""
    return f"{shard:06d}-{part:05d}-{position:03d}"


def _member(name: str, content: bytes) -> bytes:
    """A tar header, the content and the padding."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = 0o644
    buffer = io.BytesIO()
    buffer.write(header.tobuf(tarfile.USTAR_FORMAT))
    buffer.write(content)
    buffer.write(bytes(-len(content) % TAR_BLOCK_BYTES))
    return buffer.getvalue()


def encode_field(
    crops: FieldCrops, antibody: str, crop_format: CropFormat, classes: Sequence[str]
) -> list[EncodedCell]:
    """Compress the cells of one field.

    Args:
        crops: The field's crops.
        antibody: The field's antibody.
        crop_format: What all crops of these shards have in common.
        classes: Names of the locations.

    Returns:
        The cells in the order of `crops`, channels in the order of the format.

    Raises:
        InputError: If the field differs from the format, a cell id occurs twice, or a location is unknown.
    """
    _check_format(crops, crop_format)
    order: slice | list[int] = slice(None)  # makes no copy
    if crops.channels != crop_format.channels:
        order = [crops.channels.index(channel) for channel in crop_format.channels]
    ids = [str(record["cell_id"]) for record in crops.cells]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise InputError(f"cell ids occur twice: {', '.join(twice)}; every cell needs a unique id")
    encoded = []
    for record, pixels, mask in zip(crops.cells, crops.pixels, crops.cell_masks, strict=True):
        plain = {key: _plain(value) for key, value in record.items()}
        if str(plain.get("antibody", antibody)) != antibody:
            raise InputError(
                f"cell {plain['cell_id']} has antibody {plain['antibody']}, expected the field's, {antibody}"
            )
        location_targets(str(plain.get("locations") or ""), classes)
        plain |= {"antibody": antibody, "field_of_view": crops.field_of_view}
        encoded.append(EncodedCell(plain, encode_mask(mask), encode_pixels(pixels[order])))
    return encoded


def format_of(crops: FieldCrops) -> CropFormat:
    """What the crops of a field have in common.

    Raises:
        InputError: If they are no squares, or of a dtype that shards cannot hold.
    """
    _, _, height, width = crops.pixels.shape
    if height != width:
        raise InputError(f"its crops are {height} by {width} px, expected squares")
    return CropFormat(tuple(crops.channels), height, str(crops.pixels.dtype), crops.pixel_size_um)


def deal_parts(cells: Sequence[EncodedCell]) -> list[Sequence[EncodedCell]]:
    """Deal an antibody's cells, sorted by field, in turn into parts of at least `MIN_PART_CELLS`.

    Every part so gets the same number of cells, give or take one, of each field of view.
    """
    count = max(1, len(cells) // MIN_PART_CELLS)
    return [cells[start::count] for start in range(count)] if cells else []


def _check_format(crops: FieldCrops, expected: CropFormat) -> None:
    missing = [channel for channel in expected.channels if channel not in crops.channels]
    if missing:
        raise InputError(
            f"its channels are {', '.join(crops.channels)}, expected {', '.join(expected.channels)} as in the other "
            f"fields; supply {', '.join(missing)}, or write it to separate shards"
        )
    found = format_of(crops)
    same_pixel_size = abs(found.pixel_size_um / expected.pixel_size_um - 1) < 1e-6
    if (found.crop_size_px, found.dtype) != (expected.crop_size_px, expected.dtype) or not same_pixel_size:
        raise InputError(
            f"its crops are {found.crop_size_px} px of {found.pixel_size_um} um, {found.dtype}, expected "
            f"{expected.crop_size_px} px of {expected.pixel_size_um} um, {expected.dtype} as in the other fields; "
            "crop it with the same settings, or write it to separate shards"
        )


def _plain(value: Any) -> Any:
    """A value that JSON can hold: numpy's numbers become Python's, NaN becomes None, anything odd becomes text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
