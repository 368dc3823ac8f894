"""Crops out of images and out of a folder of crops are the same, down to the shards' bytes."""

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import CroppedFields, ImageFields, crop_source
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.shards.sharding import write_shards
from subcell_hf.simulation.simulate import simulate_dataset


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, at any depth."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_command_line_from_images_and_from_crops(tmp_path: Path) -> None:
    simulate_dataset(4, 0, tmp_path / "images", antibodies=2, size_px=512, progress=False)
    crop_fields(tmp_path / "images", tmp_path / "crops", progress=False)
    runner = CliRunner()
    for name in ("images", "crops"):
        done = runner.invoke(app, ["shards", str(tmp_path / name), "--output", str(tmp_path / f"shards of {name}")])
        assert done.exit_code == 0, done.output
        assert "0 fields skipped" in done.output
    images, crops = (contents(tmp_path / f"shards of {name}") for name in ("images", "crops"))
    assert {name for name in images if images[name] != crops[name]} == {"index.json"}
    done = runner.invoke(app, ["shards-inspect", str(tmp_path / "shards of crops")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "shards of crops" / "contact_sheet.html").is_file()
    done = runner.invoke(app, ["splits", str(tmp_path / "shards of crops"), "--fractions", "train=0.5,test=0.5"])
    assert done.exit_code == 0, done.output
    assert "train 1, test 1" in done.output
    (tmp_path / "shards of crops" / "shard-000000.tar").write_bytes(b"short")
    done = runner.invoke(app, ["shards-inspect", str(tmp_path / "shards of crops")])
    assert done.exit_code == 1
    assert "has 5 bytes, expected" in done.output


def test_command_line_skips_with_exit_code_3(tmp_path: Path) -> None:
    simulate_dataset(3, 0, tmp_path / "images", antibodies=1, size_px=256, progress=False)
    broken = sorted((tmp_path / "images").glob("*_green.png"))[1]
    broken.write_bytes(broken.read_bytes()[:1000])
    arguments = ["shards", str(tmp_path / "images"), "--output", str(tmp_path / "shards"), "--split-by", "none"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 3, done.output
    assert "1 field skipped" in done.output
    assert broken.name.removesuffix("_green.png") in (tmp_path / "shards" / "skipped.csv").read_text()
    arguments[3] = str(tmp_path / "strict")
    done = CliRunner().invoke(app, [*arguments, "--strict"])
    assert done.exit_code == 2
    assert not (tmp_path / "strict" / "index.json").exists()


def test_sources_notice_changed_inputs(tmp_path: Path) -> None:
    simulate_dataset(2, 0, tmp_path / "images", antibodies=1, size_px=256, progress=False)
    crop_fields(tmp_path / "images", tmp_path / "crops", progress=False)
    images, crops = ImageFields(tmp_path / "images"), CroppedFields(tmp_path / "crops")
    before = images.fingerprint(), crops.fingerprint()
    assert before == (ImageFields(tmp_path / "images").fingerprint(), CroppedFields(tmp_path / "crops").fingerprint())
    os.utime(next((tmp_path / "images").glob("*_green.png")), (0, 0))
    assert ImageFields(tmp_path / "images").fingerprint() != before[0]
    assert [field.name for field in images.fields()] == [field.name for field in crops.fields()]
    name = images.fields()[0].name
    np.testing.assert_array_equal(images.read(name).pixels, crops.read(name).pixels)


def test_unfinished_folder_of_crops_is_refused(tmp_path: Path) -> None:
    (tmp_path / "crops.json").write_text('{"finished": false}')
    with pytest.raises(InputError, match="is not finished"):
        write_shards(CroppedFields(tmp_path), tmp_path / "shards", progress=False)


def test_what_is_said_of_images_is_refused_where_crops_are_given(tmp_path: Path) -> None:
    simulate_dataset(1, 0, tmp_path / "images", antibodies=1, size_px=256, progress=False)
    crop_fields(tmp_path / "images", tmp_path / "crops", progress=False)
    assert isinstance(crop_source(tmp_path / "crops", ImageFields(tmp_path)), CroppedFields)
    command = ["shards", str(tmp_path / "crops"), "--output", str(tmp_path / "shards")]
    done = CliRunner().invoke(app, [*command, "--channels", "bg"])
    assert done.exit_code == 2
    assert "holds crops, which are made already" in done.output
    assert not (tmp_path / "shards").exists()


def test_a_folder_that_is_not_there_is_a_message_and_not_a_traceback(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["shards-inspect", str(tmp_path / "nowhere")])
    assert done.exit_code == 2
    assert "nowhere" in done.output
    assert "Traceback" not in done.output


def test_a_folder_of_no_crops_says_so(tmp_path: Path) -> None:
    simulate_dataset(1, 0, tmp_path / "images", antibodies=1, size_px=256, progress=False)
    crop_fields(tmp_path / "images", tmp_path / "crops", settings=CropSettings(min_area_um2=1e6), progress=False)
    with pytest.raises(InputError, match=r"Nothing to write.*--metadata"):
        write_shards(crop_source(tmp_path / "crops"), tmp_path / "shards", progress=False)
