"""Several encoders on the same cells: one reading, one run each; a bad one is named and costs the others nothing."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import subcell_hf
from subcell_hf.cells.cell_features import measure_cells
from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import crop_source
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.parallel.processes import Processes
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.tables.files import EmbeddingTable, read_table
from subcell_hf.workflows.embed import embed_to_folder
from subcell_hf.workflows.embed_input import EmbedInput
from subcell_hf.workflows.encoders.embed_encoders import EncodersReport, embed_with_encoders
from tests.forked import Forked
from tests.images.written_fields import label_mask
from tests.inference.embedding_runs import random_crops, save_tiny_model, write_fields

DOCUMENTATION = (Path(__file__).parents[3] / "docs" / "encoders.md").read_text(encoding="utf-8")
ENCODER_OF_THE_DOCS = re.findall(r"^```python\n(.*?)^```", DOCUMENTATION, flags=re.MULTILINE | re.DOTALL)[0]
SETTINGS = EmbedSettings(precision="fp32", device="cpu", progress=False)
BAD = "tests.inference.encoders.bad_encoders"
SEGMENTATION = """
from pathlib import Path
from tests.images.written_fields import label_mask

def segment(field):
    with open({log!r}, "a") as log:
        print(field.name, file=log)
    return label_mask(field.pixels.shape[1:])
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fields of view, a tiny model, and the encoder of the documentation."""
    folder = tmp_path_factory.mktemp("home")
    save_tiny_model(folder / "model")
    (folder / "model" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nA model.\n")
    write_fields(folder / "images")
    (folder / "my_encoder.py").write_text(ENCODER_OF_THE_DOCS)
    return folder


def models(home: Path) -> list[str]:
    return [f"subcell={home / 'model'}", "features=features,input_px=64", f"own={home / 'my_encoder.py'}:build"]


def run(home: Path, output: Path, which: list[str], options: SourceOptions | None = None) -> EncodersReport:
    given = EmbedInput(str(home / "images"), options=options or SourceOptions())
    return embed_with_encoders(given, which, output, SETTINGS, processes=Processes(), report=False)


@pytest.fixture(scope="module")
def together(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of three encoders."""
    output = tmp_path_factory.mktemp("together") / "run"
    done = run(home, output, models(home))
    assert list(done.reports) == ["subcell", "features", "own"]
    return output


def test_each_encoder_has_the_table_that_it_has_alone(home: Path, together: Path, tmp_path: Path) -> None:
    tables = {name: read_table(together / name) for name in ("subcell", "features", "own")}
    assert len(tables["subcell"]) == 6
    for text in models(home):
        name, _, spec = text.partition("=")
        given = EmbedInput(str(home / "images"), spec)
        embed_to_folder(given, tmp_path / name, SETTINGS, processes=Processes(), report=False)
        alone = read_table(tmp_path / name)
        assert tables[name].cells["cell_id"].tolist() == tables["subcell"].cells["cell_id"].tolist()
        assert np.array_equal(tables[name].embeddings, alone.embeddings)
        runs = [json.loads((folder / name / "run.json").read_text()) for folder in (together, tmp_path)]
        assert runs[0]["input"]["model"] == runs[1]["input"]["model"] == spec
        assert runs[0]["models"][0]["licence"] == {"subcell": "cc-by-nc-4.0"}.get(name, "MIT")
    assert set(tables["own"].cells["model"]) == {"own"}
    assert json.loads((together / "encoders.json").read_text())["encoders"] == ["subcell", "features", "own"]


def test_a_field_is_read_and_segmented_once(home: Path, tmp_path: Path) -> None:
    images = write_fields(tmp_path / "images")
    for mask in images.glob("*_mask.png"):
        mask.unlink()
    (tmp_path / "own.py").write_text(SEGMENTATION.format(log=str(tmp_path / "log")))
    given = EmbedInput(
        str(images), options=SourceOptions(segmentation=f"{tmp_path / 'own.py'}:segment", single_cells=False)
    )
    embed_with_encoders(given, models(home), tmp_path / "run", SETTINGS, processes=Processes(), report=False)
    assert len((tmp_path / "log").read_text().split()) == 3


