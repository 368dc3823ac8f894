"""Shards: the right bytes, the same bytes, and no bytes that should not be there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.shards.batch_plan import InOrderPlan
from subcell_hf.shards.inspection import inspect_shards
from subcell_hf.shards.jobs import ListedCrops
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.types import FieldCrops
from tests.cells.synthetic_crops import CHANNELS, SyntheticCrops, expected_mask, expected_pixels, write_synthetic

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


def test_unknown_location_is_explained(tmp_path: Path) -> None:
    report = write_synthetic(tmp_path, SyntheticCrops(metadata={"0_A1_0": {"locations": "Nucleus;Cytosol"}}))
    assert report.skipped[0][0] == "0_A1_0"
    assert "Unknown location 'Nucleus': expected one of Actin filaments" in report.skipped[0][1]
    assert "--classes" in report.skipped[0][1]


WRITE_SLOWLY = """
import sys
from pathlib import Path
from subcell_hf.shards.sharding import ShardSettings, write_shards
from tests.cells.synthetic_crops import SyntheticCrops
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
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
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
