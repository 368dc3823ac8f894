"""The function and the command are one job: the same files, the same record, notes that are logged and not printed."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import subcell_hf
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import iterate_fields
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.parallel.processes import Processes
from subcell_hf.tables.files import read_table
from subcell_hf.types import FieldOfView
from subcell_hf.workflows.embed import embed_to_folder
from subcell_hf.workflows.embed_input import EmbedInput
from tests.inference.embedding_runs import random_crops, save_tiny_model, write_fields

SETTINGS = EmbedSettings(precision="fp32", device="cpu", progress=False)
TABLES = ("embeddings.parquet", "embeddings.h5ad", "pictures.parquet", "skipped.csv")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fields of view and a tiny model."""
    folder = tmp_path_factory.mktemp("home")
    save_tiny_model(folder / "model")
    write_fields(folder / "images")
    return folder


def given(home: Path, **more: Any) -> EmbedInput:
    return EmbedInput(str(home / "images"), str(home / "model"), **more)


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def command(home: Path, output: Path, *options: str, code: int = 0) -> str:
    words = ["--model", str(home / "model"), "--output", str(output), "--precision", "fp32", "--device", "cpu"]
    done = CliRunner().invoke(app, ["embed", str(home / "images"), *words, "--no-report", *options])
    assert done.exit_code == code, done.output
    return done.output


