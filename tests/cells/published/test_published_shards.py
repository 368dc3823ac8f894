"""`subcell shards hpa:`: the published cells, whatever their server does, in shards that do not depend on it."""

import csv
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.published_cells import opencv_png, published_files
from subcell_hf.cells.published import crops, facts
from subcell_hf.cells.published.choice import CellChoice
from subcell_hf.cli import app
from subcell_hf.errors import InputError, UnreachableError
from subcell_hf.shards import splits
from subcell_hf.shards.cell_table import read_cell_records
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardReport, ShardSettings
from subcell_hf.types import FieldOfView
from subcell_hf.workflows.shards import shard_images, shard_published_cells
from tests.cells.published.bucket import SMALL, Bucket, simulate_fields

SETTINGS = ShardSettings(fields_per_shard=4)


def write(bucket: Bucket, output: Path, **options: object) -> ShardReport:
    settings = {"split_by": "gene", "settings": SETTINGS, "crop": SMALL, "progress": False, **options}
    return shard_published_cells(f"hpa:{bucket.url}", output, **settings)  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def skipped(folder: Path) -> dict[str, str]:
    with (folder / "skipped.csv").open(newline="") as file:
        return {row["field_of_view"]: row["reason"] for row in csv.DictReader(file)}


def halved(plane: npt.NDArray[np.uint8], top: int, left: int) -> npt.NDArray[np.uint8]:
    """A window of 96 px at half its size, pixel by pixel."""
    padded = np.pad(plane.astype(np.float64), 96)
    window = padded[top + 96 : top + 192, left + 96 : left + 192]
    return np.rint(window.reshape(48, 2, 48, 2).mean(axis=(1, 3))).astype(np.uint8)