def test_a_run_is_resumed_and_extended_by_encoder(home: Path, together: Path, tmp_path: Path) -> None:
    first = run(home, tmp_path / "run", models(home)[1:2])
    written = (tmp_path / "run" / "features" / "embeddings.parquet").stat().st_mtime_ns
    more = run(home, tmp_path / "run", models(home))
    assert first.reports["features"].parts == more.reports["features"].resumed_parts == 3
    assert (tmp_path / "run" / "features" / "embeddings.parquet").stat().st_mtime_ns == written
    for name in ("subcell", "features", "own"):
        ours, theirs = (read_table(folder / name) for folder in (tmp_path / "run", together))
        assert np.array_equal(ours.embeddings, theirs.embeddings)
    fewer = run(home, tmp_path / "run", models(home)[:1])
    assert list(fewer.reports) == ["subcell"]
    listed = json.loads((tmp_path / "run" / "encoders.json").read_text())["encoders"]
    assert sorted(listed) == ["features", "own", "subcell"]
    with pytest.raises(InputError, match=r"holds the encoder features of .*Use the same input and options"):
        run(home, tmp_path / "run", models(home)[:1], SourceOptions(crop_px=64))
    with pytest.raises(InputError, match="holds the run of one model"):
        run(home, tmp_path / "run" / "own", models(home))


def test_images_crops_and_shards_have_the_same_cells(home: Path, tmp_path: Path) -> None:
    images = write_fields(tmp_path / "images")
    annotations = "".join(f"7_A{number}_1,HPA{number},G{number}\n" for number in range(3))
    (images / "metadata.csv").write_text(f"field_of_view,antibody,gene\n{annotations}")
    window = CropSettings(crop_px=round(32 * 0.32 / 0.0800885), output_px=32)
    crop_fields(images, tmp_path / "crops", settings=window, progress=False)
    write_shards(
        crop_source(tmp_path / "crops"), tmp_path / "shards", ShardSettings(split_by="antibody"), progress=False
    )
    which = [f"subcell={home / 'model'}", f"own={BAD}:sound,pixel_size_um=0.32,input_px=32"]
    found = {}
    for name in ("images", "crops", "shards"):
        given = EmbedInput(str(tmp_path / name))
        embed_with_encoders(given, which, tmp_path / f"from {name}", SETTINGS, processes=Processes(), report=False)
        tables = {encoder: read_table(tmp_path / f"from {name}" / encoder) for encoder in ("subcell", "own")}
        ids = tables["subcell"].cells["cell_id"].tolist()
        assert tables["own"].cells["cell_id"].tolist() == ids
        order = np.argsort(ids)
        found[name] = np.array(ids)[order], {encoder: table.embeddings[order] for encoder, table in tables.items()}
    for name in ("crops", "shards"):
        assert found[name][0].tolist() == found["images"][0].tolist()
        for encoder, embeddings in found[name][1].items():
            np.testing.assert_allclose(embeddings, found["images"][1][encoder], atol=1e-5)


DIES_ONCE = """
import os
import torch
from subcell_hf.inference import Encoder

CALLS = []

def encode(images):
    CALLS.append(len(images))
    if len(CALLS) > 4 and os.path.exists({flag!r}):  # the first batch is encoded four times, to check the encoder
        raise RuntimeError("the device is gone")
    return images.mean((2, 3))

def build():
    return Encoder("dies_once", encode, channels=("blue",), input_px=8)
"""


