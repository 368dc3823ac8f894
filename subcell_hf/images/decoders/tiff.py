"""TIFF, BigTIFF, OME-TIFF and ImageJ's TIFF → arrays: one image of the file, and which images it holds."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from subcell_hf.images.decoders.file_metadata import (
    ImageMetadata,
    OmeImage,
    WellSample,
    metadata_from_imagej,
    read_ome_xml,
)
from subcell_hf.images.decoders.image import (
    FieldError,
    Image,
    ImageHeader,
    check_size,
    refuse_orientation,
    without_alpha,
)
from subcell_hf.images.decoders.instrument_tags import metadata_from_page

_MOST_PAGES = 20_000
"""A small file can list millions of pages, each of which would take memory."""

_MOST_TAGS = 4096

_SIDE_IMAGES = frozenset({"thumbnail", "label", "label image", "macro", "macro image", "overview", "preview"})
"""What Bio-Formats and makers of scanners call images that are no field of view."""

_JPEG = 7
_RAMP_TOLERANCE = 257
"""One step of 8 bits on a palette's scale of 16 bits: some writers store i * 256, others i * 257."""


@dataclass(frozen=True)
class Position:
    """One image of a file that may be a field of view.

    Attributes:
        number: Which image of the file.
        problem: Why it is not read, where it is known beforehand.
        sample: Where on a plate it was taken, where OME-XML says it.
        times: How many time points it has.
        channels: How many channels.
    """

    number: int
    problem: str | None = None
    sample: WellSample | None = None
    times: int = 1
    channels: int = 1


def tiff_positions(stream: BinaryIO, path: Path) -> list[Position]:
    """The images of a TIFF that may be fields of view; thumbnails, labels and levels of pyramids are none.

    Raises:
        FieldError: If the file holds too many pages.
        Exception: Whatever tifffile raises for a damaged file.
    """
    _check_pages(stream, path)
    with _open_tiff(stream) as tiff:
        all_series = _checked_series(tiff, path)
        positions = _positions(all_series)
        images = read_ome_xml(tiff.ome_metadata or "", _MOST_PAGES) if tiff.is_ome else []
        if len(images) != len(all_series):  # without some images' pixels, nobody can tell which is which
            return positions
        return [replace(position, sample=images[position.number].sample) for position in positions]


def decode_tiff(
    stream: BinaryIO, path: Path, max_decoded_bytes: int, position: int | None = None, time: int | None = None
) -> Image:
    """Decode one image of a TIFF.

    Args:
        stream: The file's content. It must have no `fileno`, for tifffile would look for further files beside it.
        path: For messages.
        max_decoded_bytes: The limit.
        position: Which image of the file; None demands that there is only one.
        time: Which time point of the image; only its pages are decoded. None decodes all.

    Raises:
        FieldError: If the image is not one of intensities or labels, not whole, too large, or one of several.
        Exception: Whatever tifffile raises for a damaged file.
    """
    _check_pages(stream, path)
    with _open_tiff(stream) as tiff:
        all_series = _checked_series(tiff, path)
        number = _only_position(all_series, path) if position is None else position
        if number >= len(all_series):
            raise FieldError(f"{path} holds {len(all_series)} images, asked for number {number}: it was changed.")
        series = all_series[number]
        if series.dtype is None:
            raise FieldError(f"{path} has values of a kind that cannot be read, expected whole or real numbers.")
        shape, axes = tuple(series.shape), str(series.axes)
        numbers = None if time is None else _pages_of_time(series, time)
        if numbers is not None:
            place = axes.index("T")
            shape, axes = shape[:place] + shape[place + 1 :], axes.replace("T", "")
        check_size(path, shape, series.dtype, max_decoded_bytes)
        pages = _whole_pages(tiff, series, path, numbers)
        metadata = _metadata(tiff, all_series, number, path)
        if numbers is None:
            pixels = series.asarray(maxworkers=1)
        else:
            pixels = np.stack([page.asarray(maxworkers=1) for page in pages]).reshape(shape)
        if pixels.shape != shape:
            raise FieldError(
                f"{path} is truncated or corrupt: it holds an image of shape {pixels.shape}, its metadata announce "
                f"{shape}. Copy or export the file again."
            )
        if time is not None and numbers is None:
            pixels, axes = np.take(pixels, time, axis=axes.index("T")), axes.replace("T", "")
        pixels, axes = _sort_samples(pixels, axes, pages[0], path)
        return Image(path, pixels, axes, metadata, has_palette=any(not has_plain_numbers(page) for page in pages))


