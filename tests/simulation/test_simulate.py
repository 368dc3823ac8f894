"""Folders of simulated fields: names, depths and bytes; continued after a stop, refused where they do not fit."""

import csv
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import iterate_fields
from subcell_hf.images.wells import standard_well
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.simulation.simulate import (
    METADATA_COLUMNS,
    SimulationSettings,
    plan_fields,
    simulate_dataset,
    simulate_planned_field,
)

SMALL_PX = 288


def make(folder: Path, fields: int = 2, **settings: object) -> int:
    arguments: dict = {"seed": 3, "size_px": SMALL_PX, "progress": False, **settings}
    return simulate_dataset(fields, output=folder, **arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_have_hpa_names_and_png_depths(tmp_path: Path) -> None:
    assert make(tmp_path) == 2
    fields = [field.name for field in plan_fields(2, 3)]
    kinds = ("red", "yellow", "blue", "green", "mask")
    images = {f"{field}_{kind}.png" for field in fields for kind in kinds}
    records = {f".{field}.json" for field in fields}
    assert set(contents(tmp_path)) == images | records | {"metadata.csv", "simulation.json"}
    for name in images:
        image = imagecodecs.png_decode((tmp_path / name).read_bytes())
        assert image.shape == (SMALL_PX, SMALL_PX)
        assert image.dtype == (np.uint16 if name.endswith("_mask.png") else np.uint8)
    make(tmp_path / "deep", fields=1, bit_depth=16, channels=("blue", "green"))
    deep = tmp_path / "deep"
    assert len(list(deep.glob("*.png"))) == 3
    assert imagecodecs.png_decode((deep / f"{fields[0]}_green.png").read_bytes()).dtype == np.uint16


def test_metadata_tells_what_each_field_shows(tmp_path: Path) -> None:
    make(tmp_path, fields=3, channels=("blue",))
    with (tmp_path / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == METADATA_COLUMNS
    for row, field in zip(rows, plan_fields(3, 3), strict=True):
        assert row["field_of_view"] == f"{row['plate']}_{row['well']}_{row['sample']}" == field.name
        assert row["antibody"] == field.antibody.antibody
        assert row["gene"] == field.antibody.gene
        assert tuple(row["locations"].split(";")) == field.antibody.locations
        assert row["cell_line"] == field.cell_line
        assert float(row["pixel_size_um"]) == PUBLISHED_PIXEL_SIZE_UM


def test_a_folder_reads_back_as_the_fields_it_was_made_of(tmp_path: Path) -> None:
    make(tmp_path)
    settings = SimulationSettings(seed=3, size_px=SMALL_PX)
    made = {field.name: field for field in (simulate_planned_field(plan, settings) for plan in plan_fields(2, 3))}
    read = {field.name: field for field in iterate_fields(tmp_path)}
    assert read.keys() == made.keys()
    for name, field in read.items():
        assert field.channels == made[name].channels
        assert field.pixel_size_um == made[name].pixel_size_um
        expected = made[name].metadata
        assert field.metadata.items() >= {**expected, "well": standard_well(expected["well"])}.items()
        np.testing.assert_array_equal(field.pixels, made[name].pixels)
        np.testing.assert_array_equal(field.label_mask, made[name].label_mask)


def test_two_runs_give_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        make(tmp_path / name, seed=seed)
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert all(one[name] != three[name] for name in one if name in three)


@pytest.mark.slow
@pytest.mark.parametrize("randomised", [False, True])
def test_workers_do_not_change_the_bytes(tmp_path: Path, randomised: bool) -> None:
    make(tmp_path / "alone", fields=3, domain_randomization=randomised)
    assert make(tmp_path / "together", fields=3, workers=2, domain_randomization=randomised) == 3
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")


def test_a_stopped_run_is_continued_and_a_finished_one_extended(tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    make(whole, fields=3)
    make(folder)
    # As a kill leaves it: no table, a field without its mask, and a file that was being written.
    (folder / "metadata.csv").unlink()
    victim = folder / f"{plan_fields(2, 3)[1].name}_mask.png"
    victim.unlink()
    (folder / ".rest.1234.part").write_bytes(b"half")
    untouched = folder / f"{plan_fields(1, 3)[0].name}_red.png"
    before = untouched.stat().st_mtime_ns
    assert make(folder, fields=3) == 2
    assert untouched.stat().st_mtime_ns == before
    assert contents(folder) == contents(whole)
    assert make(folder, fields=3) == 0


def test_other_settings_fewer_fields_and_strange_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    make(folder, fields=2, channels=("blue",))
    with pytest.raises(InputError, match=r"other settings \(seed 3, asked for 4\): choose another folder"):
        make(folder, fields=2, channels=("blue",), seed=4)
    with pytest.raises(InputError, match="holds 2 fields, asked for 1"):
        make(folder, fields=1, channels=("blue",))
    with pytest.raises(InputError, match=r"not empty \(it holds 'data'\)"):
        make(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"fields": 0}, {"seed": -1}, {"workers": 0}, {"antibodies": 0}, {"size_px": 64}, {"bit_depth": 1}]
)
def test_wrong_arguments_leave_nothing_behind(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(InputError):
        make(tmp_path / "data", **wrong)
    assert not (tmp_path / "data").exists()


def test_command(tmp_path: Path) -> None:
    command = [
        "simulate",
        "--fields",
        "1",
        "--seed",
        "3",
        "--size-px",
        str(SMALL_PX),
        "--output",
        str(tmp_path / "a"),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "1 of them new" in done.output
    make(tmp_path / "b", fields=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    refused = CliRunner().invoke(app, [*command, "--bit-depth", "16"])
    assert refused.exit_code == 2
    assert "other settings (bit_depth 8, asked for 16)" in refused.output
