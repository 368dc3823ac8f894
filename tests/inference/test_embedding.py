"""Images in, tables out: parity with the published numbers, the same table however it is made, nothing lost."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

import subcell_hf
from subcell_hf.cells.cropping import crop_fields
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import ReadingOptions
from subcell_hf.inference.engine.embedding import Processes
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.tables.cell_pictures import iterate_pictures
from subcell_hf.tables.files import read_table
from subcell_hf.weights.conversion import convert
from tests.images.written_fields import label_mask, random_plane, write_hpa_field, write_png
from tests.inference.embedding_runs import random_crops, run, save_tiny_model, write_fields


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fields(tmp_path_factory.mktemp("fields"), 5)


def test_given_crops_give_the_published_embeddings(golden_files: Path, tmp_path: Path) -> None:
    published = golden_files / "small_rybg"
    folder = convert(
        published / "encoder.pth",
        tmp_path / "model",
        "rybg",
        classifiers=[published / "classifier_s0.pth", published / "classifier_s1.pth"],
        config=published / "model_config.yaml",
    )
    for name in ("", "_96x96", "_64x96"):
        crops = np.load(published / f"input{name}.npy")
        golden = np.load(published / f"output{name}.npz")
        for number, crop in enumerate(crops):
            np.save(_made(tmp_path / f"crops{name}") / f"cell{number}.npy", crop)
        reading = ReadingOptions(channel_names=("red", "yellow", "blue", "green"))
        options = SourceOptions(reading=reading, single_cells=True)
        assert run(tmp_path / f"crops{name}", folder, tmp_path / f"out{name}", options).skipped == ()
        from_files = read_table(tmp_path / f"out{name}")
        in_memory = subcell_hf.embed(crops, model=folder, precision="fp32", progress=False)
        for table in (from_files, in_memory):
            np.testing.assert_allclose(table.embeddings, golden["pool_op"], atol=1e-5)
            np.testing.assert_allclose(table.probabilities, golden["probabilities"], atol=1e-5)
        pictures = list(iterate_pictures(tmp_path / f"out{name}"))
        assert [picture.cell_id for picture in pictures] == ["cell0", "cell1"]
        maps = np.stack([picture.attention for picture in pictures])
        np.testing.assert_allclose(maps, golden["pool_attn"], atol=1e-3)  # kept in half precision


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_fields_become_a_table(model: Path, fields: Path, tmp_path: Path) -> None:
    report = run(fields, model, tmp_path / "out")
    table = read_table(tmp_path / "out")
    assert (report.cells, len(table)) == (10, 10)
    assert list(table.cells["cell_id"][:4]) == ["7_A0_1_3", "7_A0_1_7", "7_A1_1_3", "7_A1_1_7"]
    assert set(table.cells["well"]) == {f"A{number:02d}" if number else "A0" for number in range(5)}
    assert table.cells["qc_cut_by_border"].tolist() == [False, True] * 5
    assert table.embeddings.shape == (10, 32)
    assert table.probabilities is not None
    best = table.probabilities.argmax(axis=1)
    assert list(table.cells["top_location_1"]) == [table.classes[number] for number in best]
    np.testing.assert_array_equal(table.cells["top_probability_1"], table.probabilities.max(axis=1))
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert facts["models"][0]["weights_sha256"] == table.provenance["models"][0]["weights_sha256"]
    assert read_table(tmp_path / "out" / "embeddings.h5ad").embeddings.tobytes() == table.embeddings.tobytes()
    assert not (tmp_path / "out" / "parts").exists()
    picture = next(iterate_pictures(tmp_path / "out"))
    assert picture.attention is not None
    assert picture.attention.shape == (2, 4, 4)


def test_the_table_does_not_depend_on_how_it_is_made(model: Path, fields: Path, tmp_path: Path) -> None:
    run(fields, model, tmp_path / "one", batch_size=2)
    for rank in (2, 0, 1):
        report = run(fields, model, tmp_path / "three", processes=Processes(rank, 3, rank), batch_size=2)
        assert report.complete == (rank == 1)
    run(fields, model, tmp_path / "batches", batch_size=5)
    for name in ("embeddings.parquet", "pictures.parquet", "embeddings.h5ad", "skipped.csv"):
        expected = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "three" / name).read_bytes() == expected
    np.testing.assert_allclose(
        read_table(tmp_path / "batches").embeddings, read_table(tmp_path / "one").embeddings, atol=1e-5
    )


@pytest.mark.slow
def test_processes_that_read_change_nothing(model: Path, fields: Path, tmp_path: Path) -> None:
    for workers in (0, 1):
        run(fields, model, tmp_path / str(workers), workers=workers)
    for name in ("embeddings.parquet", "pictures.parquet"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "0" / name).read_bytes()


def test_crops_and_shards_give_what_the_images_give(model: Path, fields: Path, tmp_path: Path) -> None:
    from subcell_hf.cells.sources import crop_source
    from subcell_hf.shards.sharding import ShardSettings, write_shards

    named = tmp_path / "named"
    for number in range(3):
        write_hpa_field(named, f"7_A{number}_1")
    (named / "metadata.csv").write_text(
        "field_of_view,antibody,gene\n" + "".join(f"7_A{n}_1,HPA{n},G{n}\n" for n in range(3))
    )
    run(named, model, tmp_path / "from_images")
    window_px = round(32 * 0.32 / 0.0800885)
    crop_fields(named, tmp_path / "crops", settings=CropSettings(crop_px=window_px, output_px=32), progress=False)
    run(tmp_path / "crops", model, tmp_path / "from_crops")
    write_shards(
        crop_source(tmp_path / "crops"), tmp_path / "shards", ShardSettings(split_by="antibody"), progress=False
    )
    run(tmp_path / "shards", model, tmp_path / "from_shards")
    images, crops, shards = (read_table(tmp_path / f"from_{name}") for name in ("images", "crops", "shards"))
    np.testing.assert_array_equal(images.embeddings, crops.embeddings)
    order = np.argsort(shards.cells["cell_id"])
    assert list(shards.cells["cell_id"].iloc[order]) == list(images.cells["cell_id"])
    np.testing.assert_allclose(shards.embeddings[order], images.embeddings, atol=1e-5)
    assert list(crops.cells["gene"]) == ["G0", "G0", "G1", "G1", "G2", "G2"]
    assert set(shards.cells["split"]) <= {"train", "validation", "test"}


def test_every_input_is_in_the_table_or_in_skipped(model: Path, tmp_path: Path) -> None:
    fields = write_fields(tmp_path / "fields", 4)
    (fields / "7_A1_1_red.png").write_bytes(b"not a picture")
    (fields / "7_A2_1_green.png").unlink()
    (fields / "stray.png").write_bytes((fields / "7_A0_1_red.png").read_bytes())
    result = CliRunner().invoke(
        app, ["embed", str(fields), "--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"]
    )
    assert result.exit_code == 3, result.output
    with (tmp_path / "out" / "skipped.csv").open(newline="") as file:
        skipped = {row["input"]: row["reason"] for row in csv.DictReader(file)}
    assert set(skipped) == {"7_A1_1", "7_A2_1", "stray.png"}
    assert "green is missing" in skipped["7_A2_1"]
    assert set(read_table(tmp_path / "out").cells["field_of_view"]) == {"7_A0_1", "7_A3_1"}
    with pytest.raises(InputError, match="7_A1_1"):
        run(fields, model, tmp_path / "strict", strict=True)


def test_a_run_of_something_else_is_not_overwritten(model: Path, fields: Path, tmp_path: Path) -> None:
    run(fields, model, tmp_path / "out", pictures=3)
    before = (tmp_path / "out" / "embeddings.parquet").read_bytes()
    assert run(fields, model, tmp_path / "out", pictures=3).cells == 10
    with pytest.raises(InputError, match="pictures: 3 in that run, 4 now"):
        run(fields, model, tmp_path / "out", pictures=4)
    with pytest.raises(InputError, match="is not a run of subcell embed"):
        run(fields, model, fields)
    assert (tmp_path / "out" / "embeddings.parquet").read_bytes() == before


def test_several_proteins_give_several_passes(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "bg", ("blue", "green"))
    rows = ["b_image,mito_image,agp_image,output_prefix"]
    for number in range(2):
        for plane, name in enumerate(("blue", "mito", "agp")):
            write_png(tmp_path / f"{number}_{name}.png", random_plane(10 * number + plane, (32, 32)))
        rows.append(f"{number}_blue.png,{number}_mito.png,{number}_agp.png,cell{number}")
    (tmp_path / "cells.csv").write_text("\n".join(rows))
    run(tmp_path / "cells.csv", model, tmp_path / "out", proteins=("mito", "agp"))
    both = read_table(tmp_path / "out")
    assert both.embeddings.shape == (2, 64)
    for number, name in enumerate(("mito", "agp")):
        run(tmp_path / "cells.csv", model, tmp_path / name, proteins=(name,))
        alone = read_table(tmp_path / name)
        np.testing.assert_allclose(both.embeddings[:, 32 * number : 32 * (number + 1)], alone.embeddings, atol=1e-5)
        np.testing.assert_allclose(both.pass_probabilities[name], alone.probabilities, atol=1e-5)
        assert alone.pass_probabilities == {}
    assert both.probabilities is not None
    np.testing.assert_allclose(both.probabilities, np.mean(list(both.pass_probabilities.values()), axis=0), atol=1e-6)


def test_auto_takes_the_largest_variant_that_fits(tmp_path: Path) -> None:
    for number, channels in enumerate(
        (("red", "yellow", "blue", "green"), ("red", "blue", "green"), ("blue", "green"))
    ):
        save_tiny_model(tmp_path / "models" / "".join(c[0] for c in channels), channels, seed=number)
    for number, colours in enumerate((("red", "yellow", "blue", "green"), ("blue", "green"), ("red", "blue", "green"))):
        write_hpa_field(tmp_path / "fields", f"7_B{number}_1", colours=colours)
    write_hpa_field(tmp_path / "fields", "7_B3_1", colours=("red", "yellow", "blue"))
    report = run(tmp_path / "fields", "auto", tmp_path / "out", models=tmp_path / "models")
    table = read_table(tmp_path / "out")
    assert list(table.cells["model"]) == ["rybg", "rybg", "bg", "bg", "rbg", "rbg"]
    assert [name for name, _ in report.skipped] == ["7_B3_1"]
    run(tmp_path / "fields", tmp_path / "models" / "bg", tmp_path / "bg")
    alone = read_table(tmp_path / "bg")
    np.testing.assert_allclose(table.embeddings[2:4], alone.embeddings[2:4], atol=1e-5)
    save_tiny_model(tmp_path / "models" / "again", ("blue", "green"))
    with pytest.raises(InputError, match="both take blue, green"):
        run(tmp_path / "fields", "auto", tmp_path / "two", models=tmp_path / "models")


def test_small_images_without_masks_are_single_cells(model: Path, tmp_path: Path) -> None:
    # 128 px of 0.08 um are the model's window of 32 px of 0.32 um.
    write_hpa_field(tmp_path / "small", "7_A1_1", shape=(128, 128), with_mask=False)
    run(tmp_path / "small", model, tmp_path / "out")
    cells = read_table(tmp_path / "out").cells
    assert list(cells["cell_id"]) == ["7_A1_1"]
    assert "label" not in cells
    with pytest.raises(InputError, match="segmentation"):
        run(tmp_path / "small", model, tmp_path / "no", SourceOptions(segmentation="magic"))


def test_cells_that_the_model_cannot_take_are_skipped(model: Path) -> None:
    crops = random_crops(4).astype(np.float32)
    crops[2, 1, 3, 3] = np.nan
    with pytest.warns(UserWarning, match="1 input was skipped"):
        table = subcell_hf.embed(crops, model=model, progress=False, precision="fp32", batch_size=4)
    assert list(table.cells["cell_id"]) == ["0", "1", "3"]
    assert table.provenance["skipped"][0]["input"] == "2"
    sound = subcell_hf.embed(crops[[0, 1, 3]], model=model, progress=False, precision="fp32", batch_size=4)
    np.testing.assert_allclose(table.embeddings, sound.embeddings, atol=1e-5)


def test_masks_and_their_absence_matter(model: Path) -> None:
    crops = random_crops(3)
    masks = np.zeros((3, 32, 32), bool)
    masks[:, 8:24, 8:24] = True
    masked = subcell_hf.embed(crops, model=model, cell_masks=masks, progress=False, precision="fp32")
    blotted = subcell_hf.embed(crops * masks[:, None], model=model, progress=False, precision="fp32")
    plain = subcell_hf.embed(crops, model=model, progress=False, precision="fp32")
    np.testing.assert_allclose(masked.embeddings, blotted.embeddings, atol=1e-5)
    assert np.abs(masked.embeddings - plain.embeddings).max() > 1e-2


def test_bf16_is_close_to_fp32(model: Path) -> None:
    crops = random_crops(16)
    exact = subcell_hf.embed(crops, model=model, progress=False, precision="fp32")
    rough = subcell_hf.embed(crops, model=model, progress=False, precision="bf16")
    cosine = (exact.embeddings * rough.embeddings).sum(1)
    cosine /= np.linalg.norm(exact.embeddings, axis=1) * np.linalg.norm(rough.embeddings, axis=1)
    assert cosine.min() > 0.999
    assert np.abs(exact.embeddings - rough.embeddings).max() > 0


def test_stacks_choose_their_model_by_the_channels_in_them(tmp_path: Path) -> None:
    for channels in (("red", "yellow", "blue", "green"), ("blue", "green")):
        save_tiny_model(tmp_path / "models" / "".join(c[0] for c in channels), channels)
    folder = _made(tmp_path / "stacks")
    for name, channels in (("all", ("red", "yellow", "blue", "green")), ("two", ("DAPI", "green"))):
        pixels = np.stack([random_plane(number) for number in range(len(channels))])
        facts = {"axes": "CYX", "Channel": {"Name": list(channels)}, "PhysicalSizeX": 0.32, "PhysicalSizeY": 0.32}
        tifffile.imwrite(folder / f"{name}.ome.tif", pixels, metadata=facts, photometric="minisblack")
        write_png(folder / f"{name}_mask.png", label_mask())
    mapped = SourceOptions(reading=ReadingOptions(channel_mapping={"DAPI": "blue"}))
    run(folder, "auto", tmp_path / "out", mapped, models=tmp_path / "models")
    table = read_table(tmp_path / "out")
    assert sorted(zip(table.cells["field_of_view"], table.cells["model"], strict=True)) == [
        ("all", "rybg"), ("all", "rybg"), ("two", "bg"), ("two", "bg"),
    ]  # fmt: skip


def test_a_portable_table_of_crops_is_read(model: Path, tmp_path: Path) -> None:
    rows = ["r_image,y_image,b_image,g_image,output_prefix,gene"]
    for number in range(3):
        for plane, colour in enumerate("rybg"):
            write_png(tmp_path / f"{number}{colour}.png", random_plane(10 * number + plane, (32, 32)))
        rows.append(",".join(f"{number}{colour}.png" for colour in "rybg") + f",cells/c{number},ACTB")
    rows.append("none.png,0y.png,0b.png,0g.png,cells/c3,ACTB")
    (tmp_path / "path_list.csv").write_text("\n".join(rows))
    report = run(tmp_path / "path_list.csv", model, tmp_path / "out")
    table = read_table(tmp_path / "out")
    assert list(table.cells["cell_id"]) == ["cells/c0", "cells/c1", "cells/c2"]
    assert set(table.cells["gene"]) == {"ACTB"}
    assert [name for name, _ in report.skipped] == ["cells/c3"]
    crops = [np.stack([random_plane(10 * n + p, (32, 32)) for p in range(4)]) for n in range(3)]
    in_memory = subcell_hf.embed(crops, model=model, precision="fp32", progress=False)
    np.testing.assert_allclose(table.embeddings, in_memory.embeddings, atol=1e-5)


def test_portable_files_show_the_attention_of_every_cell(model: Path, fields: Path, tmp_path: Path) -> None:
    arguments = ["embed", str(fields), "--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--portable", "--pictures", "1", "--no-report"])
    assert done.exit_code == 0, done.output
    maps = sorted((tmp_path / "out" / "portable").glob("*_attention_map.png"))
    cells = list(read_table(tmp_path / "out").cells["cell_id"])
    assert [path.name.removesuffix("_attention_map.png") for path in maps] == sorted(cells)
    with Image.open(maps[0]) as picture:
        assert picture.size == (64, 32)  # two heads, each as large as the model's window
    for rank in (1, 0):
        run(fields, model, tmp_path / "two", processes=Processes(rank, 2, rank), pictures=1, attention_maps=True)
    run(fields, model, tmp_path / "one", pictures=1, attention_maps=True)
    assert (tmp_path / "two" / "attention.parquet").read_bytes() == (
        tmp_path / "one" / "attention.parquet"
    ).read_bytes()
