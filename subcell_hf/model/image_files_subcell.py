"""Image files as the pipeline reads them: their numbers as they are stored, or a reason why they cannot be used."""

import io
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from .pictures_subcell import UnfitFileError, import_optional, noted_channels, reduce_picture, split_picture

Pixels = NDArray[Any]

__all__ = ["ImageFile", "UnfitFileError", "read_bytes", "read_file", "read_plane"]

MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}  # two of them look alike: micro and mu
LARGEST_ANISOTROPY = 1.01
JPEG_COMPRESSION = 7
ORIENTATION = 274  # the tag of TIFF and EXIF
MIN_IS_WHITE = (
    "has the photometric interpretation MinIsWhite: its values may be inverted, or only their display, which the file "
    "does not say; expected MinIsBlack. In ImageJ choose Image > Lookup Tables > Invert LUT (and Edit > Invert, if the "
    "signal is dark then), and save it again."
)
MOST_PAGES = 10_000  # of a TIFF
PALETTE_STEP = 257  # one step of 8 bits on a palette's scale of 16 bits
# numpy parses headers as Python, which Python 3.11 before 3.11.8 may fail to do in two threads at once (gh-106905).
NPY_HEADERS = threading.Lock()


class ImageFile(NamedTuple):
    """What a file holds: planes `[height, width]`, `[planes, height, width]`, or `[height, width, 3]` of a picture.

    Several `channels` of one plane `[height, width]` are those of a channel sheet, from left to right.
    `pixel_size_problem` says why the pixel size in the file cannot be used, and `has_palette` that the values are
    numbers of colours, which may be labels, but no intensities. Where a picture's colours come from a palette, `labels`
    are their numbers.
    """

    pixels: Pixels
    channels: list[str] | None = None
    pixel_size_um: float | None = None
    is_picture: bool = False
    pixel_size_problem: str | None = None
    has_palette: bool = False
    labels: Pixels | None = None


