"""Crops equal the published ones, but for the two mistakes of those."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subcell_hf.cells.single_cells import CropSettings, crop_field, select_cells
from subcell_hf.images.fields_of_view import FieldError
from subcell_hf.images.tables import CellBox
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.types import FieldOfView

CHANNELS = ("red", "yellow", "blue", "green")


@pytest.fixture(scope="module")
def golden(golden_files: Path) -> dict[str, Any]:
    return dict(np.load(golden_files / "crops_small.npz"))


def _field(golden: dict[str, Any]) -> FieldOfView:
    pixels = np.ascontiguousarray(golden["in.image_hwc"].transpose(2, 0, 1))
    mask = golden["in.cellmask"].astype(np.int32)
    return FieldOfView("fixture", pixels, CHANNELS, PUBLISHED_PIXEL_SIZE_UM, mask, {"antibody": "HPA1"})


def _lost_upstream(golden: dict[str, Any], index: int) -> tuple[np.ndarray, np.ndarray]:
    """Where upstream lost the field's last row and column in a crop of 96 px: `[96, 96]` for pixels and for the mask.

    The mask is dilated after the loss, so it differs within 3 px of the lost line as well.
    """
    _, top, left, rows, columns = golden["in.bbox"][index]
    start = int(top + rows / 2 - 48), int(left + columns / 2 - 48)
    lost = np.zeros((2, 96, 96), np.bool_)
    for axis in (0, 1):
        line = 255 - start[axis]
        if line < 96:
            for plane, reach in zip(lost, (0, 3), strict=True):
                np.moveaxis(plane, axis, 0)[line - (0 if reach == 0 else reach) : line + reach + 1] = True
    return lost[0], lost[1]


def test_crops_are_bit_equal_to_the_published_ones(golden: dict[str, Any]) -> None:
    crops = crop_field(_field(golden), CropSettings(crop_px=96, output_px=96))
    assert crops.pixels.dtype == np.uint16
    for index, published in enumerate(golden["out.crops96"]):
        lost, lost_of_mask = _lost_upstream(golden, index)
        np.testing.assert_array_equal(crops.pixels[index][:, ~lost], published[..., :4].transpose(2, 0, 1)[:, ~lost])
        np.testing.assert_array_equal(crops.cell_masks[index][~lost_of_mask], published[..., 4][~lost_of_mask] > 0)
    crossing = [_lost_upstream(golden, index)[0].any() for index in range(9)]
    assert crossing == [False, False, True, False, True, True, True, True, False]


def test_the_last_row_and_column_of_the_field_are_kept(golden: dict[str, Any]) -> None:
    field = _field(golden)
    crops = crop_field(field, CropSettings(crop_px=96, output_px=96))
    for index, (_, top, left, rows, columns) in enumerate(golden["in.bbox"]):
        start = int(top + rows / 2 - 48), int(left + columns / 2 - 48)
        padded = np.pad(field.pixels, ((0, 0), (96, 96), (96, 96)))
        expected = padded[:, start[0] + 96 : start[0] + 192, start[1] + 96 : start[1] + 192]
        np.testing.assert_array_equal(crops.pixels[index], expected)


def test_resized_crops_are_bit_equal_to_the_published_ones(golden: dict[str, Any]) -> None:
    # Upstream resized linearly and rounded halves to even; at 2 : 1 that is the mean of 2 x 2 pixels, matched exactly.
    crops = crop_field(_field(golden), CropSettings(crop_px=96, output_px=48))
    assert crops.pixel_size_um == pytest.approx(2 * PUBLISHED_PIXEL_SIZE_UM)
    for index, published in enumerate(golden["out.crops96_to_48"]):
        lost = _lost_upstream(golden, index)[0].reshape(48, 2, 48, 2).any(axis=(1, 3))
        np.testing.assert_array_equal(crops.pixels[index][:, ~lost], published[..., :4].transpose(2, 0, 1)[:, ~lost])


def test_masks_of_resized_crops_are_nearest(golden: dict[str, Any]) -> None:
    field = _field(golden)
    whole = crop_field(field, CropSettings(crop_px=96, output_px=96))
    resized = crop_field(field, CropSettings(crop_px=96, output_px=48))
    np.testing.assert_array_equal(resized.cell_masks, whole.cell_masks[:, ::2, ::2])


def test_records(golden: dict[str, Any]) -> None:
    crops = crop_field(_field(golden), CropSettings(crop_px=96, output_px=48))
    record = crops.cells[1]
    assert record["cell_id"] == "fixture_2"
    assert record["antibody"] == "HPA1"
    assert [record[name] for name in ("label", "top", "left", "height", "width")] == golden["in.bbox"][1].tolist()
    assert [cell["qc_cut_by_border"] for cell in crops.cells] == [
        False, True, True, False, True, True, False, True, False,
    ]  # fmt: skip
    areas = np.bincount(golden["in.cellmask"].ravel())[1:] * PUBLISHED_PIXEL_SIZE_UM**2
    assert [cell["qc_area_um2"] for cell in crops.cells] == pytest.approx(areas)
    assert all(cell["qc_saturation"] == 0 and cell["qc_empty_channels"] == "" for cell in crops.cells)
    assert all(cell["qc_focus"] > 0 for cell in crops.cells)
    of_channels = [[cell[f"qc_focus_{channel}"] for channel in crops.channels] for cell in crops.cells]
    assert [cell["qc_focus"] for cell in crops.cells] == [np.median(values) for values in of_channels]


def test_an_empty_protein_channel_is_flagged_and_kept(golden: dict[str, Any]) -> None:
    field = _field(golden)
    pixels = field.pixels.copy()
    pixels[3] = 100
    crops = crop_field(replace(field, pixels=pixels), CropSettings(crop_px=32, output_px=32))
    assert len(crops.cells) == 9
    assert {cell["qc_empty_channels"] for cell in crops.cells} == {"green"}


def test_boxes_move_the_centre(golden: dict[str, Any]) -> None:
    field, settings = _field(golden), CropSettings(crop_px=96, output_px=96)
    centred = crop_field(field, settings)
    moved = crop_field(field, settings, [CellBox(4, 131 - 10, 165 + 6, 50, 45)])
    assert [cell["cell_id"] for cell in moved.cells] == ["fixture_4"]
    np.testing.assert_array_equal(moved.pixels[0][:, 10:, :-6], centred.pixels[3][:, :-10, 6:])
    np.testing.assert_array_equal(moved.cell_masks[0][10:, :-6], centred.cell_masks[3][:-10, 6:])


def test_boxes_without_a_mask_are_the_cells(golden: dict[str, Any]) -> None:
    field, settings = replace(_field(golden), label_mask=None), CropSettings(crop_px=96, output_px=96)
    crops = crop_field(field, settings, [CellBox(1, 100, 100, 20, 30), CellBox(2, -10, 240, 30, 40)])
    assert crops.cell_masks.sum(axis=(1, 2)).tolist() == [26 * 36, 26 * 22]
    assert [cell["qc_area_um2"] for cell in crops.cells] == pytest.approx(
        [600 * PUBLISHED_PIXEL_SIZE_UM**2, 320 * PUBLISHED_PIXEL_SIZE_UM**2]
    )
    assert [cell["qc_cut_by_border"] for cell in crops.cells] == [False, True]


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_crops_cover_the_same_micrometres_at_any_pixel_size(factor: int) -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 250, (2, 60, 60), dtype=np.uint8)
    mask = np.zeros((60, 60), np.int32)
    mask[20:40, 15:39] = 1
    settings = CropSettings(crop_px=48, reference_pixel_size_um=0.1, output_px=48, dilation_px=1)
    reference = crop_field(FieldOfView("f", coarse, ("blue", "green"), 0.1, mask), settings)
    block = np.ones((factor, factor), np.uint8)
    fine = FieldOfView("f", np.kron(coarse, block), ("blue", "green"), 0.1 / factor, np.kron(mask, block))
    crops = crop_field(fine, settings)
    assert crops.pixels.shape == reference.pixels.shape
    assert crops.pixel_size_um == reference.pixel_size_um == pytest.approx(0.1)
    assert crops.cells[0]["qc_area_um2"] == pytest.approx(reference.cells[0]["qc_area_um2"])
    np.testing.assert_array_equal(crops.pixels, reference.pixels)
    np.testing.assert_array_equal(crops.cell_masks, reference.cell_masks)


def test_a_written_08_is_taken_for_the_published_pixel_size(golden: dict[str, Any]) -> None:
    field, settings = _field(golden), CropSettings(crop_px=96, output_px=48)
    rounded = crop_field(replace(field, pixel_size_um=0.08), settings)
    np.testing.assert_array_equal(rounded.pixels, crop_field(field, settings).pixels)


def test_dilation_keeps_its_micrometres() -> None:
    settings = CropSettings()
    assert [settings.dilation_radius_px(size) for size in (0.02, 0.04, 0.0800885, 0.16, 0.65)] == [12, 6, 3, 2, 0]


@pytest.mark.parametrize(
    ("settings", "labels", "reason"),
    [
        (CropSettings(exclude_border=True), [1, 4, 7, 9], "cut by the border"),
        (CropSettings(min_area_um2=6), [1, 2, 3, 4, 5, 7, 9], "below 6"),
        (CropSettings(max_area_um2=6), [6, 8], "above 6"),
    ],
)
def test_filters_say_whom_they_leave_out(
    golden: dict[str, Any], settings: CropSettings, labels: list[int], reason: str
) -> None:
    kept, filtered = select_cells(_field(golden), settings)
    assert [cell.record["label"] for cell in kept] == labels
    assert sorted(labels + [cell.record["label"] for cell, _ in filtered]) == list(range(1, 10))
    assert all(reason in why for _, why in filtered)
    assert [cell["label"] for cell in crop_field(_field(golden), replace(settings, crop_px=96)).cells] == labels


def test_saturation_filter(golden: dict[str, Any]) -> None:
    field = _field(golden)
    pixels = field.pixels.copy()
    pixels[0, 138:190, 44:60] = 65_535
    field = replace(field, pixels=pixels)
    kept, filtered = select_cells(field, CropSettings(max_saturation=0.1))
    assert [cell.record["label"] for cell, _ in filtered] == [1]
    assert "above 0.1" in filtered[0][1]
    assert len(kept) == 8
    with pytest.raises(FieldError, match="the value of saturation is unknown"):
        select_cells(replace(field, pixels=pixels.astype(np.float32)), CropSettings(max_saturation=0.1))


@pytest.mark.parametrize(
    ("change", "boxes", "message"),
    [
        ({"label_mask": None}, None, "neither label mask nor boxes"),
        ({"label_mask": np.zeros((256, 256), np.int32)}, None, "empty label mask"),
        ({}, [CellBox(77, 1, 1, 5, 5)], "box 77 has no pixel"),
        ({}, [CellBox(1, 1, 1, 5, 5), CellBox(1, 2, 2, 5, 5)], "2 boxes with cell_id 1"),
        ({"label_mask": None}, [CellBox(1, 300, 1, 5, 5)], "lies outside of the field of 256 x 256 px"),
        ({"metadata": {"label": "x"}}, None, "metadata column 'label'"),
    ],
)
def test_bad_cells_are_refused(golden: dict[str, Any], change: dict[str, Any], boxes: Any, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        crop_field(replace(_field(golden), **change), CropSettings(), boxes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_px": 0}, "crop_px is 0"),
        ({"output_px": -1}, "output_px is -1"),
        ({"dilation_px": 6}, "odd number"),
        ({"reference_pixel_size_um": 0.0}, "more than 0"),
        ({"max_saturation": 1.5}, "share from 0 to 1"),
        ({"min_area_um2": 5.0, "max_area_um2": 4.0}, "every cell would be excluded"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropSettings(**settings)
