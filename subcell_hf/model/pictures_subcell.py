"""What a picture shows: one channel in its colour, several as red, green and blue, or several side by side."""

import importlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

__all__ = ["UnfitFileError", "noted_channels", "sheet_png", "signal_of_colours", "split_picture"]

COLOUR_PLANES = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
PICTURE_COLOURS = ("red", "green", "blue")
SHEET_NOTE = "subcell_sheet"
"""The text chunk of a PNG with the channels of a sheet from left to right, and its width and height, as JSON."""

# What counts as a composite of several colours, measured on pictures of the Human Protein Atlas: after chroma
# subsampling, 8e-5 of the pixels have a colour that exceeds half of the signal by more than 16 of 255.
LEAK_FRACTION_OF_SIGNAL = 0.5
LEAK_OFFSET = 16 / 255
MOST_LEAKING_PIXELS = 1e-3

MOST_SATURATED_PIXELS = 0.1  # Pillow's convert("RGB") turns every value of 16 bits above 255 into 255


class UnfitFileError(ValueError):
    """A file that is whole, but not of a kind that can be used."""


def import_optional(module: str, package: str) -> Any:
    """Import a library that only some files need; raises ImportError that names its package."""
    # Not an import statement: transformers would demand the package of everybody who loads the pipeline.
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"Reading this file needs {package}: pip install {package}, or give arrays.") from error


# ---- Several channels in one picture ----


def split_picture(
    pixels: Pixels,
    order: Sequence[str],
    where: str,
    *,
    named: Sequence[str] | None = None,
    noted: Sequence[str] | None = None,
    is_converted: bool = False,
) -> dict[str, Pixels]:
    """The planes of a picture that shows a whole cell.

    A grey picture (also one of equal red, green and blue) is a channel sheet: the channels side by side, `noted` or in
    the given order; without a note, each must be a square. Another picture shows channels as red, green and blue.

    Args:
        pixels: `[height, width]`, or `[height, width, 3]` of red, green and blue.
        order: Channels of the model, in its order.
        where: What messages call the picture.
        named: What the caller calls the channels of a sheet from left to right, or the three colours.
        noted: What the file says of the channels of a sheet.
        is_converted: Whether somebody may have cut 16 bits to 8.

    Returns:
        Channel → `[height, width]`, in the picture's dtype.

    Raises:
        UnfitFileError: If it is neither, or may be something else; the message says what to give instead.
    """
    if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
        return _split_colours(pixels, order, where, named)
    grey = pixels[..., 0] if pixels.ndim == 3 else pixels
    planes = _split_sheet(grey, named or noted or order, where, is_said=bool(named or noted))
    if is_converted and len(planes) > 1:
        _refuse_cut(planes, where)
    return planes


def _split_colours(pixels: Pixels, order: Sequence[str], where: str, named: Sequence[str] | None) -> dict[str, Pixels]:
    names = list(named or PICTURE_COLOURS)
    if len(names) != 3:
        raise UnfitFileError(f"{where} is an RGB picture, but {len(names)} channels are named; expected 3, or a sheet.")
    homeless = [] if named else [name for name in order if name not in names]
    if homeless:
        raise UnfitFileError(
            f"{where} is an RGB picture without a colour for {' and '.join(homeless)}. Expected "
            f"{expected_inputs(order)}."
        )
    if len(order) > 1 and signal_of_colours(pixels)[1] <= MOST_LEAKING_PIXELS:
        raise UnfitFileError(
            f"{where} is an RGB picture that shows one channel, in one colour or almost in grey. Expected "
            f"{expected_inputs(order)}."
        )
    return dict(zip(names, np.moveaxis(pixels, -1, 0), strict=True))


def _split_sheet(grey: Pixels, names: Sequence[str], where: str, *, is_said: bool) -> dict[str, Pixels]:
    height, width = grey.shape
    count = len(names)
    if not count:
        raise UnfitFileError(f"{where}: several proteins are mapped; name the planes by channels=[…].")
    if count == 1:
        if not is_said and width > height and width % height == 0:
            raise UnfitFileError(
                f"{where} is a grey picture of {width}×{height} px: one wide channel, or a sheet of {width // height} "
                f"channels; the model takes {names[0]}. Name the channel of the picture: channels=[{names[0]!r}]."
            )
        return {names[0]: grey}
    if width % count or (not is_said and width != count * height):
        listed = ", ".join(names)
        raise UnfitFileError(
            f"{where} is a grey picture of {width}×{height} px; as a sheet of {count} channels ({listed}) it would "
            f"have {count * height}×{height} px. Expected {expected_inputs(names)}."
        )
    return dict(zip(names, np.split(grey, count, axis=1), strict=True))


def expected_inputs(order: Sequence[str]) -> str:
    """What a model with these channels takes as one file, for messages."""
    expected = f"one grey picture with {', '.join(order)} side by side, all square (`subcell sheet` makes one)"
    if set(order) <= set(PICTURE_COLOURS):
        expected += f", an RGB picture with {', '.join(order)} in their colours"
    return f"{expected}, a TIFF with one plane for each, or one file per channel"