def middle(mask: npt.NDArray[np.bool_], size_px: int) -> list[int]:
    """First row and column of a window around the box of a mask."""
    return [(int(places.min()) + int(places.max()) + 1 - size_px) // 2 for places in np.nonzero(mask)]


@pytest.fixture(scope="module")
def fields() -> dict[str, FieldOfView]:
    return {field.name: field for field in simulate_fields(20)}


def test_cells_are_those_of_the_fields_channel_by_channel(
    bucket: Bucket, fields: dict[str, FieldOfView], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        report = write(bucket, tmp_path / "shards")
    assert not report.skipped
    reader = ShardReader(tmp_path / "shards")
    records = read_cell_records(str(tmp_path / "shards")).to_pylist()
    assert 150 < len(records) == (len(bucket.files) - 1) // 2
    assert reader.index.crop_format.channels == ("red", "yellow", "blue", "green")
    assert reader.index.crop_format.pixel_size_um == pytest.approx(2 * 0.0800885)
    pixels, masks = reader.read(np.arange(len(records)))
    for record, crop, mask in zip(records, pixels, masks, strict=True):
        field, label = fields[record["field_of_view"]], int(record["label"])
        assert field.label_mask is not None
        assert record["cell_id"] == f"{field.name}_{label}"
        assert {name: record[name] for name in field.metadata} == dict(field.metadata)
        corner = middle(field.label_mask == label, 128)
        published = np.pad(field.label_mask == label, 128)[corner[0] + 128 :, corner[1] + 128 :][:128, :128]
        inner = middle(published, 96)  # of what is left of a cell that is larger than the published crop
        starts = [first + second for first, second in zip(corner, inner, strict=True)]
        for plane, found in zip(field.pixels, crop, strict=True):
            np.testing.assert_array_equal(found, halved(np.asarray(plane), *starts))
        inside = np.pad(field.label_mask == label, 96)[starts[0] + 96 :, starts[1] + 96 :][:96:2, :96:2]
        np.testing.assert_array_equal(mask, inside)
    assert "Licence: CC BY-SA 3.0" in caplog.text
    assert f"{len(records)} published cells of 6 antibodies in 20 fields" in caplog.text
    assert "all at this rate" in caplog.text
    assert "CC BY-SA 3.0" in reader.index.source
    # Each file once, also those that the rate was measured with, but for the first field, which shows the format.
    first = [name for name in bucket.files if f"/{records[0]['field_of_view']}_" in name]
    assert len(bucket.requests) <= len(bucket.files) + len(first) + 1  # whether there is a newer table
    assert bucket.connections < len(bucket.requests) / 4


def test_failing_requests_change_nothing_and_lost_files_cost_their_cells_alone(bucket: Bucket, tmp_path: Path) -> None:
    write(bucket, tmp_path / "sound")
    names = [name for name in bucket.files if name.endswith("_image.png")][30:]
    passing: list[list[int | str]] = [[500, 503], ["cut"], [429], ["cut", 500]]
    for name, failures in zip(names, passing * 4, strict=False):
        bucket.failing[name] = list(failures)
        bucket.failing[name.replace("_image", "_mask")] = list(failures)
    bucket.slow_s = 0.002
    assert not write(bucket, tmp_path / "failing").skipped
    assert content(tmp_path / "failing") == content(tmp_path / "sound")

    lost = {name.removesuffix("_cell_image.png").split("/")[1]: name for name in names[40:47]}
    images = list(lost.values())
    del bucket.files[images[0]], bucket.files[images[1].replace("_image", "_mask")]
    bucket.failing[images[2]] = [403] * 50
    bucket.files[images[3]] = b"<html>Service unavailable</html>"
    bucket.files[images[4]] = bucket.files[images[4]][:-50]
    masks = [image.replace("_image", "_mask") for image in images]
    bucket.files[masks[5]] = opencv_png(np.full((128, 128), 7, np.uint8))
    bucket.files[masks[6]] = opencv_png(np.full((64, 64), 255, np.uint8))
    report = write(bucket, tmp_path / "lost")
    reasons = ["not there", "not there", "not there (HTTP 403)", "is no PNG", "truncated", "values from 7 to 7", "64"]
    assert skipped(tmp_path / "lost") == dict(report.skipped)
    assert sorted(name for name, _ in report.skipped) == sorted(lost)
    for name, reason in zip(lost, reasons, strict=True):
        assert reason in dict(report.skipped)[name]
    kept = set(read_cell_records(str(tmp_path / "lost"))["cell_id"].to_pylist())
    assert kept == set(read_cell_records(str(tmp_path / "sound"))["cell_id"].to_pylist()) - set(lost)
    with pytest.raises(InputError, match="Field of view"):
        write(bucket, tmp_path / "strict", strict=True)


def test_an_unreachable_server_ends_the_run_which_is_resumed_to_the_same_bytes(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(bucket, tmp_path / "whole")
    read, count = crops.PublishedCrops.read, iter(range(1000))

    def read_until_it_breaks(source: crops.PublishedCrops, name: str) -> object:
        bucket.down = next(count) >= 12
        return read(source, name)

    monkeypatch.setattr(crops.PublishedCrops, "read", read_until_it_breaks)
    monkeypatch.setattr(crops, "THREADS", 2)
    with pytest.raises(UnreachableError, match="Run the same command again"):
        write(bucket, tmp_path / "broken")
    done = sorted((tmp_path / "broken").glob("shard-*.tar"))
    assert done
    assert not (tmp_path / "broken" / "index.json").exists()
    monkeypatch.undo()
    bucket.down = False
    before = len(bucket.requests)
    report = write(bucket, tmp_path / "broken")
    assert report.resumed_shards == len(done)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert len(bucket.requests) - before < len(bucket.files)
    with pytest.raises(InputError, match="other inputs or settings"):
        write(bucket, tmp_path / "broken", choice=CellChoice(max_cells=50))


@pytest.mark.slow
def test_shards_do_not_depend_on_processes(bucket: Bucket, tmp_path: Path) -> None:
    write(bucket, tmp_path / "one", choice=CellChoice(max_cells=60))
    write(bucket, tmp_path / "two", choice=CellChoice(max_cells=60), workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_only_what_is_chosen_is_downloaded(bucket: Bucket, tmp_path: Path) -> None:
    report = write(bucket, tmp_path / "shards", choice=CellChoice(max_cells=20))
    assert report.index.cells == 20
    assert len(set(bucket.requests)) == 1 + 2 * 20
    before = len(bucket.requests)
    assert write(bucket, tmp_path / "other", choice=CellChoice(max_cells=4)).resumed_shards == 0
    assert "HEAD metadata.csv" in bucket.requests[before:]
    assert "GET metadata.csv" not in bucket.requests[before:]


def test_a_complete_folder_needs_no_network(bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    choice = CellChoice(max_cells=20)
    first = write(bucket, tmp_path / "shards", choice=choice)
    bucket.down, before = True, list(bucket.requests)
    with caplog.at_level(logging.INFO):
        again = write(bucket, tmp_path / "shards", choice=choice)
    assert bucket.requests == before
    assert (again.index, again.resumed_shards) == (first.index, len(first.index.shards))
    assert "shards was complete already: no cell was read." in caplog.text
    with pytest.raises(InputError, match="already holds shards of other inputs or settings"):
        write(bucket, tmp_path / "shards", choice=CellChoice(max_cells=10))


@pytest.fixture
def lists(bucket: Bucket, fields: dict[str, FieldOfView], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lists of the simulated antibodies in the place of the published ones."""
    antibodies = sorted({field.metadata["antibody"] for field in fields.values()})
    named = {"train": antibodies[:3], "validation": [*antibodies[3:4], "HPA999999"], "test": antibodies[4:5]}
    entries = {}
    for split, names in named.items():
        text = "".join(f"{name}\n" for name in names).encode()
        bucket.files[f"lists/{split}.txt"] = text
        checksum = hashlib.sha256(text).hexdigest()
        entries[split] = {"file": f"{split}.txt", "antibodies": len(names), "bytes": len(text), "sha256": checksum}
    folder = tmp_path / "annotations"
    (folder / "splits").mkdir(parents=True)
    published = {"source": "a simulation", "url": f"{bucket.url}/lists", "lists": entries}
    (folder / "splits" / "published.json").write_text(json.dumps(published))
    shipped = facts.shipped_folder
    for module in (facts, splits):
        monkeypatch.setattr(module, "shipped_folder", lambda name: folder if name == "annotations" else shipped(name))


@pytest.mark.usefixtures("lists")
def test_splits_are_the_published_ones(bucket: Bucket, fields: dict[str, FieldOfView], tmp_path: Path) -> None:
    antibodies = sorted({field.metadata["antibody"] for field in fields.values()})
    index = write(bucket, tmp_path / "shards", split_by="published").index
    found = {split: list(names) for split, names in index.splits.items()}
    assert found == {"train": antibodies[:3], "validation": antibodies[3:4], "test": antibodies[4:5]}
    assert ShardReader(tmp_path / "shards").index.split_method == "published lists"
    train = write(bucket, tmp_path / "train", split_by="published", split="train").index
    assert list(train.antibodies) == antibodies[:3]
    assert sum("lists/" in request for request in bucket.requests) == 3
    with pytest.raises(InputError, match="no published split 'dev', expected one of train, validation, test"):
        write(bucket, tmp_path / "dev", split="dev")


def test_locations_that_are_no_classes_are_kept_apart(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = bucket.files["metadata.csv"].decode()
    bucket.files["metadata.csv"] = table.replace('"\n', ',Primary cilium"\n').encode()
    with caplog.at_level(logging.WARNING):
        write(bucket, tmp_path / "shards", choice=CellChoice(max_cells=20))
    found = read_cell_records(str(tmp_path / "shards")).to_pylist()
    assert {row["other_locations"] for row in found} == {"Primary cilium"}
    assert all(row["locations"] and "Primary" not in row["locations"] for row in found)
    assert "Primary cilium (20)" in caplog.text


def test_true_sizes_from_a_folder_of_copied_files(tmp_path: Path) -> None:
    """1024 px become 448 px of which each is the mean of four."""
    rng = np.random.default_rng(0)
    mask = np.zeros((1024, 1024), np.uint16)
    mask[400:700, 350:600] = 1
    pixels = rng.integers(0, 256, (4, 1024, 1024), np.uint8)
    known = {"plate": "7", "well": "A1", "sample": "1", "cell_line": "U2OS", "antibody": "HPA1", "gene": "G"}
    field = FieldOfView("7_A1_1", pixels, ("red", "yellow", "blue", "green"), 0.08, mask, known | {"locations": ""})
    for name, file in published_files([field]).items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(file)
    output = tmp_path / "shards"
    report = shard_images(f"hpa:{tmp_path / 'copy'}", output, split_by="none", progress=False)
    assert not report.skipped
    crop, inside = ShardReader(output).read(np.arange(1))
    top, left = (400 + 700 - 896) // 2, (350 + 600 - 896) // 2
    window = pixels[:, top : top + 896, left : left + 896].reshape(4, 448, 2, 448, 2).astype(np.float64)
    np.testing.assert_array_equal(crop[0], np.rint(window.mean(axis=(2, 4))).astype(np.uint8))
    np.testing.assert_array_equal(inside[0], mask[top : top + 896 : 2, left : left + 896 : 2] == 1)


@pytest.mark.slow
def test_an_interrupted_command_ends_while_requests_wait(bucket: Bucket, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "subcell_hf.cli", "shards", f"hpa:{bucket.url}", "--split-by", "none"]
    command += ["--output", str(tmp_path / "shards"), "--max-cells", "30"]
    bucket.held = "_cell_"
    run = subprocess.Popen(
        command,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf")},
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests themselves run in the background of a shell, Ctrl-C is ignored by all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not any("_image" in request for request in bucket.requests):
        time.sleep(0.01)
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=120)
    bucket.held = ""
    assert run.returncode == 130
    (note,) = (line for line in said.splitlines() if not line.startswith("metadata.csv: "))  # beside its progress
    assert note.startswith("subcell was interrupted.")


def test_the_command_says_what_it_skipped(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "antibodies.txt"
    names.write_text("SIM000001\nSIM999999\n")
    words = ["shards", f"hpa:{bucket.url}", "--split-by", "antibody", "--antibodies", str(names), "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["subcell", *words, "--max-cells", "12", "--output", str(tmp_path / "small")])
    with pytest.raises(SystemExit) as ended:
        app()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "12 published cells of 1 antibody in" in said.out
    assert "Without cells: 1 antibody of the list: SIM999999." in said.err
    # Crops of 128 px do not hold the 896 px that are cut out of true ones.
    assert "Its image has an edge of 128 px, expected at least 896 px" in said.err
    monkeypatch.setattr(crops, "CropSettings", lambda: SMALL)
    lost = next(name for name in bucket.files if name.startswith("1/1_A1_1_") and name.endswith("_image.png"))
    del bucket.files[lost]
    monkeypatch.setattr(sys, "argv", ["subcell", *words, "--output", str(tmp_path / "shards")])
    with pytest.raises(SystemExit) as ended:
        app()
    assert ended.value.code == 3
    assert "1 field skipped" in capsys.readouterr().out
    assert list(skipped(tmp_path / "shards")) == [lost.split("/")[1].removesuffix("_cell_image.png")]
    with pytest.raises(InputError, match="can be chosen for hpa: only"):
        shard_images(tmp_path, tmp_path / "no", choice=CellChoice(cell_lines=("U2OS",)))
    with pytest.raises(InputError, match="can be chosen for hpa: only"):
        shard_images(tmp_path, tmp_path / "no", split="train")
    with pytest.raises(InputError, match="which are read in one way only"):
        shard_images(f"hpa:{bucket.url}", tmp_path / "no", segmentation="cellpose")
