"""Masks of other programs find their fields by a pattern of paths; what does not fit is named."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldError, FoundFields, ReadingOptions, list_fields
from subcell_hf.images.masks.named_masks import MaskPattern
from tests.images.written_fields import label_mask, random_plane, write_hpa_field, write_png


def write_gen5(folder: Path, wells: tuple[str, ...] = ("F7", "F8"), sites: tuple[int, ...] = (1, 2)) -> None:
    """A plate as Gen5 of a BioTek Cytation names its files."""
    folder.mkdir(parents=True)
    for number, (well, site) in enumerate((well, site) for well in wells for site in sites):
        for index, channel in enumerate(("DAPI", "GFP"), start=1):
            path = folder / f"{well}_01_{index}_{site}_{channel}_001.tif"
            tifffile.imwrite(path, random_plane(10 * number + index, dtype="uint16"))


def found_by(source: Path, pattern: str) -> FoundFields:
    return list_fields(source, ReadingOptions(masks=pattern, pixel_size_um=0.3))


def masks_of(found: FoundFields) -> dict[str, str]:
    return {item.name: item.listed.mask_file.name if item.listed.mask_file else "" for item in found.fields}


def reasons_of(found: FoundFields) -> dict[str, str]:
    return {Path(path).name: reason for path, reason in found.unused.items()}


def test_masks_named_after_an_image_in_another_folder(tmp_path: Path) -> None:
    write_gen5(tmp_path / "plate")
    (tmp_path / "masks").mkdir()
    for stem in ("F7_01_2_1_GFP_001", "F7_01_2_2_GFP_001", "F8_01_2_1_GFP_001", "F8_01_2_2_GFP_001"):
        tifffile.imwrite(tmp_path / "masks" / f"{stem}_MaskCells.tiff", label_mask())
        tifffile.imwrite(tmp_path / "masks" / f"{stem}_MaskNuclei.tiff", label_mask())  # not asked for
    found = found_by(tmp_path / "plate", f"{tmp_path}/masks/{{file}}_MaskCells.tiff")
    assert found.layout.startswith("BioTek")
    assert masks_of(found) == {
        f"plate_{well}_{site}": f"{well[0]}{int(well[1:])}_01_2_{site}_GFP_001_MaskCells.tiff"
        for well in ("F07", "F08")
        for site in (1, 2)
    }
    assert not found.unused
    np.testing.assert_array_equal(found.fields[0].read().label_mask, label_mask())


def test_masks_named_after_well_and_site_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gen5(tmp_path / "plate")
    (tmp_path / "labels" / "plate").mkdir(parents=True)
    for well in ("f07", "F8"):
        for site in ("01", "2"):
            tifffile.imwrite(tmp_path / "labels" / "plate" / f"{well}-s{site} v2.tif", label_mask())
    monkeypatch.chdir(tmp_path)
    found = found_by(tmp_path / "plate", "labels/{plate}/{well}-s{site} v?.tif")
    assert masks_of(found) == {
        "plate_F07_1": "f07-s01 v2.tif",
        "plate_F07_2": "f07-s2 v2.tif",
        "plate_F08_1": "F8-s01 v2.tif",
        "plate_F08_2": "F8-s2 v2.tif",
    }
    assert all(item.listed.problem is None for item in found.fields)


def test_masks_beside_the_images_are_not_taken_for_images(tmp_path: Path) -> None:
    for number, plate in enumerate(("one", "two")):  # of equal names, so that only the folder says whose a mask is
        for name in ("800_A6_1", "800_A6_2"):
            write_hpa_field(tmp_path / plate, name, with_mask=False)
            write_png(tmp_path / plate / f"{name}_green.png", random_plane(10 * number + int(name[-1])))
            write_png(tmp_path / plate / f"{name}_blue_cp_masks.png", label_mask())
    found = found_by(tmp_path, "{file}_cp_masks.png")
    assert [(item.name, item.listed.problem) for item in found.fields] == [
        ("one/800_A6_1", None), ("one/800_A6_2", None), ("two/800_A6_1", None), ("two/800_A6_2", None),
    ]  # fmt: skip
    for item in found.fields:
        assert item.listed.mask_file == tmp_path / item.name[:3] / f"{item.name[4:]}_blue_cp_masks.png"
    assert not found.unused


def test_masks_in_a_tree_like_that_of_the_images(tmp_path: Path) -> None:
    for plate in ("one", "two/deep"):
        write_hpa_field(tmp_path / "images" / plate, with_mask=False)
        write_png(tmp_path / "images" / plate / "800_A6_1_green.png", random_plane(len(plate)))
        (tmp_path / "masks" / plate).mkdir(parents=True)
        write_png(tmp_path / "masks" / plate / "800_A6_1.png", label_mask())
    found = found_by(tmp_path / "images", f"{tmp_path}/masks/{{folder}}/{{name}}.png")
    for item in found.fields:
        assert item.listed.mask_file == tmp_path / "masks" / f"{item.name}.png"
        assert item.listed.problem is None
    assert [item.name for item in found.fields] == ["one/800_A6_1", "two/deep/800_A6_1"]


def test_a_field_without_its_mask_and_a_mask_without_its_field(tmp_path: Path) -> None:
    write_gen5(tmp_path / "plate", ("F7",), (1, 2))
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "F07_1.tif", label_mask())
    tifffile.imwrite(tmp_path / "masks" / "G07_1.tif", label_mask())
    found = found_by(tmp_path / "plate", f"{tmp_path}/masks/{{well}}_{{site}}.tif")
    first, second = found.fields
    assert first.read().label_mask is not None
    with pytest.raises(FieldError, match=r"'plate_F07_2' has no mask: no file fits .* with well 'F07', site '2'\."):
        second.read()
    assert reasons_of(found) == {"G07_1.tif": "a mask of no field of view: none has well 'G07', site '1'"}


def test_two_masks_of_a_field_and_a_mask_of_two_fields(tmp_path: Path) -> None:
    write_gen5(tmp_path / "plate", ("F7",), (1, 2))
    (tmp_path / "masks").mkdir()
    for name in ("F7_1.tif", "F07_1.tif", "F7_2.tif"):
        tifffile.imwrite(tmp_path / "masks" / name, label_mask())
    first, second = found_by(tmp_path / "plate", f"{tmp_path}/masks/{{well}}_{{site}}.tif").fields
    assert second.listed.problem is None
    with pytest.raises(FieldError, match=r"'plate_F07_1' has 2 masks: .*F07_1.tif, .*F7_1.tif"):
        first.read()
    (tmp_path / "masks" / "F07_1.tif").unlink()
    for item in found_by(tmp_path / "plate", f"{tmp_path}/masks/{{well}}_*.tif").fields:
        with pytest.raises(FieldError, match="has 2 masks"):
            item.read()
    (tmp_path / "masks" / "F7_1.tif").unlink()
    for item in found_by(tmp_path / "plate", f"{tmp_path}/masks/{{well}}_*.tif").fields:
        with pytest.raises(FieldError, match=r"F7_2.tif is the mask of 2 fields of view: 'plate_F07_1', 'plate_F07_2'"):
            item.read()


def test_the_mask_of_the_usual_name_is_named_where_a_pattern_wins(tmp_path: Path) -> None:
    write_hpa_field(tmp_path)
    other = label_mask()[::-1].copy()
    write_png(tmp_path / "800_A6_1_green_labels.png", other)
    (item,) = (found := found_by(tmp_path, "{name}_green_labels.png")).fields
    np.testing.assert_array_equal(item.read().label_mask, other)
    assert reasons_of(found).keys() == {"800_A6_1_mask.png"}
    (same,) = (found := found_by(tmp_path, "{name}_mask.png")).fields
    np.testing.assert_array_equal(same.read().label_mask, label_mask())
    assert reasons_of(found).keys() == {"800_A6_1_green_labels.png"}


def test_one_image_with_masks_of_others_beside_it(tmp_path: Path) -> None:
    for name in "ab":
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", np.stack([random_plane(1), random_plane(2)]))
        write_png(tmp_path / f"{name}_stardist.png", label_mask())
    found = list_fields(tmp_path / "a.ome.tif", ReadingOptions(masks="{file}_stardist.png"))
    assert masks_of(found) == {"a": "a_stardist.png"}
    assert not found.unused


def test_a_binary_mask_of_touching_cells_is_refused(tmp_path: Path) -> None:
    write_gen5(tmp_path / "plate", ("F7",), (1,))
    tifffile.imwrite(tmp_path / "F7.tiff", (label_mask() > 0).astype(np.uint8) * 255)
    (item,) = found_by(tmp_path / "plate", f"{tmp_path}/{{well}}.tiff").fields
    with pytest.raises(FieldError, match=r"has 1 of 1 labels in separate pieces.*Give every cell a separate number"):
        item.read()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("masks", "has the placeholders none"),
        ("masks/{picture}.tif", r"\{picture\}, which has no meaning; expected some of \{file\}"),
        ("masks/{folder}_{name}.tif", r"\{folder\} only as \{folder\}/"),
    ],
)
def test_patterns_that_name_no_field(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskPattern(pattern)


def test_a_pattern_that_nothing_fits(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    with pytest.raises(FieldError, match=r"No file fits the pattern of masks '\{file\}_cp_masks.png' \(/"):
        found_by(tmp_path, "{file}_cp_masks.png")