def test_the_function_does_all_that_the_command_does(home: Path, tmp_path: Path) -> None:
    chosen = ("--protein-channel", "green", "--protein-channel", "red", "--keep-surroundings", "--min-area-um2", "20")
    command(home, tmp_path / "command", *chosen, "--pixel-size-um", "0.2", "--crop-size-px", "64", "--portable")
    options = SourceOptions(ReadingOptions(pixel_size_um=0.2), CropSettings(min_area_um2=20.0), crop_px=64)
    table = subcell_hf.embed(
        home / "images",
        home / "model",
        protein_channels=("green", "red"),
        mask_cells=False,
        output=tmp_path / "function",
        options=options,
        portable=True,
        precision="fp32",
        device="cpu",
        progress=False,
    )
    assert len(table) > 0
    for name in (*TABLES, "attention.parquet", "portable/result.csv"):
        assert (tmp_path / "function" / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name
    by_command, by_function = record(tmp_path / "command"), record(tmp_path / "function")
    assert by_command["format"] == 2
    assert by_command["input"].pop("command") != by_function["input"].pop("command") == ""
    for key in ("input", "settings", "fingerprint"):
        assert by_command[key] == by_function[key]


def test_a_report_is_drawn_where_it_is_wanted(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Pass output=…"):
        subcell_hf.embed(random_crops(2), home / "model", report=True)
    subcell_hf.embed(random_crops(2), home / "model", output=tmp_path / "out", report=True, progress=False)
    assert (tmp_path / "out" / "report.html").is_file()
    assert "input" not in record(tmp_path / "out")  # arrays have no path that a later run could read


def field_in_memory(home: Path) -> FieldOfView:
    """The first field with its mask, and a plane that the model does not take."""
    reading = ReadingOptions(channels=("red", "yellow", "blue", "green"))
    field = next(iterate_fields(home / "images", reading))
    planes = np.concatenate([field.pixels[:1] // 2, field.pixels])
    return replace(field, pixels=planes, channels=("other", *field.channels))


def test_a_field_in_memory_gives_the_same_cells_as_its_files(home: Path, tmp_path: Path) -> None:
    field = field_in_memory(home)
    made = subcell_hf.embed(field, home / "model", output=tmp_path / "field", precision="fp32", progress=False)
    embed_to_folder(given(home), tmp_path / "files", SETTINGS, processes=Processes(), report=False)
    table = read_table(tmp_path / "files")
    expected = table.select((table.cells["field_of_view"] == field.name).to_numpy())
    pd.testing.assert_frame_equal(made.cells, expected.cells)
    np.testing.assert_array_equal(made.embeddings, expected.embeddings)
    filtered = SourceOptions(filters=CropSettings(exclude_border=True))
    kept = subcell_hf.embed(field, home / "model", options=filtered, precision="fp32", progress=False)
    assert kept.cells["label"].tolist() == [3]


def test_a_field_in_memory_that_does_not_fit_is_refused(home: Path) -> None:
    field = field_in_memory(home)
    model, mask = home / "model", np.asarray(field.label_mask)
    with pytest.raises(InputError, match=r"label mask of shape \(64, 71\), expected \(64, 72\)"):
        subcell_hf.embed(replace(field, label_mask=mask[:, 1:]), model)
    with pytest.raises(InputError, match="has neither label mask nor boxes"):
        subcell_hf.embed(replace(field, label_mask=None), model)
    with pytest.raises(InputError, match="an empty label mask, expected at least one cell"):
        subcell_hf.embed(replace(field, label_mask=mask * 0), model)
    with pytest.raises(InputError, match=r"pixel size of 80\.0 um, expected 0\.01 to"):
        subcell_hf.embed(replace(field, pixel_size_um=80.0), model)
    with pytest.raises(InputError, match="channel red, yellow, blue, green is missing: found other"):
        subcell_hf.embed(replace(field, pixels=field.pixels[:1], channels=("other",)), model)
    with pytest.raises(InputError, match="Set them there"):
        subcell_hf.embed(field, model, pixel_size_um=0.1)
    with pytest.raises(InputError, match="only filters and crop_px apply"):
        subcell_hf.embed(field, model, options=SourceOptions(split="test"))


def test_a_run_that_is_stopped_by_its_watcher_is_resumed(home: Path, tmp_path: Path) -> None:
    """Every part that was complete is kept, and no thread keeps the folder."""
    field = field_in_memory(home)
    rows, columns = np.divmod(np.arange(64 * 72), 72)
    tiles = (rows // 8 * 9 + columns // 8 + 1).reshape(64, 72)
    field, seen = replace(field, label_mask=tiles), list[int]()

    def stop_after_the_first_part(done: int) -> None:
        seen.append(done)
        if done > 64:
            raise KeyboardInterrupt

    options = {"output": tmp_path / "run", "precision": "fp32", "progress": False, "batch_size": 8, "pictures": 0}
    with pytest.raises(KeyboardInterrupt):
        subcell_hf.embed(field, home / "model", watch=stop_after_the_first_part, **options)
    assert seen == [8, 16, 24, 32, 40, 48, 56, 64, 72]
    counted: list[int] = []
    table = subcell_hf.embed(field, home / "model", watch=counted.append, **options)
    assert table.cells["label"].tolist() == list(range(1, 73))
    assert counted == [8]


def test_two_processes_share_a_folder(home: Path, tmp_path: Path) -> None:
    embed_to_folder(given(home), tmp_path / "one", SETTINGS, processes=Processes(), report=False)
    shares = [
        embed_to_folder(given(home), tmp_path / "two", SETTINGS, processes=Processes(rank, 2, rank), report=False)
        for rank in (1, 0)
    ]
    assert [share.complete for share in shares] == [False, True]
    for name in TABLES:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_notes_are_logged_and_not_printed(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="subcell_hf"):
        embed_to_folder(given(home), tmp_path / "out", SETTINGS, processes=Processes(), report=False)
    assert capsys.readouterr() == ("", "")
    said = caplog.messages
    assert said[0].startswith(f"{home / 'images'}: fields of view")
    assert f"{tmp_path / 'out'} holds 6 cells; 0 inputs were skipped." in said
    assert said[-1].startswith("Predicted locations, in cells: ")


def test_a_run_of_an_earlier_version_is_recognised(home: Path, tmp_path: Path) -> None:
    """Its `run.json` had texts in `arguments` and `settings`, and no format."""
    command(home, tmp_path / "out")
    run = record(tmp_path / "out")
    arguments = {"source": str(home / "images"), "segmentation": "watershed", "trust_masks": "False", "strict": "False"}
    shown = ("models", "precision", "pictures", "attention of every cell (--portable)")
    old = {key: value for key, value in run.items() if key not in ("format", "input", "embed_settings")}
    shown_then = {key: run["settings"][key] for key in shown} | {k: arguments[k] for k in arguments if k != "strict"}
    old |= {"arguments": arguments, "settings": shown_then}
    (tmp_path / "out" / "run.json").write_text(json.dumps(old))
    before = (tmp_path / "out" / "embeddings.parquet").read_bytes()
    assert "holds 6 cells; 0 inputs were skipped" in command(home, tmp_path / "out")
    assert (tmp_path / "out" / "embeddings.parquet").read_bytes() == before
    said = command(home, tmp_path / "out", "--pictures", "3", code=2)
    assert "pictures: 2000 in that run, 3 now" in said
    assert "trust_masks" not in said
    (tmp_path / "out" / "run.json").write_text(json.dumps(old | {"fingerprint": "of other files"}))
    said = " ".join(command(home, tmp_path / "out", code=2).split())
    assert "other inputs or settings (the input files or their metadata have changed;" in said


def test_inputs_of_earlier_versions_keep_their_fingerprint() -> None:
    """An option that they did not have changes it only where it is given, or no unfinished folder could be resumed."""
    known = {
        "channels", "channel_mapping", "channel_names", "pixel_size_um", "z_projection", "metadata",
        "max_decoded_bytes", "trust_masks",
    }  # fmt: skip
    assert set(ReadingOptions().facts()) == known
    assert ReadingOptions(pattern="(?P<well>..)").facts() == {
        **ReadingOptions().facts(),
        "pattern": "(?P<well>..)",
    }
