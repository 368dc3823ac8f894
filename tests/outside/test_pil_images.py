"""Images of Pillow, as everybody's datasets hand them out: every bit of them, or refused with a remedy."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from transformers import pipeline

from subcell_hf.model.configuration_subcell import TASK
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from tests.hub.tiny_models import save_tiny

COLOURS = ["red", "yellow", "blue", "green"]
RAW = {"size": 64, "do_normalize": False}


def _draw(dtype: Any, top: float, seed: int = 0, planes: int = 4) -> Any:
    return (np.random.default_rng(seed).random((planes, 64, 64)) * top).astype(dtype)


def _picture(plane: Any, mode: str) -> Any:
    """An image of a mode with the values of a plane, as Pillow itself makes it from bytes."""
    stored = plane.astype({"I;16B": ">u2", "I;16L": "<u2"}.get(mode, plane.dtype))
    return Image.frombytes(mode, (64, 64), stored.tobytes())


MODES = [
    ("L", np.uint8, 255), ("I;16", np.uint16, 65535), ("I;16B", np.uint16, 65535), ("I;16L", np.uint16, 65535),
    ("I", np.int32, 100_000), ("F", np.float32, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "dtype", "top"), MODES, ids=[mode for mode, *_ in MODES])
def test_grey_images_of_every_depth(mode: str, dtype: Any, top: float) -> None:
    planes = _draw(dtype, top)
    pictures = [_picture(plane, mode) for plane in planes]
    assert [picture.mode for picture in pictures] == [mode] * 4
    processor = SubCellImageProcessor(COLOURS, **RAW)
    expected = torch.from_numpy(planes.astype(np.float32))[None]
    by_name = dict(zip(COLOURS, pictures, strict=True))
    for given in (by_name, pictures, tuple(pictures), [pictures], [by_name]):
        torch.testing.assert_close(processor(given)["pixel_values"], expected, atol=0, rtol=0)
    two = processor([pictures, pictures[::-1]])["pixel_values"]
    torch.testing.assert_close(two, torch.cat([expected, expected.flip(1)]), atol=0, rtol=0)
    reordered = processor(pictures[::-1], channels=COLOURS[::-1])["pixel_values"]
    torch.testing.assert_close(reordered, expected, atol=0, rtol=0)
    alone = SubCellImageProcessor(["green"], **RAW)
    torch.testing.assert_close(alone(pictures[3])["pixel_values"], expected[:, 3:], atol=0, rtol=0)
    torch.testing.assert_close(alone(pictures)["pixel_values"], expected.transpose(0, 1), atol=0, rtol=0)


def test_planes_of_a_list_may_be_arrays() -> None:
    planes = _draw(np.uint16, 65535)
    processor = SubCellImageProcessor(COLOURS, size=64)
    expected = processor(planes)["pixel_values"]
    for given in (list(planes), [list(planes)], [torch.from_numpy(plane) for plane in planes]):
        torch.testing.assert_close(processor(given)["pixel_values"], expected)
    with pytest.raises(ValueError, match="Image 0 has 3 planes; expected 4: red, yellow, blue, green"):
        processor(list(planes[:3]))


def test_colours_are_planes_by_name() -> None:
    planes = _draw(np.uint8, 255, planes=3)
    picture = Image.fromarray(planes.transpose(1, 2, 0).copy())
    expected = torch.from_numpy(planes.astype(np.float32))[None]
    ordered = SubCellImageProcessor(["blue", "red", "green"], **RAW)  # not the order of the picture
    torch.testing.assert_close(ordered(picture)["pixel_values"], expected[:, [2, 0, 1]], atol=0, rtol=0)
    opaque = picture.copy()
    opaque.putalpha(255)
    torch.testing.assert_close(ordered([opaque])["pixel_values"], expected[:, [2, 0, 1]], atol=0, rtol=0)
    named = SubCellImageProcessor(["dna", "er", "actin"], **RAW)
    given = named(picture, channels=["actin", "dna", "er"])["pixel_values"]
    torch.testing.assert_close(given, expected[:, [1, 2, 0]], atol=0, rtol=0)
    palette = picture.quantize(16)
    shown = np.asarray(palette.convert("RGB")).transpose(2, 0, 1).astype(np.float32)
    torch.testing.assert_close(ordered(palette)["pixel_values"][0], torch.from_numpy(shown[[2, 0, 1]]))
    several = ordered([palette, picture])["pixel_values"]
    torch.testing.assert_close(several[1], expected[0, [2, 0, 1]], atol=0, rtol=0)
    for processor, lacking in ((SubCellImageProcessor(COLOURS), "yellow"), (named, "dna and er and actin")):
        with pytest.raises(ValueError, match=f"Image 0 is an RGB picture without a colour for {lacking}"):
            processor(picture)


def test_a_coloured_picture_is_one_plane_if_it_shows_one() -> None:
    plane = _draw(np.uint8, 255)[0]
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = plane
    grey = np.stack([plane] * 3, axis=-1)
    processor = SubCellImageProcessor(["red", "green"], **RAW)
    made = processor({"red": Image.fromarray(red), "green": Image.fromarray(grey)})["pixel_values"]
    torch.testing.assert_close(made, torch.from_numpy(np.stack([plane, plane]).astype(np.float32))[None])
    noise = Image.fromarray(_draw(np.uint8, 255, planes=3).transpose(1, 2, 0).copy())
    with pytest.raises(ValueError, match="Image 0, green, is a composite"):
        processor({"red": Image.fromarray(red), "green": noise})


def _refused(folder: Path) -> dict[str, tuple[Any, str]]:
    noise = _draw(np.uint8, 255).transpose(1, 2, 0).copy()
    deep = imagecodecs.png_encode(noise[..., :3].astype(np.uint16) * 257)
    tifffile.imwrite(folder / "deep.tif", noise[..., :3].astype(np.uint16) * 257, photometric="rgb")
    tifffile.imwrite(folder / "inverted.tif", noise[..., 0], photometric="miniswhite")
    tifffile.imwrite(folder / "frames.tif", noise.transpose(2, 0, 1)[:, None].copy(), photometric="minisblack")
    loaded = Image.open(folder / "deep.tif")
    loaded.load()
    whole = io.BytesIO()
    Image.fromarray(noise[..., 0]).save(whole, "PNG")
    clear = Image.fromarray(noise[..., 0]).quantize(4)
    clear.info["transparency"] = 0
    return {
        "deep PNG": (Image.open(io.BytesIO(deep)), "has 16-bit colours, of which only 8 bits could be read"),
        "deep TIFF": (Image.open(folder / "deep.tif"), "has 16-bit colours"),
        "loaded TIFF": (loaded, "has 16-bit colours"),
        "inverted": (Image.open(folder / "inverted.tif"), "has the photometric interpretation MinIsWhite"),
        "frames": (Image.open(folder / "frames.tif"), "holds 4 frames; expected one: give .copy()"),
        "alpha": (Image.fromarray(noise), "has the mode RGBA; expected a grey or RGB picture. Convert it"),
        "grey alpha": (Image.fromarray(noise[..., :2].copy(), "LA"), "has the mode LA"),
        "ink": (Image.fromarray(noise[..., :3].copy()).convert("CMYK"), "has the mode CMYK"),
        "hue": (Image.fromarray(noise[..., :3].copy()).convert("HSV"), "has the mode HSV"),
        "clear palette": (clear, "has the photometric interpretation Palette"),
        "cut": (Image.open(io.BytesIO(whole.getvalue()[:2000])), "cannot be read .* damaged or closed"),
    }


def test_what_cannot_be_read_right_is_refused(tmp_path: Path) -> None:
    processor = SubCellImageProcessor(["green"], size=64)
    for picture, message in _refused(tmp_path).values():
        with pytest.raises(ValueError, match=f"Image 0 {message}"):
            processor(picture)
        with pytest.raises(ValueError, match=f"Image 1, green, {message}"):
            processor([{"green": np.ones((64, 64), np.uint8)}, {"green": picture}])
    with pytest.raises(ValueError, match="Image 0 is bool; expected intensities"):
        processor(Image.new("1", (64, 64)))


def test_masks() -> None:
    planes = _draw(np.uint8, 255)
    inside = np.zeros((64, 64), bool)
    inside[10:40, 10:50] = True
    processor = SubCellImageProcessor(COLOURS, size=64)
    expected = processor(planes, inside)["pixel_values"]
    for mask in (
        Image.fromarray(inside),
        Image.fromarray(inside.astype(np.uint8) * 255),
        Image.fromarray(inside.astype(np.int32)),
    ):
        for given in (mask, [mask]):
            torch.testing.assert_close(processor(planes, given)["pixel_values"], expected)
    with pytest.raises(ValueError, match="Cell mask 0 holds other values than 0 and 1"):
        processor(planes, Image.fromarray(inside.astype(np.uint8) * 7))


def test_the_pipeline_reads_them_too(tmp_path: Path) -> None:
    folder = save_tiny("SubCellForImageClassification", tmp_path / "tiny")
    locate = pipeline(model=str(folder), return_embedding=True)
    planes = _draw(np.uint16, 65535)
    pictures = [_picture(plane, "I;16") for plane in planes]
    mask = Image.fromarray((np.arange(4096).reshape(64, 64) > 999).astype(np.uint8) * 255)
    by_name = dict(zip(COLOURS, pictures, strict=True))
    expected = locate({"image": planes, "cell_mask": np.asarray(mask) > 0})
    for given in ({**by_name, "cell_mask": mask}, {"image": pictures, "cell_mask": mask}):
        np.testing.assert_array_equal(locate(given)["embedding"], expected["embedding"])
    several = locate([pictures, by_name, planes])
    for found in several:
        np.testing.assert_array_equal(found["embedding"], several[2]["embedding"])
    with pytest.raises(ValueError, match="Image 0 is a grey picture of 64×64 px; as a sheet of 4 channels"):
        locate(pictures)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16"])
def test_a_pipeline_of_half_precision_gives_numbers(dtype: Any, tmp_path: Path) -> None:
    folder = str(save_tiny("SubCellForImageClassification", tmp_path / "tiny"))
    locate = pipeline(model=folder, dtype=dtype, return_embedding=True, return_attention=True, top_k=None)
    assert locate.model.dtype == (torch.bfloat16 if dtype == "bfloat16" else dtype)
    cell = _draw(np.uint16, 65535)
    found, exact = locate(cell), pipeline(model=folder, return_embedding=True, top_k=None)(cell)
    assert found["embedding"].dtype == found["attention"].dtype == np.float32
    np.testing.assert_allclose(found["embedding"], exact["embedding"], atol=0.05)
    scores = [{place["label"]: place["score"] for place in result["locations"]} for result in (found, exact)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
    model = SubCellForImageClassification.from_pretrained(folder, dtype=dtype)
    by_parts = pipeline(TASK, model=model, image_processor=locate.image_processor, return_embedding=True)(cell)
    np.testing.assert_array_equal(by_parts["embedding"], found["embedding"])
