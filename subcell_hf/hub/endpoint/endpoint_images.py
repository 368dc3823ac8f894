"""Images out of requests: bytes, base64 text or allowed URLs → planes, with limits that hold before decoding.

Lies beside `handler.py` on the Hub and is self-contained like it. Headers are read first: files that are too large,
contain objects, or are not `.npy`, TIFF, PNG or JPEG are refused before memory is allocated for them. What a picture
shows is decided by the model's image processor, as in the pipeline.
"""

import base64
import binascii
import io
import math
import os
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]

PNG_SIGNATURE, JPEG_SIGNATURE, NPY_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SIGNATURES = (PNG_SIGNATURE, JPEG_SIGNATURE, NPY_SIGNATURE, *TIFF_SIGNATURES)
TIFF_COMPRESSIONS = {"NONE", "LZW", "ADOBE_DEFLATE", "DEFLATE", "PACKBITS", "ZSTD"}
MAX_PLANES = 16
ORIENTATION = 274  # the tag of TIFF and EXIF
PALETTE_STEP = 257  # one step of 8 bits on a palette's scale of 16 bits

FETCH_TIMEOUT_S = 10.0
_URL_SAFE = str.maketrans("-_", "+/")
# numpy parses these as Python, which Python 3.11 before 3.11.8 may fail to do in two threads at once (gh-106905).
NPY_HEADERS = threading.Lock()
PNG_BANDS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type in the header


class RequestError(ValueError):
    """What was asked cannot be answered; `status` is HTTP's word for it, the message says why."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Limits of a request; `handler.py` documents the variables that set them."""

    max_request_bytes: int = 64_000_000
    max_decoded_bytes: int = 256_000_000
    max_edge_px: int = 2048
    max_cells: int = 16
    max_batch: int = 16
    max_waiting: int = 512
    url_hosts: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls) -> "Limits":
        """The defaults, or what the operator says."""

        def number(name: str, default: int) -> int:
            text = os.environ.get(f"SUBCELL_ENDPOINT_{name}", str(default))
            if not text.isdecimal() or int(text) < 1:
                raise ValueError(f"SUBCELL_ENDPOINT_{name} is {text!r}; expected a whole number above 0.")
            return int(text)

        hosts = os.environ.get("SUBCELL_ENDPOINT_URL_HOSTS", "").lower().split(",")
        return cls(
            max_request_bytes=number("MAX_REQUEST_MB", 64) * 1_000_000,
            max_decoded_bytes=number("MAX_DECODED_MB", 256) * 1_000_000,
            max_edge_px=number("MAX_EDGE_PX", cls.max_edge_px),
            max_cells=number("MAX_CELLS", cls.max_cells),
            max_batch=number("MAX_BATCH", cls.max_batch),
            max_waiting=number("MAX_WAITING", cls.max_waiting),
            url_hosts=frozenset(host.strip() for host in hosts if host.strip()),
        )


class Budget:
    """Bytes that a request may still bring."""

    def __init__(self, limits: Limits):
        self.total = self.left = limits.max_request_bytes
        self.decoded_total = self.decoded_left = limits.max_decoded_bytes

    def take(self, count: int, where: str) -> None:
        """Count bytes.

        Raises:
            RequestError: With status 413, if they are too many.
        """
        self.left -= count
        if self.left < 0:
            raise RequestError(f"The request is larger than {self.total:,} bytes, at {where}; send fewer cells.", 413)

    def take_decoded(self, count: int, where: str) -> None:
        """Count the bytes that an image takes once it is decoded; errors as in `take`."""
        self.decoded_left -= count
        if self.decoded_left < 0:
            raise RequestError(f"At {where} the images exceed {self.decoded_total:,} bytes once decoded.", 413)


class Colours(NamedTuple):
    """A TIFF whose samples `[height, width, 3]` are red, green and blue."""

    pixels: Pixels


Decoded = Pixels | Colours | Image.Image
"""Planes `[height, width]` or `[planes, height, width]`, or a picture."""