def tiff_header(stream: BinaryIO, path: Path, position: int | None = None, page: int | None = None) -> ImageHeader:
    """What a TIFF says of one of its images, or of one page; arguments and errors as `decode_tiff` has them."""
    _check_pages(stream, path)
    with _open_tiff(stream) as tiff:
        if page is not None:
            described = _page(tiff, path, page, position)
            metadata = metadata_from_page(described, path)
        else:
            all_series = _checked_series(tiff, path)
            number = _only_position(all_series, path) if position is None else position
            described, metadata = all_series[number], _metadata(tiff, all_series, number, path)
        return ImageHeader(tuple(described.shape), described.axes.replace("I", "Q"), metadata)


def decode_tiff_page(
    stream: BinaryIO, path: Path, max_decoded_bytes: int, number: int, position: int | None = None
) -> Image:
    """Decode one page of a TIFF, whatever the file's own metadata say of images.

    Args:
        stream: As `decode_tiff` takes it.
        path: For messages.
        max_decoded_bytes: The limit.
        number: Of the page, from 0.
        position: Which image of the file the page is counted in; None: all pages of the file count.

    Raises:
        FieldError: If the page is not there, not whole, too large, or not one of intensities or labels.
        Exception: Whatever tifffile raises for a damaged file.
    """
    _check_pages(stream, path)
    with tifffile.TiffFile(stream) as tiff:
        page = _page(tiff, path, number, position)
        _check_page(page, tiff.filehandle.size, path)
        check_size(path, page.shape, page.dtype, max_decoded_bytes)
        pixels, axes = _sort_samples(page.asarray(maxworkers=1), page.axes, page, path)
        return Image(path, pixels, axes, metadata_from_page(page, path), has_palette=not has_plain_numbers(page))


def _page(tiff: tifffile.TiffFile, path: Path, number: int, position: int | None) -> Any:
    """One page with its own tags, of the whole file or of one of its images."""
    pages: Any = tiff.pages
    if position is not None:
        all_series = _checked_series(tiff, path)
        pages = all_series[position].pages if position < len(all_series) else ()
    if number >= len(pages):
        raise FieldError(
            f"{path} has {len(pages)} planes{'' if position is None else f' in its image {position}'}, and its "
            f"metadata elsewhere announce plane {number}, counted from 0. Copy or export the file again."
        )
    page = pages[number]
    return page if isinstance(page, tifffile.TiffPage) else page.aspage()


def _pages_of_time(series: Any, time: int) -> list[int] | None:
    """Which pages hold a time point; None where pages are not listed one by one, as in large files of ImageJ."""
    outer = tuple(series.shape)[: len(series.shape) - len(series.keyframe.shape)]
    place = series.axes.index("T")
    if place >= len(outer) or len(series.pages) != math.prod(outer):
        return None
    numbers = np.arange(math.prod(outer)).reshape(outer)
    return [int(number) for number in np.take(numbers, time, axis=place).ravel()]


def _open_tiff(stream: BinaryIO) -> tifffile.TiffFile:
    """Open a TIFF; planes that were written one after the other are pages of one image."""
    tiff = tifffile.TiffFile(stream)
    if tiff.is_shaped:
        shapes = {tuple(series.shape) for series in tiff.series}
        if len(tiff.series) > 1 and len(shapes) == 1 and len(shapes.pop()) == 2:
            stream.seek(0)  # each call of tifffile's `TiffWriter.write` begins a series of its own
            return tifffile.TiffFile(stream, is_shaped=False)
    return tiff


def _checked_series(tiff: tifffile.TiffFile, path: Path) -> Sequence[Any]:
    """All images of a file whose metadata announce no more than a file can hold."""
    if tiff.is_ome:
        read_ome_xml(tiff.ome_metadata or "", _MOST_PAGES)
    series: Sequence[Any] = tiff.series
    if not series:
        raise FieldError(f"{path} is a truncated or corrupt TIFF: it has no image. Copy or export the file again.")
    return series