def _refuse_cut(planes: Mapping[str, Pixels], where: str) -> None:
    """Refuse a sheet of 8 bits that looks as if Pillow had made it from 16; raises UnfitFileError."""
    pixels = np.stack(list(planes.values()))
    saturated = float((pixels == 255).mean()) if pixels.dtype == np.uint8 else 0.0
    if saturated > MOST_SATURATED_PIXELS:
        raise UnfitFileError(
            f"{where} has the value 255 in {saturated:.0%} of its pixels, as if its 16 bits had been cut to 8 when it "
            "was opened. Send 8 bits (`subcell sheet` scales them), or the file itself as base64 text in JSON."
        )


def noted_channels(picture: Any) -> list[str] | None:
    """The channels that a note in a PNG names; None where there is no note, or the picture is only a part of the sheet.

    Args:
        picture: An image of Pillow.

    Raises:
        UnfitFileError: If the note is damaged.
    """
    text = picture.info.get(SHEET_NOTE)
    if text is None:
        return None
    try:
        note = json.loads(text)
        channels, (width, height) = [str(name) for name in note["channels"]], note["size"]
        is_whole = picture.width * height == picture.height * width  # Pillow's `crop` keeps notes, as `resize` does
    except (KeyError, TypeError, ValueError) as error:
        raise UnfitFileError(f"has a damaged note {SHEET_NOTE}. Save the sheet again.") from error
    if not channels or len(set(channels)) != len(channels):
        raise UnfitFileError(f"has a note {SHEET_NOTE} with the channels {channels}; expected different names.")
    return channels if is_whole else None


def sheet_png(planes: Mapping[str, Pixels]) -> bytes:
    """The channel sheet of a cell: a grey PNG that shows its channels side by side, with a note of their names.

    Args:
        planes: Channel → `[height, width]` uint8 or uint16, from left to right.

    Returns:
        The file's bytes, the same for the same planes.

    Raises:
        ValueError: If the planes differ in shape or dtype.
    """
    kinds = {name: (plane.shape, str(plane.dtype)) for name, plane in planes.items()}
    if len(set(kinds.values())) != 1 or next(iter(kinds.values()))[1] not in ("uint8", "uint16"):
        raise ValueError(f"The planes are {kinds}; expected one [height, width] of uint8 or uint16 for all.")
    joined = np.concatenate(list(planes.values()), axis=1)
    note = import_optional("PIL.PngImagePlugin", "pillow").PngInfo()
    note.add_text(SHEET_NOTE, json.dumps({"channels": list(planes), "size": joined.shape[::-1]}))
    file = io.BytesIO()
    import_optional("PIL.Image", "pillow").fromarray(joined).save(file, "PNG", pnginfo=note, optimize=True)
    return file.getvalue()


# ---- One channel in its colour ----


def reduce_picture(pixels: Pixels, channel: str, path: Any) -> Pixels:
    """The plane of an RGB picture that carries a channel; raises ValueError if another carries signal."""
    signal, leaking = signal_of_colours(pixels, COLOUR_PLANES.get(channel, ()))
    if leaking > MOST_LEAKING_PIXELS:
        means = pixels.reshape(-1, 3).mean(axis=0)
        raise ValueError(
            f"{path} is a composite: its red, green and blue have the means {means.round(1).tolist()}; expected signal "
            f"in {channel} alone. Give each channel's own picture."
        )
    return signal


def signal_of_colours(samples: Pixels, own: tuple[int, ...] = ()) -> tuple[Pixels, float]:
    """The one channel that a colour picture shows: in red, green, blue, yellow, any other mixture, or grey.

    Args:
        samples: `[height, width, 3]`.
        own: The samples in which the channel must be shown where it is not grey; empty allows any.

    Returns:
        The channel `[height, width]` in the picture's dtype, and the share of pixels whose colours disagree with it:
        above `MOST_LEAKING_PIXELS`, the picture is a composite or shows another channel.
    """
    means = samples.reshape(-1, samples.shape[-1]).mean(axis=0)
    lit = means >= LEAK_FRACTION_OF_SIGNAL * means.max()
    signal, leaking = _signal_of_samples(samples, lit)
    if own and not lit.all():  # near black, noise decides which samples are lit
        leaking = max(leaking, _signal_of_samples(samples, np.isin(np.arange(len(lit)), own))[1])
    return np.asarray(np.rint(signal) if samples.dtype.kind in "ui" else signal, samples.dtype), leaking


def _signal_of_samples(samples: Pixels, lit: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
    """Mean of the samples that carry a signal, and the share of pixels in which a sample disagrees with it."""
    signal = samples[..., lit].mean(axis=-1, dtype=np.float32)
    full_scale = float(np.iinfo(samples.dtype).max) if samples.dtype.kind in "ui" else float(samples.max())
    leaking = np.zeros(signal.shape, bool)
    for sample, is_lit in zip(np.moveaxis(samples, -1, 0), lit, strict=True):
        leak = np.abs(sample - signal) if is_lit else sample
        leaking |= leak > LEAK_FRACTION_OF_SIGNAL * signal + LEAK_OFFSET * full_scale
    return signal, float(leaking.mean())