def read_file(value: Any, where: str, limits: Limits, budget: Budget, tiles: int = 1) -> Decoded:
    """A file of a request, decoded.

    Args:
        value: Bytes of an `.npy`, TIFF, PNG or JPEG file, the base64 text of one, a `data:` URL, a URL whose host the
            operator allows, or an image of Pillow.
        where: What to call it in messages.
        limits: What it may cost.
        budget: What is left for this request.
        tiles: How many images it may show side by side.

    Raises:
        RequestError: If it is none of these, or larger than allowed.
    """
    if isinstance(value, Image.Image):
        gate = _Gate(where, limits.max_edge_px * tiles, budget)
        gate.check((value.height, value.width, len(value.getbands())), np.dtype(np.uint8))
        return value
    if isinstance(value, bytes | bytearray):
        content = bytes(value)
        budget.take(len(content), where)
    elif not isinstance(value, str):
        raise RequestError(f"{where} is a {type(value).__name__}; expected a file's bytes as base64 text.")
    elif "://" in value[:16]:
        content = _fetch(value, where, limits.url_hosts, budget)
    else:
        budget.take(len(value), where)
        content = _decode_base64(value, where)
    return decode_image(content, where, limits, budget, tiles)


def _decode_base64(value: str, where: str) -> bytes:
    """Bytes of base64 text as programs write it: in lines, URL-safe, without padding, or as a `data:` URL."""
    text = value
    if value[:5].lower() == "data:":
        kind, _, text = value.partition(",")
        if not kind.lower().endswith(";base64"):
            raise RequestError(f"{where} is a data: URL without base64; expected data:image/png;base64,….")
        text = urllib.parse.unquote(text)
    text = "".join(text.split()).translate(_URL_SAFE)
    missing = -len(text) % 4
    try:
        content = base64.b64decode(text + "=" * missing, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where} is not base64 text ({error}); paths are not read.") from error
    if missing and not content.startswith(SIGNATURES):
        raise RequestError(f"{where} is not base64 text (Incorrect padding); paths are not read.")
    return content


def decode_image(content: bytes, where: str, limits: Limits, budget: Budget, tiles: int = 1) -> Decoded:
    """Decode an `.npy`, TIFF, PNG or JPEG file; arguments, result and errors as in `read_file`."""
    if not content:
        raise RequestError(f"{where} is empty; expected a .npy, TIFF, PNG or JPEG file.", 415)
    if content.startswith(NPY_SIGNATURE):
        reader: Any = _read_npy
    elif content.startswith(PNG_SIGNATURE):
        reader = _read_png
    elif content.startswith(JPEG_SIGNATURE):
        reader = _read_jpeg
    elif content.startswith(TIFF_SIGNATURES):
        reader = _read_tiff
    else:
        raise RequestError(f"{where} is not a .npy, TIFF, PNG or JPEG file; it begins with {content[:8]!r}.", 415)
    try:
        decoded: Decoded = reader(content, where, _Gate(where, limits.max_edge_px * tiles, budget))
    except RequestError:
        raise
    except Exception as error:  # decoders raise all kinds of errors, and none of them may end the endpoint
        raise RequestError(f"{where} cannot be decoded ({type(error).__name__}: {error}).", 422) from error
    return decoded


def read_planes(
    decoded: Decoded, processor: Any, channels: Sequence[str], names: Sequence[str] | None, where: str
) -> dict[str, Pixels]:
    """The planes of a file that holds a whole cell.

    Args:
        decoded: What `read_file` made of it.
        processor: The model's image processor, which decides what a picture shows.
        channels: Those of the model, in its order.
        names: What the planes are called, if not as those of the model.
        where: What to call it in messages.

    Raises:
        RequestError: With status 422, if the planes do not fit the names, or the picture is ambiguous.
    """
    if isinstance(decoded, Image.Image | Colours) or decoded.ndim == 2:
        picture = decoded.pixels if isinstance(decoded, Colours) else decoded
        try:
            planes: dict[str, Pixels] = processor.split_picture(picture, where, names)
        except ValueError as error:
            raise RequestError(str(error), 422) from error
        return planes
    stack, listed = decoded, list(names or channels)
    if stack.ndim == 3 and stack.shape[0] != len(listed) and stack.shape[2] == len(listed):
        stack = np.moveaxis(stack, 2, 0)
    if stack.ndim != 3 or len(stack) != len(listed):
        raise RequestError(f"{where} has the shape {list(stack.shape)}; expected planes of {', '.join(listed)}.", 422)
    return dict(zip(listed, stack, strict=True))


