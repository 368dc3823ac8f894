"""Evaluation finds or makes the baselines of the very cells of a table, keeps them, and says where it cannot."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import CroppedFields
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.baselines.baselines import make_baselines
from subcell_hf.inference.sources.blocks import CellBlock
from subcell_hf.inference.sources.cell_sources import ImageCells
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.tables.files import EmbeddingTable, read_table, write_h5ad, write_parquet
from subcell_hf.weights.untrained import save_untrained
from subcell_hf.workflows.evaluation.table_baselines import BASELINES, FoundBaselines, find_baselines
from tests.images.written_fields import COLOURS, random_plane, write_hpa_field, write_png
from tests.inference.embedding_runs import save_tiny_model

LOCATIONS = ("Nucleoplasm", "Cytosol")
SPLITS = ("train", "train", "validation", "test")
FIELDS = 16


def write_field(folder: Path, name: str, seed: int, colours: tuple[str, ...] = COLOURS) -> None:
    """A field of two cells that looks like no other."""
    write_hpa_field(folder, name, colours)
    for number, colour in enumerate(colours):
        write_png(folder / f"{name}_{colour}.png", random_plane(100 * seed + number) // (1 + (seed + number) % 3))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 16 antibodies, a tiny model, and an embedding of all."""
    folder = tmp_path_factory.mktemp("home")
    rows = ["field_of_view,antibody,gene,locations,split,plate,well,compound"]
    for number in range(FIELDS):
        write_field(folder / "images", f"7_A{number}_1", number)
        split, location = SPLITS[number // 2 % 4], LOCATIONS[number % 2]
        compound = ("DMSO", "a", "b", "c")[number % 4]
        rows.append(f"7_A{number}_1,HPA{number},G{number},{location},{split},p{number // 8},A{number},{compound}")
    (folder / "images" / "metadata.csv").write_text("\n".join(rows) + "\n")
    save_tiny_model(folder / "model")
    return folder


def embed(home: Path, output: Path, source: Path | None = None, *more: str, model: str | None = None) -> Path:
    options = ["--no-report", "--no-h5ad", "--precision", "fp32", "--model", model or str(home / "model"), *more]
    result = CliRunner().invoke(app, ["embed", str(source or home / "images"), "--output", str(output), *options])
    assert result.exit_code == 0, result.output
    return output


def localize(table: Path, output: Path, *more: str, code: int = 0) -> tuple[str, dict[str, Any]]:
    options = ["--resamples", "20", "--no-learning-curve", "--heads", "linear", *more]
    command = ["evaluate", "localization", str(table), "--output", str(output), *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == code, result.output
    return result.output, json.loads((output / "results.json").read_text()) if code == 0 else {}


@pytest.mark.slow
def test_baselines_are_made_once_and_reused(home: Path, tmp_path: Path) -> None:
    run = embed(home, tmp_path / "run")
    said, results = localize(run, tmp_path / "first")
    assert "Computing baselines (untrained, features, pixels) of the same 32 cells" in said
    assert list(results["macro_map"]) == ["subcell", "untrained", "features", "pixels"]
    assert {row["other"] for row in results["comparisons"]} == {"untrained", "features", "pixels"}
    assert results["missing_baselines"] == []
    kept = sorted(path.name for path in (run / "baselines").iterdir())
    assert kept == ["features.parquet", "pixels.parquet", "untrained"]
    ids = read_table(run).cells["cell_id"].tolist()
    for name in ("untrained", "features.parquet", "pixels.parquet"):
        assert read_table(run / "baselines" / name).cells["cell_id"].tolist() == ids
    times = {path: path.stat().st_mtime_ns for path in (run / "baselines").rglob("*")}
    said, again = localize(run, tmp_path / "second")
    assert "Using the stored baselines" in said
    assert again == results
    assert {path: path.stat().st_mtime_ns for path in (run / "baselines").rglob("*")} == times


def find(table: Path, output: Path, crops: Path | None = None, wanted: Sequence[str] = BASELINES) -> FoundBaselines:
    chosen = str(crops) if crops else None
    return find_baselines(table, read_table(table), wanted, images=chosen, output=output, workers=0)


def ids_of(path: Path) -> list[str]:
    ids: list[str] = read_table(path).cells["cell_id"].tolist()
    return ids


def test_features_are_those_of_subcell_baselines_on_the_same_crops(home: Path, tmp_path: Path) -> None:
    """Cut as the tiny model wants them: 32 px of 0.32 um."""
    cut = CropSettings(crop_px=128, output_px=32)
    crop_fields(home / "images", tmp_path / "crops", settings=cut, progress=False)
    expected = make_baselines(tmp_path / "crops", progress=False)
    run = embed(home, tmp_path / "run")
    assert set(find(run, tmp_path, wanted=("features", "pixels")).tables) == {"features", "pixels"}
    found = read_table(run / "baselines" / "features.parquet")
    assert found.cells["split"].tolist() == expected["features"].cells["split"].tolist()
    assert found.provenance["features"] == expected["features"].provenance["features"]
    assert found.provenance["standardized_on"] == "split train"
    np.testing.assert_allclose(found.embeddings, expected["features"].embeddings, atol=1e-3)
    pixels = read_table(run / "baselines" / "pixels.parquet")
    np.testing.assert_allclose(abs(pixels.embeddings[:, :2]), abs(expected["pixels"].embeddings[:, :2]), atol=1e-2)


def test_the_twin_sees_what_the_model_sees(home: Path, tmp_path: Path) -> None:
    run = embed(home, tmp_path / "run")
    assert find(run / "embeddings.parquet", tmp_path).tables["untrained"] == run / "baselines" / "untrained"
    save_untrained(str(home / "model"), tmp_path / "twin")
    expected = read_table(embed(home, tmp_path / "by_hand", model=str(tmp_path / "twin")))
    found = read_table(run / "baselines" / "untrained")
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)
    assert not list((run / "baselines").glob(".*"))


def test_fields_are_read_once_and_a_stopped_making_goes_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = embed(home, tmp_path / "run")
    read: list[str] = []
    reading = ImageCells.read

    def counted(source: ImageCells, name: str) -> CellBlock:
        read.append(name)
        if len(read) == 5:
            raise OSError("the disk is gone")
        return reading(source, name)

    monkeypatch.setattr(ImageCells, "read", counted)
    first = find(run, tmp_path, wanted=("untrained",))
    assert "the disk is gone" in first.missing[0]
    assert first.tables == {}
    read[:] = ["x"] * 10
    assert set(find(run, tmp_path).tables) == set(BASELINES)
    again = read[10:]
    assert len(again) == len(set(again)) <= FIELDS
    read[:] = []
    find(run, tmp_path)
    assert read == []


@pytest.mark.parametrize("kind", ["shards", "crops", "single", "segmented"])
def test_every_kind_of_input_gives_the_cells_of_the_table(home: Path, tmp_path: Path, kind: str) -> None:
    images, source = home / "images", tmp_path / kind
    more: list[str] = []
    if kind in ("shards", "crops"):
        crops = source if kind == "crops" else tmp_path / "cut"
        crop_fields(images, crops, settings=CropSettings(crop_px=128, output_px=32), progress=False)
        if kind == "shards":
            write_shards(CroppedFields(crops), source, ShardSettings(split_by=None), progress=False)
    elif kind == "single":
        source.mkdir()
        for path in [*images.glob("7_A1_1_*.png"), *images.glob("7_A2_1_*.png")]:
            if "mask" not in path.name:
                shutil.copy(path, source / path.name)
        more = ["--single-cells"]
    else:
        simulate_dataset(2, 0, source, antibodies=2, size_px=384, pixel_size_um=0.16)
        for path in source.glob("*mask*"):
            path.unlink()
        more = ["--min-area-um2", "20"]
    run = embed(home, tmp_path / "run", source, *more)
    found = find(run, tmp_path)
    assert found.missing == ()
    for path in found.tables.values():
        assert ids_of(path) == ids_of(run)


def test_several_passes_and_models_chosen_by_channel(home: Path, tmp_path: Path) -> None:
    run = embed(home, tmp_path / "passes", None, "--protein-channel", "green", "--protein-channel", "red")
    found = find(run, tmp_path)
    assert found.missing == ()
    assert read_table(found.tables["untrained"]).embeddings.shape == read_table(run).embeddings.shape
    images = tmp_path / "images"
    for number in range(4):
        write_field(images, f"7_B{number}_1", number, COLOURS if number % 2 else ("blue", "green"))
    save_tiny_model(tmp_path / "models" / "four")
    save_tiny_model(tmp_path / "models" / "two", ("blue", "green"))
    auto = embed(home, tmp_path / "auto", images, "--models", str(tmp_path / "models"), model="auto")
    assert set(read_table(auto).cells["model"]) == {"four", "two"}
    found = find(auto, tmp_path)
    assert found.missing == ()
    assert read_table(found.tables["features"]).provenance["channels"] == ["blue", "green"]
    assert ids_of(found.tables["untrained"]) == ids_of(auto)


def test_input_that_is_gone_or_has_changed_is_told(home: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(home / "images", images)
    run = embed(home, tmp_path / "run", images)
    images.rename(tmp_path / "moved")
    found = find(run, tmp_path)
    assert found.tables == {}
    assert f"{images}, the source of its cells, does not exist" in found.missing[0]
    assert "--crops INPUT" in found.missing[0]
    assert "--crops INPUT" in find(run, tmp_path, wanted=("untrained",)).missing[0]
    assert set(find(run, tmp_path, tmp_path / "moved").tables) == set(BASELINES)
    shutil.rmtree(run / "baselines")
    mask = np.zeros((64, 72), np.uint16)
    mask[20:40, 12:40], mask[50:, 52:] = 3, 7
    write_png(tmp_path / "moved" / "7_A3_1_mask.png", mask)
    with pytest.raises(InputError, match="1 cell, first '7_A3_1_3': position or size in the images differs"):
        find(run, tmp_path, tmp_path / "moved", ("features",))
    mask[mask == 7] = 8
    write_png(tmp_path / "moved" / "7_A3_1_mask.png", mask)
    (tmp_path / "moved").rename(images)
    found = find(run, tmp_path)
    assert found.tables == {}
    assert "no longer contains all cells" in found.missing[0]


def test_a_model_that_is_gone_leaves_features_and_pixels(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "model", tmp_path / "model")
    run = embed(home, tmp_path / "run", model=str(tmp_path / "model"))
    shutil.rmtree(tmp_path / "model")
    found = find(run, tmp_path)
    assert set(found.tables) == {"features", "pixels"}
    assert "baseline untrained: The model" in found.missing[0]


def test_tables_without_a_folder_take_crops(home: Path, tmp_path: Path) -> None:
    table = read_table(embed(home, tmp_path / "run"))
    own = tmp_path / "own.h5ad"
    write_h5ad(table, own)
    found = find(own, tmp_path / "out", home / "images")
    assert ids_of(found.tables["untrained"]) == ids_of(own)
    assert found.tables["features"] == tmp_path / "out" / "baselines" / "features.parquet"
    foreign = tmp_path / "foreign.parquet"
    write_parquet(EmbeddingTable(table.cells, table.embeddings), foreign)
    unknown = find(foreign, tmp_path / "none")
    assert unknown.tables == {}
    assert "does not record the images" in unknown.missing[0]
    crop_fields(home / "images", tmp_path / "crops", settings=CropSettings(crop_px=128, output_px=32), progress=False)
    found = find(foreign, tmp_path / "foreign", tmp_path / "crops")
    assert set(found.tables) == {"features", "pixels"}
    assert "does not record which SubCell model" in found.missing[0]
    with pytest.raises(InputError, match="give shards or the output of `subcell crops`"):
        find(foreign, tmp_path / "no", home / "images")
    write_parquet(EmbeddingTable(table.cells.assign(cell_id=range(len(table))).astype({"cell_id": str}),
                                 table.embeddings), foreign)  # fmt: skip
    with pytest.raises(
        InputError, match="lacks 32 of 32 cells of the table, first '0'; its cells have names such as '7_A0_1_3'"
    ):
        find(foreign, tmp_path / "no", tmp_path / "crops")


def perturb(table: Path, output: Path, *more: str) -> tuple[str, dict[str, Any]]:
    options = ["--group-column", "compound", "--plate-column", "plate", "--well-column", "well", "--null-size", "100"]
    command = ["evaluate", "perturbation", str(table), "--output", str(output), "--control", "compound=DMSO", *options]
    result = CliRunner().invoke(app, [*command, *more])
    assert result.exit_code == 0, result.output
    return result.output, json.loads((output / "report.json").read_text())


def test_profiles_of_cells_stand_beside_their_baselines(home: Path, tmp_path: Path) -> None:
    run = embed(home, tmp_path / "run")
    said, report = perturb(run, tmp_path / "out")
    assert [row["name"] for row in report["comparisons"]] == list(BASELINES)
    assert "pixels: mean average precision" in said
    assert "Comparison with baselines" in (tmp_path / "out" / "report.html").read_text()
    by_hand = perturb(run / "baselines" / "features.parquet", tmp_path / "by_hand", "--no-baselines")[1]
    assert report["comparisons"][1]["theirs"] == by_hand["replicate_retrieval"]["mean_average_precision"]
    assert by_hand["comparisons"] == by_hand["missing_baselines"] == []


def test_profiles_of_wells_say_that_baselines_need_cells(tmp_path: Path) -> None:
    wells = pd.DataFrame({"compound": [*"aabb", "DMSO", "DMSO"], "plate": "p", "well": list("123456")})
    wells = wells.add_prefix("Metadata_").assign(one=np.arange(6.0), two=[0.0, 1, 0, 2, 1, 1])
    wells.to_csv(tmp_path / "wells.csv", index=False)
    command = ["evaluate", "perturbation", str(tmp_path / "wells.csv"), "--output", str(tmp_path / "out")]
    columns = ["--group-column", "Metadata_compound", "--plate-column", "Metadata_plate", "--well-column", "x"]
    options = ["--control", "Metadata_compound=DMSO", "--null-size", "100", *columns]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    assert "wells.csv contains profiles" in result.output
    assert "wells.csv contains profiles" in (tmp_path / "out" / "report.html").read_text()
    result = CliRunner().invoke(app, [*command, *options, "--crops", str(tmp_path)])
    assert result.exit_code == 2
    assert "--crops cannot be used" in result.output