def test_what_an_encoder_had_finished_is_kept(home: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    (tmp_path / "dies.py").write_text(DIES_ONCE.format(flag=str(flag)))
    which = [*models(home)[1:2], f"dies={tmp_path / 'dies.py'}:build"]
    stopped = run(home, tmp_path / "run", which)
    assert "failed with RuntimeError: the device is gone" in stopped.failed["dies"]
    assert list(stopped.reports) == ["features"]
    flag.unlink()
    resumed = run(home, tmp_path / "run", which)
    assert (resumed.reports["dies"].resumed_parts, resumed.reports["dies"].parts) == (1, 3)
    assert resumed.reports["features"].resumed_parts == 3
    assert len(read_table(tmp_path / "run" / "dies")) == 6


def test_two_processes_share_the_parts(home: Path, together: Path, tmp_path: Path) -> None:
    given = EmbedInput(str(home / "images"))
    shares = [
        embed_with_encoders(
            given, models(home), tmp_path / "run", SETTINGS, processes=Processes(rank, 2, rank), report=False
        )
        for rank in (1, 0)
    ]
    assert [all(one.complete for one in share.reports.values()) for share in shares] == [False, True]
    for name in ("subcell", "features", "own"):
        ours, theirs = (folder / name / "embeddings.parquet" for folder in (tmp_path / "run", together))
        assert ours.read_bytes() == theirs.read_bytes()


FAULTS = {
    "wrong_shape": "returned the shape [1, 4] for 2 cells, expected [2, embedding size]",
    "other_size": "returned the shape [2, 4] for 2 cells, expected [2, 3]",
    "nan": "returned NaN or infinite values for all of 2 cells",
    "changes_its_input": "changed the images that it was given",
    "random_numbers": "it draws random numbers",
    "depends_on_others": "returned another embedding for a cell alone than beside other cells",
    "one_cell_at_a_time_fails": "returned the shape [4] for 1 cell, expected [1, 4]",
    "dies": "failed with KeyError: 'weights'",
    "exits": "failed with SystemExit: no licence key",
    "no_encoder": "returned a str, expected subcell_hf.inference.Encoder",
    "cannot_be_built": "cannot be built (ValueError: a file is missing)",
    "missing": "cannot be imported (AttributeError",
}


def test_bad_encoders_are_told_apart_and_lose_nothing_of_the_others(home: Path, together: Path, tmp_path: Path) -> None:
    which = [f"{name}={BAD}:{name}" for name in FAULTS]
    done = run(home, tmp_path / "run", [*which[:5], *models(home), *which[5:]])
    assert list(done.reports) == ["subcell", "features", "own"]
    for name, reason in FAULTS.items():
        assert reason in done.failed[name]
        assert name in done.failed[name]
    for name in done.reports:
        ours, theirs = (read_table(folder / name) for folder in (tmp_path / "run", together))
        assert np.array_equal(ours.embeddings, theirs.embeddings)
    with pytest.raises(InputError, match="Every encoder failed"):
        run(home, tmp_path / "bad", which[-4:])


@pytest.mark.slow
def test_an_encoder_that_ends_the_process_is_named_and_runs_last(home: Path, together: Path, tmp_path: Path) -> None:
    flag, output = tmp_path / "flag", tmp_path / "run"
    flag.touch()
    dying = [f"{when}={BAD}:dies_of_a_signal,flag={flag},when={when}" for when in ("build", "encode")]
    words = [word for text in (dying[0], models(home)[2], dying[1]) for word in ("--model", text)]
    said = []
    for expected in (-signal.SIGSEGV, -signal.SIGSEGV, -signal.SIGSEGV, 0):
        if not expected:
            flag.unlink()
        log = tmp_path / f"log {len(said)}"
        command = ("embed", str(home / "images"), *words, "--no-report", "--output", str(output))
        assert Forked("-m", "subcell_hf.cli", *command, log=log).wait() == expected, log.read_text()
        said.append(log.read_text())
    # In turn: one dies while it is built; the other while it encodes; the first again, after the rest; none.
    assert [re.findall(r"ended without an error while (\w+) was", text) for text in said] == [
        [], ["build"], ["build", "encode"], ["build", "encode"],
    ]  # fmt: skip
    assert sorted(path.parent.name for path in output.glob("*/embeddings.parquet")) == ["build", "encode", "own"]
    assert np.array_equal(read_table(output / "own").embeddings, read_table(together / "own").embeddings)
    assert not list(output.glob(".encoder-*"))


def test_numbers_of_any_type_become_float32(home: Path) -> None:
    crops, channels = random_crops(3), ["red", "yellow", "blue", "green"]
    tables = {
        name: subcell_hf.embed(crops, f"{BAD}:{name}", channels=channels, pixel_size_um=0.16).embeddings
        for name in ("sound", "half", "double")
    }
    assert {table.dtype for table in tables.values()} == {np.dtype(np.float32)}
    assert np.array_equal(tables["double"], tables["sound"])
    assert np.allclose(tables["half"], tables["sound"], rtol=1e-3)


def test_the_command_embeds_by_several(home: Path, tmp_path: Path) -> None:
    words = ["embed", str(home / "images"), "--output", str(tmp_path / "run"), "--device", "cpu", "--no-report"]
    chosen = [word for text in [*models(home)[1:], f"dies={BAD}:dies"] for word in ("--model", text)]
    done = CliRunner().invoke(app, [*words, *chosen])
    assert done.exit_code == 3, done.output
    assert "dies failed" in done.output
    assert sorted(path.parent.name for path in tmp_path.glob("run/*/embeddings.parquet")) == ["features", "own"]
    alone = [*words[:2], "--output", str(tmp_path / "one"), "--no-report", "--portable", "--model", f"{BAD}:sound"]
    done = CliRunner().invoke(app, alone)
    assert done.exit_code == 0
    assert "sound has no attention maps" in done.output
    assert (tmp_path / "one" / "embeddings.parquet").is_file()


def test_what_differs_from_training_is_warned_of(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = EmbedInput(str(home / "images"), options=SourceOptions(crop_px=64), mask_cells=False)
    embed_with_encoders(given, models(home), tmp_path / "run", SETTINGS, processes=Processes(), report=False)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any(
        "subcell was trained with a window of 10.2 um around a cell, and this run uses 20.5 um" in s for s in said
    )
    assert any("subcell was trained without the surroundings of the cell" in s for s in said)
    assert any("own was trained without the surroundings of the cell" in s for s in said)
    assert not any("features was trained" in s for s in said)
    assert any("moments keeps its window of 128 px" in s for s in said)


def test_crops_in_memory_are_embedded_by_any_encoder(home: Path) -> None:
    crops = random_crops(5)
    channels = ["red", "yellow", "blue", "green"]
    table = subcell_hf.embed(crops, f"{home / 'my_encoder.py'}:build", channels=channels, pixel_size_um=0.16)
    chosen = crops[:, 2:].astype(np.float32) / 255
    padded = np.pad(chosen, ((0, 0), (0, 0), (48, 48), (48, 48)))
    assert np.allclose(table.embeddings[:, :2], padded.mean((2, 3)), atol=1e-6)
    with pytest.raises(InputError, match=re.escape("Name the planes of the arrays by channels=[…].")):
        subcell_hf.embed(crops, "features")


def test_features_are_those_of_the_baselines() -> None:
    crops, mask = random_crops(3, size_px=64), label_mask((64, 64)) == 3
    masks, channels = np.stack([mask] * 3), ["red", "yellow", "blue", "green"]
    table: EmbeddingTable = subcell_hf.embed(
        crops, "features,input_px=64", channels=channels, pixel_size_um=0.160177, cell_masks=masks
    )
    expected, names = measure_cells(crops, masks, channels)
    assert table.embeddings.shape == (3, len(names))
    assert np.allclose(table.embeddings, expected, rtol=1e-4, atol=1e-5)