def _check_pages(stream: BinaryIO, path: Path) -> None:
    """Follow the chain of pages, which tifffile follows to any length, and silently where it is cut."""
    header = stream.read(16)
    order = "<" if header.startswith(b"II") else ">"
    is_big = b"+" in header[2:4]
    count, offset_format, tag_bytes = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    (offset,) = struct.unpack_from(order + offset_format, header, 8 if is_big else 4)
    pages: set[int] = set()
    while offset:
        if len(pages) == _MOST_PAGES:
            raise FieldError(f"{path} has more than {_MOST_PAGES:,} pages, which is too many. Split the file.")
        stream.seek(offset)
        start = stream.read(struct.calcsize(order + count))
        tags = int.from_bytes(start, "little" if order == "<" else "big")
        page_bytes = min(tags, _MOST_TAGS) * tag_bytes + struct.calcsize(order + offset_format)
        page = stream.read(page_bytes)
        if offset in pages or not 0 < tags <= _MOST_TAGS or len(page) < page_bytes:
            raise FieldError(
                f"{path} is a truncated or corrupt TIFF: no page {len(pages) + 1} lies at byte {offset:,}, where it "
                "should. Copy or export the file again."
            )
        pages.add(offset)
        (offset,) = struct.unpack_from(order + offset_format, page, tags * tag_bytes)
    stream.seek(0)


def _positions(all_series: Sequence[Any]) -> list[Position]:
    fields = [number for number, series in enumerate(all_series) if not _is_side_image(series)] or [0]
    sizes = {number: _size(all_series[number]) for number in fields}
    largest = max(sizes.values(), key=math.prod)
    return [
        Position(
            number,
            _thumbnail_problem(size, largest) if 2 * max(size) <= max(largest) else None,
            times=_length(all_series[number], "T"),
            channels=_length(all_series[number], "C"),
        )
        for number, size in sizes.items()
    ]


def _is_side_image(series: Any) -> bool:
    is_marked = series.keyframe.is_reduced or series.keyframe.is_mask
    return bool(is_marked) or str(series.name).strip().lower() in _SIDE_IMAGES


def _size(series: Any) -> tuple[int, int]:
    """Height and width."""
    return _length(series, "Y"), _length(series, "X")


def _length(series: Any, axis: str) -> int:
    return int(dict(zip(series.axes, series.shape, strict=True)).get(axis, 1))


def _thumbnail_problem(size: tuple[int, int], largest: tuple[int, int]) -> str:
    return (
        f"it is {size[0]} x {size[1]} px beside {largest[0]} x {largest[1]} px in the same file, which may be a "
        "thumbnail. If it is a field of view, save it as a separate file."
    )


def _only_position(all_series: Sequence[Any], path: Path) -> int:
    positions = _positions(all_series)
    if len(positions) > 1:
        shapes = ", ".join(str(tuple(all_series[position.number].shape)) for position in positions)
        raise FieldError(
            f"{path} holds {len(positions)} images (shapes {shapes}), expected one here. Save each image as a separate "
            f"file{', or unpack it: then each is a field of view' if path.suffix.lower() == '.gz' else ''}."
        )
    return positions[0].number


def _whole_pages(tiff: tifffile.TiffFile, series: Any, path: Path, numbers: Sequence[int] | None = None) -> list[Any]:
    """The pages of an image, each with its own tags, if their values mean what they say and none lacks pixels.

    A decoder would take zeros, or whatever it finds, in their place.
    """
    pages = []
    file_bytes = tiff.filehandle.size
    for page in series.pages if numbers is None else [series.pages[number] for number in numbers]:
        if page is None:
            raise FieldError(
                f"{path} is one of several files that make up an OME-TIFF image, or lacks planes; expected all planes "
                "in one file. Save the image as a single file."
            )
        whole = page if isinstance(page, tifffile.TiffPage) else page.aspage()
        _check_page(whole, file_bytes, path)
        if whole.hash != series.keyframe.hash:
            raise FieldError(f"{path} is corrupt: its planes are stored in different ways. Export the file again.")
        pages.append(whole)
    return pages