def read_plane(decoded: Decoded, processor: Any, channel: str | None, where: str) -> Pixels:
    """The one plane of a file that shows a channel, or the labels of a mask if `channel` is None.

    Raises:
        RequestError: With status 422, if it shows something else.
    """
    if channel is None and isinstance(decoded, Image.Image) and decoded.format == "JPEG":
        raise RequestError(f"{where} is a JPEG; its compression changes labels. Send a PNG, TIFF or .npy mask.", 422)
    if channel is None and isinstance(decoded, Colours):
        raise RequestError(f"{where} is a colour picture; expected labels. Save the labels rather than a view.", 422)
    try:
        plane: Pixels = processor.read_plane(getattr(decoded, "pixels", decoded), channel, where)
    except ValueError as error:
        raise RequestError(str(error), 422) from error
    return plane


@dataclass(frozen=True)
class _Gate:
    """Refuses an image by its header, before it is decoded."""

    where: str
    max_edge_px: int
    budget: Budget

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if dtype.kind not in "uifb" or dtype.itemsize > 8:  # objects would be pickles
            raise RequestError(f"{self.where} holds {dtype}; expected whole or floating-point numbers.", 422)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise RequestError(f"{self.where} has the shape {list(shape)}; expected [height, width] or planes.", 422)
        edges, planes = sorted(shape)[-2:], math.prod(sorted(shape)[:-2])
        if edges[-1] > self.max_edge_px or planes > MAX_PLANES:
            expected = f"edges up to {self.max_edge_px} px and {MAX_PLANES} planes"
            raise RequestError(f"{self.where} has the shape {list(shape)}; expected {expected}.", 413)
        self.budget.take_decoded(math.prod(shape) * dtype.itemsize, self.where)


def refuse_orientation(orientation: Any, where: str) -> None:
    """Refuse images that are stored rotated or mirrored: it is unknown whether their masks are rotated as well.

    Raises:
        RequestError: With status 422.
    """
    if orientation in range(2, 9):
        raise RequestError(
            f"{where} has the orientation {orientation}; expected 1. Save the image and its mask upright, without the "
            "orientation tag.",
            422,
        )


def _read_npy(content: bytes, where: str, gate: _Gate) -> Pixels:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with NPY_HEADERS:
        shape, by_column, dtype = read_header(file)
    gate.check(shape, dtype)
    pixels = np.frombuffer(content, dtype, count=math.prod(shape), offset=file.tell())
    return pixels.reshape(shape, order="F" if by_column else "C")


def _read_png(content: bytes, where: str, gate: _Gate) -> Image.Image:
    width, height, depth, colours = struct.unpack(">IIBB", content[16:26])
    if colours not in PNG_BANDS:
        raise RequestError(f"{where} has the unknown colour type {colours}; save it as a grey or RGB PNG.", 422)
    shape = (height, width, PNG_BANDS[colours])
    gate.check(shape, np.dtype(np.uint16 if depth == 16 else np.uint8))
    if depth == 16 and colours != 0:  # Pillow would silently reduce them to 8 bits
        raise RequestError(f"{where} has 16-bit colours; expected a grey PNG, or RGB of 8 bits.", 422)
    picture = Image.open(io.BytesIO(content), formats=["PNG"])
    picture.load()
    return picture


def _read_jpeg(content: bytes, where: str, gate: _Gate) -> Image.Image:
    picture = Image.open(io.BytesIO(content), formats=["JPEG"])
    gate.check((picture.height, picture.width, len(picture.getbands())), np.dtype(np.uint8))
    picture.load()
    return picture