def read_plane(source: Any, channel: str) -> Any:
    """Read the one plane of a channel.

    Args:
        source: A file (`.npy`, TIFF, PNG, JPEG), or an array, which is handed back as it is.
        channel: Name of the channel; a picture's colours other than this must carry no signal.

    Returns:
        `[height, width]` in the file's own dtype.

    Raises:
        ValueError: If the file cannot be read, holds several planes, or is a composite of several colours.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    return plane_of(read_file(source), channel, source)


def plane_of(file: ImageFile, channel: str, source: Any) -> Pixels:
    """The one plane of a file that has been read; see `read_plane`."""
    refuse_palette(file, source)
    if file.pixels.ndim == 2 and len(file.channels or ()) > 1:
        raise ValueError(f"{source} is a sheet of {', '.join(file.channels or ())}; expected {channel} alone.")
    pixels = reduce_picture(file.pixels, channel, source) if file.is_picture else file.pixels
    if pixels.ndim != 2:
        raise ValueError(f"{source} has the shape {pixels.shape}; expected one plane [height, width] of {channel}.")
    return pixels


def refuse_palette(file: ImageFile, source: Any) -> None:
    """Refuse numbers of colours where intensities are expected; raises ValueError."""
    if file.has_palette:
        raise ValueError(
            f"{source} has the photometric interpretation Palette, and its palette is not a ramp from black to one "
            "colour; expected intensities. Save it as a grey TIFF."
        )


def read_file(path: str | os.PathLike[str], named_channels: int = 0) -> ImageFile:
    """Read an image file as it is, 16 bits included.

    Args:
        path: Of a local file, see `READERS`.
        named_channels: How many channels are named: an axis of Z-planes or time points of this length is one of
            channels.

    Raises:
        ValueError: If the path is a URL or of another kind, or the file is damaged or would lose bits.
        FileNotFoundError: If there is no such file.
        ImportError: If the library for this kind of file is missing.
    """
    name = os.fspath(path)
    if "://" in name:
        raise ValueError(f"{name} is a URL; expected a local file. Download it first.")
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise ValueError(f"{name} has an unknown file type; expected one of {', '.join(READERS)}.")
    if not Path(name).is_file():
        raise FileNotFoundError(f"There is no file {name}.")
    return _read(reader, name, name, named_channels)


def read_bytes(content: bytes | bytearray, where: str, named_channels: int = 0) -> ImageFile:
    """Read the bytes of an image file, as `read_file` reads its path; `where` is what messages call them.

    Raises:
        ValueError: If they are none of `.npy`, TIFF, PNG or JPEG, or the file is damaged or would lose bits.
        ImportError: If the library for this kind of file is missing.
    """
    kinds = [kind for start, kind in SIGNATURES.items() if content.startswith(start)]
    if not kinds:
        raise ValueError(f"{where} begins with {bytes(content[:8])!r}; expected a .npy, TIFF, PNG or JPEG file.")
    return _read(READERS[kinds[0]], io.BytesIO(content), where, named_channels)


def _read(reader: Callable[[Any, int], ImageFile], source: Any, where: str, named_channels: int) -> ImageFile:
    try:
        return reader(source, named_channels)
    except (ImportError, MemoryError):
        raise
    except UnfitFileError as error:
        raise UnfitFileError(f"{where} {error}") from error
    except Exception as error:  # decoders raise whatever they please; the file's name must not get lost
        raise ValueError(f"{where} cannot be read ({error}); it may be damaged. Fetch it again.") from error


def _read_npy(path: Any, _: int) -> ImageFile:
    with NPY_HEADERS:
        return ImageFile(np.load(path, allow_pickle=False))


def _read_picture(path: Any, _: int) -> ImageFile:
    with import_optional("PIL.Image", "pillow").open(path) as opened:
        file = _read_opened(opened)
    return file._replace(pixels=file.pixels.astype(np.uint16)) if file.pixels.dtype == np.int32 else file


def is_picture(source: Any) -> bool:
    """Whether something is an image of Pillow, which need not be installed."""
    return hasattr(type(source), "getbands")


def read_picture(picture: Any, where: str) -> ImageFile:
    """The numbers of an image of Pillow, every bit of them.

    Args:
        picture: Of one frame, grey (`L`, `I;16`, `I`, `F`, `1`), `RGB`, or what is one of them with a palette or a
            transparency that is the same everywhere.
        where: What messages call it.

    Raises:
        ValueError: If it has another mode, several frames, inverted values, or colours of more than 8 bits.
    """
    try:
        return _read_opened(picture)
    except UnfitFileError as error:
        raise UnfitFileError(f"{where} {error}") from error
    except Exception as error:  # Pillow reads its files late, and raises whatever it pleases
        raise ValueError(f"{where} cannot be read ({error}); it may be damaged or closed. Open it again.") from error


def read_channels(
    picture: Any, order: Sequence[str], where: str, named: Sequence[str] | None = None
) -> dict[str, Pixels]:
    """The planes of one picture of a whole cell, see `split_picture`.

    Args:
        picture: An image of Pillow, an `ImageFile`, or an array `[height, width]` or `[height, width, 3]`.
        order: Channels of the model, in its order.
        where: What messages call it.
        named: What the caller calls its channels.

    Raises:
        ValueError: If it cannot be read, or may be something else; the message says what to give instead.
    """
    file = read_picture(picture, where) if is_picture(picture) else picture
    file = file if isinstance(file, ImageFile) else ImageFile(file, is_picture=file.ndim == 3)
    refuse_palette(file, where)
    # Whoever opened an image of Pillow and converted it left no format, and perhaps not all bits.
    is_converted = is_picture(picture) and picture.format is None
    return split_picture(file.pixels, order, where, named=named, noted=file.channels, is_converted=is_converted)


def read_mask(source: Any, where: str) -> Any:
    """A file or an image of Pillow as labels, or as bool where it holds only 0 and 255, which is how pictures say 1.

    An array is handed back as it is; `where` is what messages call an image of Pillow. Raises ValueError if the file
    cannot be read, or shows colours that no palette numbers.
    """
    if is_picture(source):
        file = read_picture(source, where)
    elif isinstance(source, str | os.PathLike):
        file, where = read_file(source), str(source)
    else:
        return source
    labels = file.pixels if file.labels is None else file.labels
    if file.is_picture and file.labels is None:
        if (labels != labels[..., :1]).any():
            raise UnfitFileError(f"{where} is a colour picture; expected labels. Save the labels rather than a view.")
        labels = labels[..., 0]
    return labels > 0 if np.isin(labels, (0, 255)).all() else labels


def _read_opened(picture: Any) -> ImageFile:
    frames, tags = getattr(picture, "n_frames", 1), getattr(picture, "tag_v2", {})
    if frames > 1:
        raise UnfitFileError(f"holds {frames} frames; expected one: give .copy() of the frame that is meant.")
    if tags.get(262) == 0 and picture.mode != "1":
        raise UnfitFileError(MIN_IS_WHITE)
    # Pillow cuts colours of 16 bits to 8 without a word; until they are loaded, `tile` tells.
    is_deep = ";16" in str(getattr(picture, "tile", "")) or max(tags.get(258, (8,))) > 8
    if is_deep and len(picture.getbands()) > 1:
        raise UnfitFileError("has 16-bit colours, of which only 8 bits could be read; save grey PNG files or a TIFF.")
    refuse_orientation(picture.getexif().get(ORIENTATION, 1))  # loads a PNG
    channels = noted_channels(picture)
    if picture.mode == "P":
        return _read_palette(picture)._replace(channels=channels)
    if picture.mode in ("LA", "RGBA"):
        low, high = picture.getchannel("A").getextrema()
        picture = picture.convert(picture.mode[:-1]) if low == high > 0 else picture
    pixels = np.asarray(picture)
    if picture.mode not in ("1", "L", "F", "RGB") and picture.mode[0] != "I":
        raise UnfitFileError(f"has the mode {picture.mode}; expected a grey or RGB picture. Convert it to one.")
    return ImageFile(pixels, channels, is_picture=pixels.ndim == 3)


def _read_palette(picture: Any) -> ImageFile:
    """Grey values where the palette is grey; else colours with their numbers, or where these are transparent, those."""
    numbers, palette = np.asarray(picture), np.asarray(picture.getpalette(), np.uint8).reshape(-1, 3)
    if "transparency" in picture.info:
        return ImageFile(numbers, has_palette=True)
    colours = np.asarray(picture.convert("RGB"))
    if (palette == palette[:, :1]).all():
        return ImageFile(np.ascontiguousarray(colours[..., 0]))
    return ImageFile(colours, is_picture=True, labels=numbers)


def refuse_orientation(orientation: Any) -> None:
    """Refuse an image that is stored turned or mirrored: programs that made its mask may have turned it, or not."""
    if orientation in range(2, 9):
        raise UnfitFileError(
            f"has the orientation {orientation}: it is stored turned or mirrored, and programs differ in whether they "
            "turn it back; expected 1. Save it, and its mask alike, as it should be, without the tag."
        )


def _read_tiff(path: Any, named_channels: int) -> ImageFile:
    with _open_tiff(path) as file:
        if len(file.series) != 1:
            raise UnfitFileError(f"holds {len(file.series)} images; expected one.")
        series, page = file.series[0], file.series[0].keyframe
        has_palette = _check_pages(series)
        pixels, axes = series.asarray(), series.axes
        ome = _read_ome(file.ome_metadata) if file.ome_metadata else (None, None, None)
        channels, pixel_size_um, pixel_size_problem = ome
        if "S" in axes and any("ALPHA" in getattr(extra, "name", "") for extra in page.extrasamples):
            pixels, axes = _without_alpha(pixels, axes)
        # Three samples beside each other are a colour picture, planes after each other a stack that is only tagged so.
        is_colour = page.photometric.name in ("RGB", "YCBCR")
        is_picture = is_colour and axes.endswith("S") and pixels.shape[-1] == 3
    long_axes = [axis for axis, length in zip(axes, pixels.shape, strict=True) if length > 1 or axis in "YX"]
    pixels = pixels.reshape([n for axis, n in zip(axes, pixels.shape, strict=True) if n > 1 or axis in "YX"])
    planes = [axis for axis in long_axes if axis not in "YX"]
    are_named = len(planes) == 1 and pixels.shape[long_axes.index(planes[0])] == named_channels
    if len(planes) > 1 or (any(axis in "ZT" for axis in planes) and not are_named):
        raise UnfitFileError(
            f"has the axes {axes}; expected channels, height and width: project or choose planes, or name them all "
            "(channels=[…]) if they are channels."
        )
    if planes and not is_picture:
        pixels = np.moveaxis(pixels, long_axes.index(planes[0]), 0)
    return ImageFile(pixels, channels, pixel_size_um, is_picture, pixel_size_problem, has_palette)


def _open_tiff(path: Any) -> Any:
    """Open a TIFF; planes that were written one after the other are pages of one image."""
    tifffile = import_optional("tifffile", "tifffile")
    file = tifffile.TiffFile(path)
    if list(file.pages[MOST_PAGES : MOST_PAGES + 1]):  # a small file that is damaged can list millions
        raise UnfitFileError(f"lists more than {MOST_PAGES} pages; expected one per channel. It may be damaged.")
    shapes = {tuple(series.shape) for series in file.series} if file.is_shaped else set()
    if len(shapes) == 1 and len(file.series) > 1 and len(shapes.pop()) == 2:
        file.close()  # each call of tifffile's `TiffWriter.write` begins a series of its own
        if isinstance(path, io.BytesIO):
            path.seek(0)
        return tifffile.TiffFile(path, is_shaped=False)
    return file


def _check_pages(series: Any) -> bool:
    """Refuse pages that lack pixels or may be inverted; returns whether their values are numbers of colours."""
    has_palette = False
    for page in series.pages:
        if page is None:
            raise UnfitFileError("lacks planes, or is one of several files of an image; save all planes in one file.")
        whole = page.aspage() if hasattr(page, "aspage") else page
        lengths = whole.databytecounts
        ends = [offset + length for offset, length in zip(whole.dataoffsets, lengths, strict=True)]
        is_short = not ends or (not whole.is_contiguous and len(ends) < math.prod(whole.chunked))
        if is_short or min(lengths) == 0 or max(ends) > whole.parent.filehandle.size:
            raise ValueError("some of its pixels are missing")
        problem = photometric_problem(whole)
        if problem:
            raise UnfitFileError(problem)
        refuse_orientation(whole.tags.valueof(ORIENTATION, default=1))
        has_palette |= not has_plain_numbers(whole)
    return has_palette


def photometric_problem(page: Any) -> str | None:
    """Why the numbers of a TIFF page are no intensities or labels, or may be inverted; None where they are sound."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    # tifffile marks every array of bool so, and stores True as 1 all the same.
    by_tifffile = page.dtype == np.bool_ and page.software.startswith("tifffile")
    if photometric == "MINISWHITE" and not by_tifffile:
        return MIN_IS_WHITE
    is_converted = photometric == "YCBCR" and page.compression == JPEG_COMPRESSION  # tifffile makes it RGB
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE") and not is_converted:
        return (
            f"has the photometric interpretation {photometric}; expected grey (MinIsBlack) or RGB. Save it as a grey "
            "TIFF."
        )
    return None