def _check_page(page: Any, file_bytes: int, path: Path) -> None:
    """Refuse a page whose values do not mean what they say, or that lacks pixels."""
    refuse_photometric(page, path)
    refuse_orientation(path, _orientation(page))
    expected = math.prod(page.chunked)
    if not page.is_contiguous and len(page.dataoffsets) < expected:
        raise FieldError(
            f"{path} is a truncated or corrupt TIFF: it lists {len(page.dataoffsets):,} of {expected:,} strips or "
            "tiles. Copy or export the file again."
        )
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if length == 0 or offset + length > file_bytes:
            raise FieldError(
                f"{path} is a truncated TIFF: {length:,} bytes of pixels should lie at byte {offset:,}, the file "
                f"ends at {file_bytes:,}. Copy or export the file again."
            )


def refuse_photometric(page: Any, path: Path) -> None:
    """Refuse a page whose numbers are no intensities, or may be inverted.

    Raises:
        FieldError: Naming the photometric interpretation.
    """
    photometric = getattr(page.photometric, "name", str(page.photometric))
    # tifffile marks every array of bool so, and stores True as 1 all the same.
    by_tifffile = page.dtype == np.bool_ and page.software.startswith("tifffile")
    if photometric == "MINISWHITE" and not by_tifffile:
        raise FieldError(
            f"{path} has the photometric interpretation MinIsWhite: its values may be inverted, or only their display, "
            "which the file does not say; expected MinIsBlack. In ImageJ choose Image > Lookup Tables > Invert LUT "
            "(and Edit > Invert, if the signal is dark then), and save it again."
        )
    is_converted = photometric == "YCBCR" and page.compression == _JPEG  # tifffile makes it red-green-blue
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") and not is_converted:
        raise FieldError(
            f"{path} has the photometric interpretation {photometric}, expected grey (MinIsBlack) or RGB. Save it as a "
            "grey TIFF."
        )


def _orientation(page: Any) -> int:
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1


def has_plain_numbers(page: Any) -> bool:
    """Whether a page has no palette, or one that is a ramp from black to one colour, as ImageJ's colours are."""
    if getattr(page.photometric, "name", "") != "PALETTE":
        return True
    palette = np.asarray(page.colormap, np.float64)  # [3, colours]
    peaks = palette[:, -1:]
    ramps = peaks * np.linspace(0, 1, palette.shape[1])
    return bool(peaks.any() and (np.abs(palette - ramps) <= _RAMP_TOLERANCE).all())


def _sort_samples(pixels: npt.NDArray[Any], axes: str, page: Any, path: Path) -> tuple[npt.NDArray[Any], str]:
    """Drop transparency, and call samples channels where they are no colours."""
    # tifffile calls an axis that no metadata explains Q or I ("image series").
    axes = axes.replace("I", "Q")
    if "S" not in axes:
        return pixels, axes
    extra = [getattr(sample, "name", "UNSPECIFIED") for sample in page.extrasamples]
    place = axes.index("S")
    if any("ALPHA" in name for name in extra):
        if "ALPHA" not in extra[-1] or len(extra) > 1:
            raise FieldError(f"{path} has the extra samples {', '.join(extra)}, expected none. Save it without alpha.")
        opaque = without_alpha(np.moveaxis(pixels, place, -1), path)
        if opaque.shape[-1] == 1:
            return opaque[..., 0], axes.replace("S", "")
        pixels = np.moveaxis(opaque, -1, place)
    is_colour = getattr(page.photometric, "name", "") in ("RGB", "YCBCR")
    if not is_colour and "C" not in axes:
        axes = axes.replace("S", "C")
    return pixels, axes


def _metadata(tiff: tifffile.TiffFile, all_series: Sequence[Any], number: int, path: Path) -> ImageMetadata:
    if tiff.is_ome:
        images = read_ome_xml(tiff.ome_metadata or "", _MOST_PAGES)
        return _ome_metadata(images, all_series, number)
    if tiff.is_imagej:
        return metadata_from_imagej(tiff)
    return metadata_from_page(all_series[number].keyframe, path)


def _ome_metadata(images: Sequence[OmeImage], all_series: Sequence[Any], number: int) -> ImageMetadata:
    """What OME-XML says of one image; tifffile leaves out images without pixels in this file."""
    if len(images) == len(all_series):
        return images[number].metadata
    series = all_series[number]
    alike = {image.metadata for image in images if (image.height, image.width) == _size(series)}
    return alike.pop() if len(alike) == 1 else ImageMetadata()
