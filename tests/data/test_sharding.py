"""Shards: the right bytes, the same bytes, and no bytes that should not be there."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from subcell_hf.batches import FieldCrops
from subcell_hf.cli import app
from subcell_hf.data.batch_plan import InOrderPlan
from subcell_hf.data.contact_sheet import write_contact_sheet
from subcell_hf.data.crop_sources import CroppedFields, ImageFields
from subcell_hf.data.cropping import crop_fields
from subcell_hf.data.shard_archive import deal_parts, encode_field
from subcell_hf.data.shard_codec import MAX_CELL_BYTES, CropFormat, decode_sample, encode_mask, encode_pixels
from subcell_hf.data.shard_inspection import inspect_shards
from subcell_hf.data.shard_jobs import ListedCrops
from subcell_hf.data.shard_reader import ShardReader
from subcell_hf.data.sharding import ShardSettings, write_shards
from subcell_hf.data.simulation import simulate_dataset
from subcell_hf.errors import InputError
from tests.data.synthetic_crops import CHANNELS, SyntheticCrops, expected_mask, expected_pixels, write_synthetic

SETTINGS = ShardSettings(fields_per_shard=6, source="made up")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, at any depth."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("size_px", [8, 9])
def test_every_pixel_and_mask_comes_back(tmp_path: Path, dtype: str, size_px: int) -> None:
    write_synthetic(tmp_path, SyntheticCrops(antibodies=2, size_px=size_px, dtype=dtype))
    reader = ShardReader(tmp_path)
    pixels, masks = reader.read(np.arange(len(reader.cells)))
    assert pixels.dtype == dtype
    names = reader.cells.names(np.arange(len(reader.cells)))
    assert len(set(names)) == 24
    for name, crop, mask in zip(names, pixels, masks, strict=True):
        np.testing.assert_array_equal(crop, expected_pixels(name, size_px, dtype))
        np.testing.assert_array_equal(mask, expected_mask(name, size_px))


def test_index_says_what_the_shards_hold(tmp_path: Path) -> None:
    report = write_synthetic(tmp_path)
    record = json.loads((tmp_path / "index.json").read_text())
    assert record["antibodies"] == [f"HPA{number:06d}" for number in range(6)]
    assert record["genes"] == ["GENE0", "GENE0", "GENE1", "GENE1", "GENE2", "GENE2"]
    assert record["channels"] == list(CHANNELS)
    assert (record["dtype"], record["crop_size_px"], record["pixel_size_um"]) == ("uint8", 8, 0.160177)
    assert record["cells"] == record["samples"] == 72
    assert record["cell_lines"] == ["A-431", "U2OS"]
    assert len(record["classes"]) == 35
    assert record["source"] == "made up"
    assert record["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert [shard["samples"] for shard in record["shards"]] == [24, 24, 24]
    assert [shard["parts"] for shard in record["shards"]] == [2, 2, 2]
    assert sorted(name for names in record["splits"].values() for name in names) == record["antibodies"]
    assert report.skipped == ()
    assert ShardReader(tmp_path).index == report.index


def test_equal_digits_get_different_labels(tmp_path: Path) -> None:
    names = {"0_A1_0": {"antibody": "CAB000001"}}
    write_synthetic(tmp_path, SyntheticCrops(antibodies=2, fields_per_antibody=1, metadata=names))
    reader = ShardReader(tmp_path)
    assert reader.index.antibodies == ("CAB000001", "HPA000001")
    assert reader.cells.antibody.tolist() == [0] * 4 + [1] * 4


def test_parts_have_eight_cells_of_all_fields(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SyntheticCrops(antibodies=2, fields_per_antibody=4, cells_per_field=7))
    cells = ShardReader(tmp_path).cells
    for antibody in range(2):
        rows = np.flatnonzero(cells.antibody == antibody)
        parts = cells.part[rows]
        assert (np.diff(rows) == 1).all(), "an antibody's cells stand together"
        assert (np.diff(parts) >= 0).all(), "and so do a part's"
        for part in np.unique(parts):
            fields = cells.field_of_view[rows][parts == part]
            assert len(fields) >= 8
            assert len(np.unique(fields)) == 4
            assert np.ptp(np.bincount(fields)[np.unique(fields)]) <= 1


def test_few_cells_make_one_part() -> None:
    assert [len(part) for part in deal_parts([None] * 7)] == [7]  # type: ignore[list-item]
    assert [len(part) for part in deal_parts([None] * 17)] == [9, 8]  # type: ignore[list-item]
    assert deal_parts([]) == []


def test_run_twice_and_on_two_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "a")
    write_synthetic(tmp_path / "b")
    write_shards(SyntheticCrops(), tmp_path / "c", SETTINGS, workers=2, progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_finished_folder_is_left_alone(tmp_path: Path) -> None:
    first = write_synthetic(tmp_path, SyntheticCrops(broken=("1_A1_0",)))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = write_synthetic(tmp_path, SyntheticCrops(broken=("1_A1_0",)))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert again.index == first.index
    assert again.skipped == first.skipped == (("1_A1_0", "the image is truncated"),)


def test_other_inputs_do_not_mix(tmp_path: Path) -> None:
    write_synthetic(tmp_path)
    with pytest.raises(InputError, match="already holds shards of other inputs or settings"):
        write_synthetic(tmp_path, SyntheticCrops(antibodies=5))
    (tmp_path / "index.json").unlink()
    with pytest.raises(InputError, match=r"holds shard-000000.tar, .* without an index"):
        write_synthetic(tmp_path)


def test_bad_field_is_skipped_listed_and_counted(tmp_path: Path) -> None:
    source = SyntheticCrops(broken=("2_A1_0", "4_A1_1"), metadata={"0_A1_0": {"antibody": ""}})
    report = write_synthetic(tmp_path, source)
    assert [name for name, _ in report.skipped] == ["0_A1_0", "2_A1_0", "4_A1_1"]
    assert report.index.cells == 72 - 3 * 4
    lines = (tmp_path / "skipped.csv").read_text().splitlines()
    assert lines[0] == "field_of_view,reason"
    assert lines[1].startswith('0_A1_0,"it has no antibody, expected one')
    assert lines[2] == "2_A1_0,the image is truncated"
    assert inspect_shards(tmp_path, progress=False).problems == ()


def test_strict_stops_at_a_bad_field(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Field of view 2_A1_0: the image is truncated"):
        write_shards(SyntheticCrops(broken=("2_A1_0",)), tmp_path, SETTINGS, strict=True, progress=False)
    with pytest.raises(InputError, match="Field of view 2_A1_0: the image is truncated"):
        write_shards(SyntheticCrops(broken=("2_A1_0",)), tmp_path, SETTINGS, strict=True, workers=2, progress=False)
    assert not (tmp_path / "index.json").exists()


def test_shards_without_a_cell_are_not_listed(tmp_path: Path) -> None:
    broken = tuple(f"{antibody}_A1_{field}" for antibody in (0, 1) for field in range(3))
    report = write_synthetic(tmp_path, SyntheticCrops(broken=broken))
    assert [shard.file for shard in report.index.shards] == ["shard-000001.tar", "shard-000002.tar"]
    assert inspect_shards(tmp_path, progress=False).problems == ()
    assert len(InOrderPlan(ShardReader(tmp_path).split_rows(None), 8).batch(0, 0).rows) == 8


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"0_A1_0": {"gene": "OTHER"}}, "Antibody HPA000000 has the genes OTHER and GENE0"),
        ({f"{a}_A1_{f}": {"antibody": ""} for a in range(6) for f in range(3)}, "no field has an antibody"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(
    tmp_path: Path, metadata: dict[str, dict[str, str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_synthetic(tmp_path, SyntheticCrops(metadata=metadata))


class RepeatedFields(SyntheticCrops):
    """A source that lists a field twice."""

    def fields(self) -> list[ListedCrops]:
        return [*super().fields(), super().fields()[3]]


class RepeatedCells(SyntheticCrops):
    """A source in which two fields have cells of one name."""

    def read(self, name: str) -> FieldCrops:
        crops = super().read(name)
        return replace(crops, cells=tuple({**cell, "cell_id": f"c{cell['label']}"} for cell in crops.cells))


def test_names_must_be_unique(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Names of fields of view occur twice: 1_A1_0"):
        write_synthetic(tmp_path / "a", RepeatedFields())
    with pytest.raises(InputError, match="Cell ids occur twice: c1, c2, c3, c4"):
        write_synthetic(tmp_path / "b", RepeatedCells())
    assert not (tmp_path / "b" / "index.json").exists()


FORMAT = CropFormat(CHANNELS, 8, "uint8", 0.160177)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channels": ("red", "yellow", "blue", "mito")},
            "channels are red, yellow, blue, mito, expected .* supply green",
        ),
        (
            {"pixels": np.zeros((4, 4, 8, 8), np.uint16)},
            "8 px of 0.160177 um, uint16, expected 8 px of 0.160177 um, uint8",
        ),
        ({"pixels": np.zeros((4, 4, 9, 9), np.uint8)}, "crops are 9 px"),
        ({"pixels": np.zeros((4, 4, 9, 8), np.uint8)}, "9 by 8 px, expected squares"),
        ({"pixels": np.zeros((4, 4, 8, 8), np.float64)}, "dtype float64 cannot be stored"),
        ({"pixel_size_um": 0.2}, "8 px of 0.2 um"),
        ({"cells": ({"cell_id": "x"},) * 4}, "cell ids occur twice: x"),
    ],
)
def test_fields_that_differ_from_the_others_are_refused(changes: dict[str, Any], message: str) -> None:
    crops = SyntheticCrops().read("0_A1_0")
    assert len(encode_field(crops, "HPA000000", FORMAT, ("Nucleoplasm",))) == 4
    with pytest.raises(InputError, match=message):
        encode_field(replace(crops, **changes), "HPA000000", FORMAT, ("Nucleoplasm",))
    with pytest.raises(InputError, match="cell 0_A1_0_1 has antibody HPA000000, expected the field's, OTHER"):
        encode_field(crops, "OTHER", FORMAT, ("Nucleoplasm",))


def test_channels_are_put_in_order_by_name(tmp_path: Path) -> None:
    crops = SyntheticCrops().read("0_A1_0")
    turned = replace(crops, channels=CHANNELS[::-1], pixels=crops.pixels[:, ::-1])
    expected = encode_field(crops, "HPA000000", FORMAT, ("Nucleoplasm",))
    assert encode_field(turned, "HPA000000", FORMAT, ("Nucleoplasm",)) == expected


def test_unknown_location_is_explained(tmp_path: Path) -> None:
    report = write_synthetic(tmp_path, SyntheticCrops(metadata={"0_A1_0": {"locations": "Nucleus;Cytosol"}}))
    assert report.skipped[0][0] == "0_A1_0"
    assert "Unknown location 'Nucleus': expected one of Actin filaments" in report.skipped[0][1]
    assert "--classes" in report.skipped[0][1]


WRITE_SLOWLY = """
import sys
from pathlib import Path
from subcell_hf.data.sharding import ShardSettings, write_shards
from tests.data.synthetic_crops import SyntheticCrops
if __name__ == "__main__":
    source = SyntheticCrops(read_s=0.02)
    settings = ShardSettings(fields_per_shard=6, source="made up")
    write_shards(source, Path(sys.argv[1]), settings, progress=False, workers=int(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_at_any_point_and_go_on_gives_the_same_bytes(tmp_path: Path, workers: int) -> None:
    write_synthetic(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    script = tmp_path / "write_slowly.py"
    script.write_text(WRITE_SLOWLY)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = 0
    for attempt in range(5):
        folder = tmp_path / f"killed {attempt}"
        command = [sys.executable, str(script), str(folder), str(workers)]
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        while not (folder / ".progress" / "plan.json").exists() and child.poll() is None:
            time.sleep(0.002)
        time.sleep(random.Random(attempt).uniform(0, 0.45))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        report = write_synthetic(folder)
        assert report.index.cells == 72
        assert contents(folder) == expected, f"after kill {attempt}"
    assert killed >= 2, "the kills came too late to say anything"


FILL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.data.synthetic_crops import SyntheticCrops, write_synthetic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_synthetic(Path(sys.argv[1]))
except OSError as error:
    assert "shard-000000.tar could not be written" in str(error), error
    sys.exit(7)
"""


def test_full_disk_stops_the_run_which_can_go_on_later(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", FILL_DISK, str(tmp_path / "a")], cwd=root, check=False)
    assert done.returncode == 7
    assert not list((tmp_path / "a").glob("*.tar"))
    write_synthetic(tmp_path / "a")
    write_synthetic(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write_synthetic(tmp_path)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).map(decode_sample))
    assert len(samples) == 72
    for sample in samples:
        np.testing.assert_array_equal(sample["pixels"], expected_pixels(sample["cell_id"], 8, "uint8"))
        np.testing.assert_array_equal(sample["cell_mask"], expected_mask(sample["cell_id"], 8))
    assert samples[0]["record"]["antibody"] == "HPA000000"
    assert samples[0]["record"]["qc_area_um2"] == 101.0


def sample_of(**changes: object) -> dict[str, object]:
    """A sound sample, as webdataset hands it out, with some entries changed; None takes one out."""
    form = {"channels": ["blue", "green"], "crop_size_px": 4, "dtype": "uint8", "pixel_size_um": 0.08}
    sample = {
        "__key__": "k",
        "mask.pzst": encode_mask(np.ones((4, 4), bool)),
        "pixels.dzst": encode_pixels(np.ones((2, 4, 4), np.uint8)),
        "json": json.dumps({"cell_id": "c", "format": form}).encode(),
    }
    return {name: value for name, value in {**sample, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"json": None}, "member json is missing"),
        ({"mask.pzst": None}, r"its members are json, pixels.dzst, expected json, mask.pzst, pixels.dzst"),
        ({"payload.pyd": b"\x80\x04."}, "its members are json, mask.pzst, payload.pyd"),
        ({"pixels.dzst": encode_pixels(np.zeros((2, 4000, 4000), np.uint8))}, "do not decode to"),
        ({"pixels.dzst": encode_pixels(np.zeros((2, 2, 2), np.uint8))}, "8 values, expected 32"),
        ({"pixels.dzst": b"no zstd"}, "do not decode to"),
        ({"json": b"{}"}, "'format'"),
        ({"json": b'{"cell_id": "c", "format": {"channels": ["blue"]}}'}, "No description of the crops"),
    ],
)
def test_odd_samples_are_refused(changes: dict[str, object], message: str) -> None:
    assert decode_sample(sample_of())["pixels"].sum() == 32
    with pytest.raises(InputError, match=f"Sample k cannot be read: .*{message}"):
        decode_sample(sample_of(**changes))


def test_decompression_bomb_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(InputError, match=f"expected between 1 and {MAX_CELL_BYTES}"):
        CropFormat(("blue",), 1_000_000, "uint8", 0.08)


def rewrite(path: Path, change: str) -> None:
    """Write a tar anew with a member taken out, doubled or added."""
    with tarfile.open(path) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    if change == "missing":
        del members[4]
    elif change == "duplicate":
        members.append(members[3])
    elif change == "pickle":
        members.append((tarfile.TarInfo("000000-00000-000.payload.pickle"), b"\x80\x04."))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks: 000000-00000-001.pixels.dzst"),
        ("duplicate", "has twice: 000000-00000-001.mask.pzst"),
        ("pickle", "should not have, and that nobody should open: 000000-00000-000.payload.pickle"),
    ],
)
def test_inspection_finds_members_that_are_wrong(tmp_path: Path, change: str, message: str) -> None:
    write_synthetic(tmp_path)
    rewrite(tmp_path / "shard-000000.tar", change)
    problems = "\n".join(inspect_shards(tmp_path, progress=False).problems)
    assert message in problems
    assert "shard-000000.tar has sha256" in problems
    assert "shard-000001.tar" not in problems


def test_inspection_finds_truncation_flips_and_strangers(tmp_path: Path) -> None:
    write_synthetic(tmp_path)
    assert inspect_shards(tmp_path, progress=False).problems == ()
    first, second, third = (tmp_path / f"shard-{number:06d}.tar" for number in range(3))
    shutil.copy(first, tmp_path / "shard-000009.tar")
    first.write_bytes(first.read_bytes()[:40_000])
    content = bytearray(second.read_bytes())
    content[int(ShardReader(tmp_path, compare_files=False).cells.offset[30]) + 3] ^= 1
    second.write_bytes(content)
    third.unlink()
    problems = "\n".join(inspect_shards(tmp_path, progress=False, workers=2).problems)
    assert "shard-000009.tar is not in the index" in problems
    assert "shard-000002.tar is missing" in problems
    assert "shard-000000.tar has 40000 bytes, expected" in problems
    assert "shard-000000.tar breaks off after" in problems or "shard-000000.tar lacks" in problems
    assert "the shard is truncated" in problems
    assert "shard-000001.tar has sha256" in problems
    assert "its checksum differs" in problems


def test_contact_sheet_shows_colours(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "shards", SyntheticCrops(size_px=64))
    reader = ShardReader(tmp_path / "shards")
    write_contact_sheet(reader, tmp_path / "sheet.png", antibodies=3, cells_per_antibody=4)
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    write_contact_sheet(reader, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert "data:image/png;base64," in page
    assert "://" not in page
    assert ">72<" in page
    with pytest.raises(InputError, match=r"\.png or \.html"):
        write_contact_sheet(reader, tmp_path / "sheet.pdf")


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
    assert "1 fields skipped" in done.output
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
