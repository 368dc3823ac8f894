"""A user's own function segments fields; what it returns is checked like a mask, and which version ran is recorded."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields, read_crop_table
from subcell_hf.cells.custom_functions import import_function
from subcell_hf.cells.custom_segmentation import describe_segmentation
from subcell_hf.cells.segmentation import segment_cells
from subcell_hf.cells.sources import ImageFields
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldError, find_fields
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.field_reading import read_planes
from subcell_hf.types import FieldOfView
from tests.images.written_fields import label_mask, random_plane, write_hpa_field

SMALL = CropSettings(crop_px=32, output_px=16)
SOURCE = '''
"""Two cells, as `label_mask` draws them."""

import numpy as np


def two_cells(field):
    assert set(field.channels) == {"red", "yellow", "blue", "green"}  # whatever a model takes
    mask = np.zeros(field.pixels.shape[1:], np.uint16)
    mask[10:30, 12:40] = 3
    mask[-14:, -20:] = 7
    return mask


def one_class(field):
    return (two_cells(field) > 0).astype(int)


NOTHING = None
'''


def field() -> FieldOfView:
    return FieldOfView("f", np.stack([random_plane(1), random_plane(2)]), ("blue", "green"), 0.3)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "my_segmentation.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_a_function_of_a_file_segments_fields(tmp_path: Path, module: Path) -> None:
    write_hpa_field(tmp_path / "images", with_mask=False)
    arguments = ["crops", str(tmp_path / "images"), "--output", str(tmp_path / "crops"), "--crop-size-px", "32"]
    arguments += ["--output-size-px", "16", "--segmentation", f"{module}:two_cells", "--pixel-size-um", "0.3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    table = read_crop_table(tmp_path / "crops")
    assert table["label"].tolist() == [3, 7]


def test_a_function_of_a_module_sees_the_field() -> None:
    seen = []

    def one_corner(given: FieldOfView) -> npt.NDArray[np.int64]:
        seen.append(given)
        labels = np.zeros(given.pixels.shape[1:], np.int64)
        labels[:9, :9] = 5
        return labels

    given = field()
    labels = segment_cells(given, one_corner)
    assert seen == [given]
    assert labels.dtype == np.int32
    assert (labels == 5).sum() == 81
    assert import_function("tests.images.written_fields:label_mask") is label_mask


def test_masks_of_classes_are_refused_unless_trusted(tmp_path: Path, module: Path) -> None:
    write_hpa_field(tmp_path / "images", with_mask=False)
    method = f"{module}:one_class"
    with pytest.raises(FieldError, match=r"segmentation by .*one_class has 1 of 1 labels in separate pieces"):
        crop_fields(tmp_path / "images", tmp_path / "crops", settings=SMALL, segmentation=method)
    images = ImageFields(tmp_path / "images", settings=SMALL, segmentation=method)
    trusting = replace(images, reading=replace(images.reading, trust_masks=True))
    assert len(trusting.read("800_A6_1").cells) == 1
    with pytest.raises(FieldError, match="separate pieces"):
        images.read("800_A6_1")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda _: np.zeros((2, 2), int), r"has shape \(2, 2\), expected \(64, 72\)"),
        (lambda given: given.pixels[1] / 9, "is float64, expected whole numbers"),
        (lambda given: given.pixels[1] > 9, "is bool, expected whole numbers"),
        (lambda given: -np.ones(given.pixels.shape[1:], int), "has labels -1 to -1"),
        (lambda _: None, r"has shape \(\)"),
        (lambda given: given.nucleus, "failed with AttributeError: .*nucleus"),
        (lambda given: np.zeros(given.pixels.shape[1:], int), "no cell was found"),
    ],
)
def test_what_a_function_must_not_return(returned: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        segment_cells(field(), returned)


def test_functions_that_cannot_be_imported(module: Path) -> None:
    for method, message in {
        f"{module}:three_cells": "three_cells",
        f"{module}:NOTHING": "is a NoneType, expected a function",
        f"{module.parent}/other.py:two_cells": "FileNotFoundError",
        "no_such_module:function": "No module named 'no_such_module'",
        ":function": "cannot be imported",
        "my_method": "method 'my_method': choose one of watershed, cellpose, stardist, or a function",
    }.items():
        with pytest.raises(InputError, match=message):
            segment_cells(field(), method)


def test_another_version_of_the_file_is_another_run(tmp_path: Path, module: Path) -> None:
    write_hpa_field(tmp_path / "images", with_mask=False)
    method = f"{module}:two_cells"
    first, prints = describe_segmentation(method), ImageFields(tmp_path / "images", segmentation=method).fingerprint()
    assert first.startswith(f"{method} ")
    assert describe_segmentation("watershed") == "watershed"
    module.write_text(SOURCE + "\n\nBETTER = True\n", encoding="utf-8")
    assert describe_segmentation(method) != first
    assert ImageFields(tmp_path / "images", segmentation=method).fingerprint() != prints


def test_embedding_gives_the_function_channels_that_the_model_does_not_take(tmp_path: Path, module: Path) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    (found,) = find_fields(tmp_path)
    image, variant = read_planes(found, (Variant("bg", ("blue", "green")),), f"{module}:two_cells")
    assert image.channels == variant.channels == ("blue", "green")
    np.testing.assert_array_equal(image.label_mask, label_mask())


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "masks.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_cells.py").write_text(example, encoding="utf-8")
    rows, columns = np.mgrid[:501, :801] * 0.1
    nuclei = (np.hypot(rows - 25, columns - 20) < 5) | (np.hypot(rows - 25, columns - 60) < 5)
    bodies = (np.hypot(rows - 25, columns - 20) < 12) | (np.hypot(rows - 25, columns - 60) < 12)
    pixels = np.stack([np.where(inside, 200, 10) for inside in (nuclei, bodies)]).astype(np.uint8)
    image = FieldOfView("f", pixels, ("blue", "green"), 0.1)
    labels = segment_cells(image, f"{tmp_path}/my_cells.py:cells")
    assert labels.max() == 2
    assert (labels == segment_cells(image)).mean() > 0.99