def _read_tiff(content: bytes, where: str, gate: _Gate) -> Pixels | Colours:
    # No OME: its XML may name other files. Pages are counted as they are read, for a small file can list millions.
    with tifffile.TiffFile(io.BytesIO(content), is_ome=False) as file:
        planes: list[Pixels] = []
        for number in range(MAX_PLANES + 1):
            try:
                page = file.pages[number]
            except IndexError:
                break
            if number == MAX_PLANES:
                raise RequestError(f"{where} has more than {MAX_PLANES} pages.", 413)
            if not isinstance(page, tifffile.TiffPage):
                page = page.aspage()
            compression = tifffile.COMPRESSION(page.compression).name
            if page.dtype is None or compression not in TIFF_COMPRESSIONS:
                raise RequestError(
                    f"{where} has the unsupported compression {compression}; save it without compression.", 422
                )
            gate.check(page.shape, page.dtype)
            refuse_orientation(page.tags.valueof(ORIENTATION, default=1), where)
            problem = photometric_problem(page) or _missing_pixels(page, len(content))
            if problem:
                raise RequestError(f"{where} {problem}", 422)
            is_colour = getattr(page.photometric, "name", "") == "RGB" and page.axes.endswith("S")
            planes.append(_without_alpha(page.asarray(), page, where))
    if len({(plane.shape, plane.dtype) for plane in planes}) != 1:
        raise RequestError(f"{where} has pages of several sizes; expected one for all.", 422)
    if len(planes) > 1:
        return np.stack(planes)
    return Colours(planes[0]) if is_colour and planes[0].shape[2:] == (3,) else planes[0]


def photometric_problem(page: Any) -> str | None:
    """Why the numbers of a TIFF page are no intensities or labels, or may be inverted; None where they are sound."""
    photometric = getattr(page.photometric, "name", str(page.photometric))
    # tifffile marks every array of bool so, and stores True as 1 all the same.
    by_tifffile = page.dtype == np.bool_ and page.software.startswith("tifffile")
    if photometric == "MINISWHITE" and not by_tifffile:
        return (
            "has the photometric interpretation MinIsWhite: the file does not specify whether its values or only their "
            "display are inverted; expected MinIsBlack. In ImageJ choose Image > Lookup Tables > Invert LUT (and Edit "
            "> Invert, if the signal is dark then), and save it again."
        )
    if photometric == "PALETTE" and not _has_plain_palette(page):
        return "has a palette that is not a ramp from black to one colour; expected grey (MinIsBlack)."
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE"):
        return f"has the photometric interpretation {photometric}; expected grey (MinIsBlack) or RGB."
    return None


def _missing_pixels(page: Any, file_bytes: int) -> str | None:
    """Where a TIFF page lacks strips or tiles, which tifffile would fill with zeros."""
    ends = [offset + length for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
    is_short = not ends or (not page.is_contiguous and len(ends) < math.prod(page.chunked))
    if is_short or min(page.databytecounts) == 0 or max(ends) > file_bytes:
        return "lacks some of its pixels; it may be damaged. Send it again."
    return None


def _has_plain_palette(page: Any) -> bool:
    palette = np.asarray(page.colormap, np.float64)  # [3, colours]
    peaks = palette[:, -1:]
    ramps = peaks * np.linspace(0, 1, palette.shape[1])
    return bool(peaks.any() and (np.abs(palette - ramps) <= PALETTE_STEP).all())


def _without_alpha(pixels: Pixels, page: Any, where: str) -> Pixels:
    """Drop a last sample `[height, width, samples]` that is transparency."""
    if not any("ALPHA" in getattr(extra, "name", "") for extra in page.extrasamples):
        return pixels
    if not page.axes.endswith("S") or pixels[..., -1].min() != pixels[..., -1].max():
        raise RequestError(
            f"{where} has transparency; expected plain intensities. Save it without an alpha channel.", 422
        )
    return pixels[..., 0] if pixels.shape[-1] == 2 else pixels[..., :-1]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """An allowed host must not send us to another."""


def _fetch(url: str, where: str, hosts: frozenset[str], budget: Budget) -> bytes:
    parts = urllib.parse.urlsplit(url)
    if not hosts:
        raise RequestError(f"{where} is a URL, but this endpoint opens no URLs; send the file as base64 text.", 403)
    if parts.scheme != "https" or (parts.hostname or "").lower() not in hosts or parts.port not in (None, 443):
        raise RequestError(f"{where} is a URL of a host that is not allowed; allowed: {', '.join(hosts)}.", 403)
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler())
    try:
        with opener.open(url, timeout=FETCH_TIMEOUT_S) as answer:
            content: bytes = answer.read(budget.left + 1)
    except (urllib.error.URLError, OSError) as error:
        raise RequestError(f"{where} could not be fetched ({error}).", 424) from error
    budget.take(len(content), where)
    return content
