"""How one cell is stored in a shard: two compressed members and a record.

Chosen by measurement: bytes relative to upstream's way (one zstd-compressed uint16 array of all cells and the mask,
interleaved) and milliseconds to decode a cell, on one core, for four channels of 448 px, each plane for itself. Crops
of Human Protein Atlas fields as published, the same with camera noise added, and of a 16-bit Cell Painting field:

| codec | HPA, 8-bit | noisy HPA, 8-bit | Cell Painting, 16-bit |
| --- | --- | --- | --- |
| zstd alone | 0.63, 0.9 ms | 0.66, 1.3 ms | 0.82, 2.0 ms |
| **difference along rows, zstd** (chosen for 8 bits) | **0.51, 0.8 ms** | **0.55, 1.0 ms** | 0.71, 2.3 ms |
| bit shuffle, zstd (blosc2) | 0.61, 1.0 ms | 0.61, 1.0 ms | 0.70, 1.5 ms |
| **pcodec** (chosen for 16 bits and floats) | 0.56, 1.7 ms | 0.57, 1.6 ms | **0.61, 2.7 ms** |
| LERC with zstd | 0.54, 3.3 ms | 0.57, 3.9 ms | 0.69, 3.1 ms |
| HTJ2K | 0.48, 3.1 ms | 0.53, 3.4 ms | 0.57, 4.6 ms |
| PNG | 0.50, 6.4 ms | 0.56, 7.7 ms | 0.76, 16.9 ms |
| JPEG-LS | 0.44, 9.8 ms | 0.49, 12.6 ms | 0.54, 16.1 ms |
| JPEG XL, effort 1 | 0.49, 8.7 ms | 0.57, 8.5 ms | 0.58, 9.4 ms |
| JPEG XL, effort 2 | 0.44, 13.3 ms | 0.47, 10.7 ms | 0.55, 17.3 ms |
| WebP | 0.44, 5.6 ms | 0.49, 6.6 ms | 8 bits only |

What saves another tenth of the bytes takes two to twelve times as long to decode.

zstd works at level 1: of differences, level 3 makes 1 to 3 % more bytes in twice the time.

A mask is packed to bits and compressed with zstd: about 1 kB.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.storage.plain_files import parse_json

MASK_MEMBER = "mask.pzst"
"""Ending of the member that holds a cell's mask: `pzst`, packed bits and zstd. No library decodes members
with these endings by itself."""
RECORD_MEMBER = "json"
PIXELS_MEMBERS = {"uint8": "pixels.dzst", "uint16": "pixels.pco", "float32": "pixels.pco"}
"""dtype → ending of the member that holds the pixels: `dzst`, row differences and zstd; `pco`, pcodec."""

MAX_CELL_BYTES = 1 << 30
"""A record that announces more decoded bytes than this is refused before anything is allocated."""

_ZSTD_LEVEL = 1
_PCODEC_LEVEL = 8


@dataclass(frozen=True)
class CropFormat:
    """What all crops of a folder of shards have in common.

    Attributes:
        channels: Colour name of each plane, in the order stored.
        crop_size_px: Edge of a crop in pixels.
        dtype: `"uint8"`, `"uint16"` or `"float32"`.
        pixel_size_um: Edge of a pixel in micrometres.
    """

    channels: tuple[str, ...]
    crop_size_px: int
    dtype: str
    pixel_size_um: float

    def __post_init__(self) -> None:
        if self.dtype not in PIXELS_MEMBERS:
            raise InputError(f"Crops of dtype {self.dtype} cannot be stored: expected {', '.join(PIXELS_MEMBERS)}.")
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise InputError(f"Channels must have different names, got {', '.join(self.channels) or 'none'}.")
        if self.crop_size_px < 1 or self.cell_bytes > MAX_CELL_BYTES:
            raise InputError(
                f"A crop of {len(self.channels)} channels of {self.crop_size_px} px squared would "
                f"decode to {self.cell_bytes} bytes; expected between 1 and {MAX_CELL_BYTES}."
            )
        if not (np.isfinite(self.pixel_size_um) and self.pixel_size_um > 0):
            raise InputError(f"Pixel size must be a positive number of micrometres, got {self.pixel_size_um}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(channels, height, width)` of one crop."""
        return (len(self.channels), self.crop_size_px, self.crop_size_px)

    @property
    def cell_bytes(self) -> int:
        """Bytes of one decoded crop."""
        return len(self.channels) * self.crop_size_px**2 * np.dtype(self.dtype).itemsize

    @property
    def pixels_member(self) -> str:
        """Ending of the member that holds a cell's pixels."""
        return PIXELS_MEMBERS[self.dtype]

    def as_record(self) -> dict[str, Any]:
        """The four attributes as plain JSON values."""
        return {
            "channels": list(self.channels),
            "crop_size_px": self.crop_size_px,
            "dtype": self.dtype,
            "pixel_size_um": self.pixel_size_um,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "CropFormat":
        """Read back what `as_record` wrote.

        Raises:
            InputError: If an entry is missing, of the wrong type or out of range.
        """
        try:
            return cls(
                channels=tuple(str(name) for name in record["channels"]),
                crop_size_px=int(record["crop_size_px"]),
                dtype=str(record["dtype"]),
                pixel_size_um=float(record["pixel_size_um"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"No description of the crops ({error!r}): expected channels, crop_size_px, dtype and pixel_size_um."
            ) from error


def encode_pixels(pixels: npt.NDArray[Any]) -> bytes:
    """Compress one crop without loss.

    Args:
        pixels: `[channels, height, width]`, uint8, uint16 or float32.
    """
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint8:
        return bytes(imagecodecs.zstd_encode(imagecodecs.delta_encode(pixels, axis=-1).tobytes(), _ZSTD_LEVEL))
    return bytes(imagecodecs.pcodec_encode(pixels, level=_PCODEC_LEVEL))


def encode_mask(cell_mask: npt.NDArray[np.bool_]) -> bytes:
    """Compress one mask `[height, width]`, True inside the cell."""
    return bytes(imagecodecs.zstd_encode(np.packbits(cell_mask).tobytes(), _ZSTD_LEVEL))


def decode_pixels(member: bytes, out: npt.NDArray[Any]) -> None:
    """Decode one crop into an existing array, so that no member can use more memory than its crop has.

    Args:
        member: What `encode_pixels` made of a crop of the shape and dtype of `out`.
        out: `[channels, height, width]`, contiguous; overwritten.

    Raises:
        ValueError: If the member is damaged or holds a crop of another size.
    """
    try:
        if out.dtype == np.uint8:
            differences = np.empty_like(out)
            size = len(imagecodecs.zstd_decode(member, out=differences.reshape(-1).data))
            if size == out.size:
                imagecodecs.delta_decode(differences, axis=-1, out=out)
        else:
            size = imagecodecs.pcodec_decode(member, shape=out.shape, dtype=out.dtype, out=out).size
    except (imagecodecs.ZstdError, imagecodecs.PcodecError, ValueError) as error:
        raise ValueError(f"its pixels do not decode to {out.shape} {out.dtype}: {error}") from error
    if size != out.size:
        raise ValueError(f"its pixels decode to {size} values, expected {out.size} = {out.shape}")


def decode_mask(member: bytes, out: npt.NDArray[np.bool_]) -> None:
    """Decode one mask into an existing array.

    Args:
        member: What `encode_mask` made of a mask of the shape of `out`.
        out: `[height, width]`; overwritten.

    Raises:
        ValueError: If the member is damaged or holds a mask of another size.
    """
    packed = np.empty(-(-out.size // 8), np.uint8)
    try:
        size = len(imagecodecs.zstd_decode(member, out=packed.data))
    except (imagecodecs.ZstdError, ValueError) as error:
        raise ValueError(f"its mask does not decode to {out.shape}: {error}") from error
    if size != packed.size:
        raise ValueError(f"its mask decodes to {size} bytes, expected {packed.size} for {out.shape}")
    out[...] = np.unpackbits(packed, count=out.size).reshape(out.shape).view(np.bool_)


def decode_sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Decode one sample as the webdataset library reads it: `WebDataset(urls).map(decode_sample)`.

    Members other than the three that shards hold are refused, so nothing is ever unpickled.

    Args:
        sample: Member ending → bytes, beside webdataset's own entries, which begin with `__`.

    Returns:
        `cell_id`, `pixels [channels, height, width]`, `cell_mask [height, width]` bool, `record` (everything known of
        the cell) and `__key__`.

    Raises:
        InputError: If a member is missing, unknown, damaged or announces an absurd size.
    """
    key = sample.get("__key__", "?")
    members = {name for name in sample if not name.startswith("__")}
    try:
        if RECORD_MEMBER not in members:
            raise ValueError(f"member {RECORD_MEMBER} is missing, got {', '.join(sorted(members)) or 'none'}")
        record = parse_json(sample[RECORD_MEMBER], RECORD_MEMBER)
        crop_format = CropFormat.from_record(record["format"])
        expected = {MASK_MEMBER, RECORD_MEMBER, crop_format.pixels_member}
        if members != expected:
            raise ValueError(f"its members are {', '.join(sorted(members))}, expected {', '.join(sorted(expected))}")
        cell_id = str(record["cell_id"])
        pixels = np.empty(crop_format.shape, crop_format.dtype)
        cell_mask = np.empty(crop_format.shape[1:], np.bool_)
        decode_pixels(sample[crop_format.pixels_member], pixels)
        decode_mask(sample[MASK_MEMBER], cell_mask)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"Sample {key} cannot be read: {error}. Write the shards again with `subcell shards`."
        ) from error
    return {"__key__": key, "cell_id": cell_id, "pixels": pixels, "cell_mask": cell_mask, "record": record}