def has_plain_numbers(page: Any) -> bool:
    """Whether a TIFF page has no palette, or one that is a ramp from black to one colour, as ImageJ's colours are."""
    if getattr(page.photometric, "name", "") != "PALETTE":
        return True
    palette = np.asarray(page.colormap, np.float64)  # [3, colours]
    peaks = palette[:, -1:]
    ramps = peaks * np.linspace(0, 1, palette.shape[1])
    return bool(peaks.any() and (np.abs(palette - ramps) <= PALETTE_STEP).all())


def _without_alpha(pixels: Pixels, axes: str) -> tuple[Pixels, str]:
    """Drop a last sample that is transparency."""
    place = axes.index("S")
    samples = np.moveaxis(pixels, place, -1)
    if samples[..., -1].min() != samples[..., -1].max():
        raise UnfitFileError("has a transparency that varies; expected plain intensities. Save it without alpha.")
    if samples.shape[-1] == 2:
        return samples[..., 0], axes.replace("S", "")
    return np.moveaxis(samples[..., :-1], -1, place), axes


def _read_ome(metadata: str) -> tuple[list[str] | None, float | None, str | None]:
    """Channel names and pixel size of an OME-TIFF, None where not given, and why the size cannot be used."""
    pixels = ElementTree.fromstring(metadata).find(".//{*}Pixels")
    if pixels is None:
        return None, None, None
    names = [channel.get("Name") or "" for channel in pixels.findall("{*}Channel")]
    channels = names if names and all(names) else None
    units = [MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0.0) for axis in "XY"]
    said = [pixels.get(f"PhysicalSize{axis}") or "0" for axis in "XY"]
    try:
        sizes_um = [float(size) * unit for size, unit in zip(said, units, strict=True)]
    except ValueError:
        return channels, None, f"has pixels of {' x '.join(said)}; expected two numbers of micrometres."
    if not any(sizes_um):
        return channels, None, None  # 0 where the size is not given
    if not all(math.isfinite(size) and size > 0 for size in sizes_um):
        return channels, None, f"has pixels of {sizes_um} µm; expected two positive numbers. Give pixel_size_um."
    if max(sizes_um) > LARGEST_ANISOTROPY * min(sizes_um):
        return channels, None, f"has pixels of {sizes_um} µm; expected square ones: resample it, or give pixel_size_um."
    return channels, sizes_um[0], None


READERS: dict[str, Callable[[Any, int], ImageFile]] = {
    ".npy": _read_npy,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".btf": _read_tiff,
    ".tf2": _read_tiff,
    ".tf8": _read_tiff,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
}
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIGNATURES = {
    b"\x93NUMPY": ".npy",
    b"\x89PNG": ".png",
    b"\xff\xd8\xff": ".jpg",
    **dict.fromkeys(TIFF_SIGNATURES, ".tif"),
}
"""First bytes → kind of file."""
