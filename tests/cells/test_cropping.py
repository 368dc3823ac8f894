"""`subcell crops`: skips and lists, stops when strict, resumes after a kill, and writes the same bytes each time."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields, read_crop_table, read_crops
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions
from tests.images.written_fields import write_hpa_field, write_png

SMALL = CropSettings(crop_px=32, output_px=16)
SMALL_OPTIONS = ("--crop-size-px", "32", "--output-size-px", "16")


def _content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three fields in a folder with a space and an umlaut in its name."""
    folder = tmp_path / "Bilder ä 1"
    for well in ("A1", "A2", "B1"):
        write_hpa_field(folder, f"7_{well}_1")
    return folder


def test_two_runs_and_two_processes_write_the_same_bytes(images: Path, tmp_path: Path) -> None:
    reports = [
        crop_fields(images, tmp_path / name, settings=SMALL, workers=workers, progress=False)
        for name, workers in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert reports[0] == reports[1] == reports[2]
    assert (reports[0].fields, reports[0].cells) == (3, 6)
    assert _content(tmp_path / "a") == _content(tmp_path / "b") == _content(tmp_path / "c")
    assert len(_content(tmp_path / "a")) == 4 + 2 * 3


def test_bad_fields_are_skipped_listed_and_counted(images: Path, tmp_path: Path) -> None:
    truncated = images / "7_A2_1_blue.png"
    truncated.write_bytes(truncated.read_bytes()[:500])
    report = crop_fields(images, tmp_path / "out", settings=SMALL, progress=False)
    assert (report.fields, report.cells, list(report.skipped)) == (2, 4, ["7_A2_1"])
    (row,) = _rows(tmp_path / "out/skipped.csv")
    assert row["field_of_view"] == "7_A2_1"
    assert "truncated" in row["reason"]
    assert str(truncated) in row["reason"]
    assert set(read_crop_table(tmp_path / "out")["field_of_view"]) == {"7_A1_1", "7_B1_1"}
    facts = json.loads((tmp_path / "out/crops.json").read_text())
    assert facts["counts"] == {"fields": 2, "cells": 4, "skipped_fields": 1, "filtered_cells": 0}


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_the_first_bad_field(images: Path, tmp_path: Path, workers: int) -> None:
    (images / "7_A2_1_blue.png").write_bytes(b"")
    with pytest.raises(FieldError, match=r"7_A2_1.*is empty"):
        crop_fields(images, tmp_path / "out", settings=SMALL, strict=True, workers=workers, progress=False)
    with pytest.raises(ValueError, match="not finished"):
        next(read_crops(tmp_path / "out"))


def test_filtered_cells_are_listed(images: Path, tmp_path: Path) -> None:
    settings = CropSettings(crop_px=32, output_px=16, exclude_border=True)
    report = crop_fields(images, tmp_path / "out", settings=settings, progress=False)
    assert (report.cells, report.filtered_cells) == (3, 3)
    rows = _rows(tmp_path / "out/filtered.csv")
    assert [row["cell_id"] for row in rows] == ["7_A1_1_7", "7_A2_1_7", "7_B1_1_7"]
    assert {row["reason"] for row in rows} == {"cut by the border"}


def test_a_field_whose_cells_are_all_filtered_out_is_no_error(images: Path, tmp_path: Path) -> None:
    settings = CropSettings(crop_px=32, output_px=16, min_area_um2=1e6)
    report = crop_fields(images, tmp_path / "out", settings=settings, progress=False)
    assert (report.fields, report.cells, report.filtered_cells, report.skipped) == (3, 0, 6, {})
    assert list(read_crops(tmp_path / "out")) == []
    assert len(read_crop_table(tmp_path / "out")) == 0


def test_finished_fields_are_not_done_again(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    crop_fields(images, output, settings=SMALL, progress=False)
    before = {path: path.stat().st_mtime_ns for path in (output / "fields").iterdir()}
    (output / "fields/7_B1_1.json").unlink()
    os.utime(images / "7_A2_1_red.png")  # taken again after it was cropped
    whole = _content(output)
    crop_fields(images, output, settings=SMALL, progress=False)
    changed = sorted(path.name for path in before if path.exists() and path.stat().st_mtime_ns != before[path])
    assert changed == ["7_A2_1.json", "7_A2_1.tiff", "7_B1_1.json", "7_B1_1.tiff"]
    assert {**whole, **_content(output)} == _content(output)


def test_new_metadata_reach_fields_that_are_finished(images: Path, tmp_path: Path) -> None:
    table = images / "metadata.csv"
    for antibody in ("HPA1", "HPA2"):
        names = "".join(f"7_{well}_1,{antibody}\n" for well in ("A1", "A2", "B1"))
        table.write_text("field_of_view,antibody\n" + names)
        crop_fields(images, tmp_path / "out", settings=SMALL, progress=False)
        assert set(read_crop_table(tmp_path / "out")["antibody"]) == {antibody}


def test_other_settings_and_other_folders_are_refused(images: Path, tmp_path: Path) -> None:
    crop_fields(images, tmp_path / "out", settings=SMALL, progress=False)
    with pytest.raises(ValueError, match=r"other settings \(output_px: 16 in that run, 32 now\)"):
        crop_fields(images, tmp_path / "out", settings=CropSettings(crop_px=32, output_px=32), progress=False)
    with pytest.raises(ValueError, match="is not a folder of crops"):
        crop_fields(images, images, settings=SMALL, progress=False)


def test_a_run_that_was_killed_at_its_very_beginning_is_taken_up(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / ".crops.json.0123abcd.part").write_text("{")
    assert crop_fields(images, output, settings=SMALL, progress=False).cells == 6
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/.notes.part").write_text("mine")
    with pytest.raises(ValueError, match="is not a folder of crops"):
        crop_fields(images, tmp_path / "foreign", settings=SMALL, progress=False)


def test_a_repaired_field_joins_in(images: Path, tmp_path: Path) -> None:
    good = (images / "7_A2_1_blue.png").read_bytes()
    (images / "7_A2_1_blue.png").write_bytes(b"")
    assert crop_fields(images, tmp_path / "out", settings=SMALL, progress=False).cells == 4
    (images / "7_A2_1_blue.png").write_bytes(good)
    report = crop_fields(images, tmp_path / "out", settings=SMALL, progress=False)
    assert (report.cells, report.skipped) == (6, {})
    crop_fields(images, tmp_path / "at once", settings=SMALL, progress=False)
    assert _content(tmp_path / "out") == _content(tmp_path / "at once")


@pytest.mark.slow
def test_a_killed_run_is_taken_up_and_ends_the_same(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for number in range(60):
        write_hpa_field(images, f"7_A1_{number}", shape=(300, 300))
    crop_fields(images, tmp_path / "whole", progress=False)
    command = [sys.executable, "-m", "subcell_hf.cli", "crops", str(images), "--output", str(tmp_path / "killed")]
    done = tmp_path / "killed/fields"
    kills = 0
    for wanted in (3, 20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if done.is_dir() and len(list(done.glob("*.json"))) >= wanted:
                break
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills > 0
    assert len(list(done.glob("*.json"))) < 60
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert _content(tmp_path / "killed") == _content(tmp_path / "whole")


def test_fields_that_differ_from_the_first_are_skipped(images: Path, tmp_path: Path) -> None:
    write_hpa_field(images, "7_C1_1", dtype="uint16")
    report = crop_fields(images, tmp_path / "out", settings=SMALL, progress=False)
    assert list(report.skipped) == ["7_C1_1"]
    assert "is uint16, the first field is uint8" in report.skipped["7_C1_1"]


def test_boxes_replace_masks(images: Path, tmp_path: Path) -> None:
    for mask in images.glob("*_mask.png"):
        mask.unlink()
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("field_of_view,cell_id,top,left,height,width\n7_A1_1,5,10,10,20,20\n7_A2_1,9,1,1,8,8\n")
    report = crop_fields(images, tmp_path / "out", settings=SMALL, boxes=boxes, progress=False)
    assert read_crop_table(tmp_path / "out")["cell_id"].tolist() == ["7_A1_1_5", "7_A2_1_9"]
    assert "no box in the table" in report.skipped["7_B1_1"]


def test_large_fields_of_two_channels(masked_field: Path, tmp_path: Path) -> None:
    report = crop_fields(masked_field, tmp_path / "masked", progress=False)
    assert (report.fields, report.cells, report.skipped) == (1, 20, {})
    (crops,) = read_crops(tmp_path / "masked")
    assert crops.channels == ("blue", "green")
    assert crops.pixels.shape == (20, 2, 448, 448)
    options = ReadingOptions(channels=("red", "blue", "green"))
    with pytest.raises(FieldError, match=r"Nothing was cropped.*channel red is missing"):
        crop_fields(masked_field, tmp_path / "none", reading=options, progress=False)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 0, "6 crops of 3 fields"),
        (("--exclude-border",), 0, "3 crops of 3 fields; 3 cells were filtered out"),
        (("--channels", "rbg", "--workers", "2"), 0, "6 crops of 3 fields"),
        (("--pixel-size-um", "12"), 2, "3 of 3 fields were skipped"),
        (("--pixel-size-um", "12", "--strict"), 2, "pixel size is 12.0 um"),
        (("--z-projection", "min"), 2, "expected max, mean"),
        (("--channel-mapping", "DAPI"), 2, "NAME=COLOUR"),
        (("--segmentation", "magic"), 2, "Unknown segmentation method"),
        (("--max-decoded-gib", "0.000001"), 2, "3 of 3 fields were skipped"),
        (("--min-area-um2", "9", "--max-area-um2", "3"), 2, "every cell would be excluded"),
        (("--workers", "0"), 2, "should be greater than or equal to 1"),
    ],
)
def test_command_line(images: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    command = ["crops", str(images), "--output", str(tmp_path / "out"), *SMALL_OPTIONS, *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == code
    assert said in result.output


def test_command_line_names_what_it_skipped(images: Path, tmp_path: Path) -> None:
    write_png(images / "7_A2_1_mask.png", np.zeros((64, 72), np.uint8))
    result = CliRunner().invoke(app, ["crops", str(images), "--output", str(tmp_path / "out"), *SMALL_OPTIONS])
    assert result.exit_code == 3
    assert "Skipped: Field '7_A2_1': label mask" in result.output


def test_plate_maps_patterns_and_mapped_tables_reach_the_crops(images: Path, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("well,drug\nA1,DMSO\nA2,x\nH12,y\n")
    boxes = "".join(f"7_{well}_1,3,10,12,20,28\n" for well in ("A1", "A2", "B1", "A01", "A02", "B01"))
    (tmp_path / "boxes.csv").write_text(f"field_of_view,cell_id,top,left,height,width\n{boxes}")
    names = ",".join(f"{kind}Name_{colour}" for colour in ("blue", "green") for kind in ("File", "Path"))
    rows = "".join(
        f"7,{well},1,7_{well}_1_blue.png,D:\\old,7_{well}_1_green.png,d:\\OLD\\\n" for well in ("A1", "A2", "B1")
    )
    (tmp_path / "load_data.csv").write_text(f"Metadata_Plate,Metadata_Well,Metadata_Site,{names}\n{rows}")
    pattern = r"^(?P<plate>\d+)_(?P<well>[A-H]\d+)_(?P<site>\d)_(?P<channel>blue|green)\.png"
    said = "1 of the 3 wells of the images have no row in it: 7/B01; 1 of its 3 wells have no image: 7/H12"
    for source, more in (
        (images, []),
        (images, ["--pattern", pattern]),
        (tmp_path / "load_data.csv", ["--path-mapping", f"d:/old={images}"]),
    ):
        output = tmp_path / f"out{len(more)}{source.suffix}"
        options = ["--plate-map", str(tmp_path / "map.csv"), "--boxes", str(tmp_path / "boxes.csv"), *SMALL_OPTIONS]
        command = ["crops", str(source), "--output", str(output), "--channels", "bg", "--pixel-size-um", "0.1"]
        result = CliRunner().invoke(app, [*command, *options, *more])
        assert said in result.output
        assert result.exit_code == 0
        table = read_crop_table(output)
        assert list(table["well"]) == ["A01", "A02", "B01"]
        assert list(table["drug"].fillna("")) == ["DMSO", "x", ""]


def test_crops_of_a_version_that_knew_fewer_options_are_resumed(images: Path, tmp_path: Path) -> None:
    crop_fields(images, tmp_path / "out", settings=SMALL, progress=False)
    facts = json.loads((tmp_path / "out" / "crops.json").read_text())
    for name in ("plate_maps", "path_mapping", "illumination"):
        del facts["settings"][name]
    (tmp_path / "out" / "crops.json").write_text(json.dumps(facts))
    assert crop_fields(images, tmp_path / "out", settings=SMALL, progress=False).fields == 3
    (tmp_path / "map.csv").write_text("well,drug\nA1,x\n")
    mapped = ReadingOptions(plate_maps=(tmp_path / "map.csv",))
    with pytest.raises(InputError, match="plate_maps: None in that run"):
        crop_fields(images, tmp_path / "out", settings=SMALL, reading=mapped, progress=False)
