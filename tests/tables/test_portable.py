"""Files as SubCellPortable writes them, in both forms, read the way its users read them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.ontology import reported_locations
from subcell_hf.tables.attention_maps import CellAttention, draw_attention, write_attention
from subcell_hf.tables.cell_pictures import draw_picture, write_pictures
from subcell_hf.tables.files import EmbeddingTable, read_table, write_parquet
from subcell_hf.tables.portable import write_portable_files


def example_table(cells: int = 5, **columns: list[str]) -> EmbeddingTable:
    rng = np.random.default_rng(2)
    ids = [f"plate/cell_{i}" for i in range(cells)]
    return EmbeddingTable(
        cells=pd.DataFrame({"cell_id": ids, "field_of_view": "plate", **columns}),
        embeddings=rng.normal(size=(cells, 12)).astype(np.float32),
        probabilities=rng.random((cells, 31), dtype=np.float32),
        classes=reported_locations(),
    )


@pytest.mark.parametrize("form", ["2024", "2025"])
def test_the_columns_and_values_of_the_result(tmp_path: Path, form: str) -> None:
    table = example_table()
    write_portable_files(table, tmp_path, form=form)
    result = pd.read_csv(tmp_path / "result.csv")
    assert list(result.columns) == [
        *("id", "top_class_name", "top_class", "top_3_classes_names", "top_3_classes"),
        *(f"prob{i:02d}" for i in range(31)),
        *(f"feat{i:04d}" for i in range(12)),
    ]
    np.testing.assert_array_equal(result.filter(like="feat").to_numpy(np.float32), table.embeddings)
    np.testing.assert_array_equal(result.filter(like="prob").to_numpy(np.float32), table.probabilities)
    assert table.probabilities is not None
    order = np.argsort(-table.probabilities[0])[:3]
    assert result["top_class"][0] == order[0]
    assert result["top_class_name"][0] == table.classes[order[0]]
    assert result["top_3_classes_names"][0] == ",".join(table.classes[i] for i in order)
    assert result["top_3_classes"][0] == ",".join(map(str, order[::-1] if form == "2024" else order))


def test_our_own_reader_takes_it_back(tmp_path: Path) -> None:
    table = example_table()
    write_portable_files(table, tmp_path, single_files=False)
    back = read_table(tmp_path / "result.csv")
    assert list(back.cells["cell_id"]) == list(table.cells["cell_id"])
    np.testing.assert_array_equal(back.embeddings, table.embeddings)
    assert back.probabilities is not None
    np.testing.assert_array_equal(back.probabilities, table.probabilities)
    assert [path.name for path in tmp_path.iterdir()] == ["result.csv"]


def test_every_cell_has_its_arrays_and_kept_attention_its_picture(tmp_path: Path) -> None:
    table = example_table()
    attention = np.random.default_rng(0).random((2, 4, 4), dtype=np.float32)
    report = write_portable_files(table, tmp_path, attention=[CellAttention("plate/cell_1", attention, (64, 48))])
    assert (report.cells, report.attention_maps) == (5, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "plate" / "cell_3_embedding.npy"), table.embeddings[3])
    assert table.probabilities is not None
    np.testing.assert_array_equal(np.load(tmp_path / "plate" / "cell_3_probabilities.npy"), table.probabilities[3])
    with Image.open(tmp_path / "plate" / "cell_1_attention_map.png") as picture:
        assert picture.size == (96, 64)
        assert picture.mode == "RGB"
    assert len(list((tmp_path / "plate").iterdir())) == 11


def test_attention_is_enlarged_as_torch_does() -> None:
    attention = np.random.default_rng(1).random((2, 5, 5), dtype=np.float32)
    enlarged = F.interpolate(torch.from_numpy(attention)[None], size=(40, 40), mode="bilinear")[0].numpy()
    low, high = enlarged.min(axis=(1, 2), keepdims=True), enlarged.max(axis=(1, 2), keepdims=True)
    expected = np.hstack(list((enlarged - low) / (high - low) * 255))
    drawn = np.asarray(draw_attention(attention, (40, 40))).astype(int)
    assert np.abs(drawn[..., 0] - expected).max() <= 1.01
    np.testing.assert_array_equal(np.asarray(draw_attention(attention, (40, 40), form="2024")), 255 - drawn)
    assert not np.asarray(draw_attention(np.ones((1, 3, 3)), (8, 8))).any()  # nothing stands out


def test_without_a_classifier_there_are_no_classes(tmp_path: Path) -> None:
    table = example_table()
    write_portable_files(EmbeddingTable(table.cells, table.embeddings), tmp_path)
    assert list(pd.read_csv(tmp_path / "result.csv").columns[:2]) == ["id", "feat0000"]
    assert not list(tmp_path.rglob("*_probabilities.npy"))


def test_prefixes_are_those_of_the_input_list(tmp_path: Path) -> None:
    write_portable_files(example_table(2, output_prefix=["x_", "y_"]), tmp_path / "a")
    assert (tmp_path / "a" / "x__embedding.npy").is_file()
    write_portable_files(example_table(2, output_prefix=["x_", "x_"]), tmp_path / "b")
    assert list(pd.read_csv(tmp_path / "b" / "result.csv")["id"]) == ["plate/cell_0", "plate/cell_1"]


@pytest.mark.parametrize("prefix", ["../out", "/etc/out", "a/../../out", "folder/"])
def test_prefixes_that_lead_out_are_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(InputError, match="relative path"):
        write_portable_files(example_table(1, output_prefix=[prefix]), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_call_writes_what_is_missing_and_another_table_everything(tmp_path: Path) -> None:
    table, out = example_table(6), tmp_path / "out"
    write_parquet(table, tmp_path / "table.parquet")
    attention = [
        CellAttention(name, np.random.default_rng(0).random((2, 4, 4)), (32, 32)) for name in table.cells.cell_id
    ]

    def cut_short() -> Iterator[CellAttention]:
        yield from attention[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_portable_files(tmp_path / "table.parquet", out, attention=cut_short())
    assert not (out / "result.csv").exists()
    first = out / "plate" / "cell_0_attention_map.png"
    written = first.stat().st_mtime_ns
    assert write_portable_files(tmp_path / "table.parquet", out, attention=attention).attention_maps == 6
    assert first.stat().st_mtime_ns == written
    assert len(list((out / "plate").iterdir())) == 18
    np.testing.assert_array_equal(read_table(out / "result.csv").embeddings, table.embeddings)
    write_portable_files(tmp_path / "table.parquet", out, attention=attention, form="2024")
    assert first.stat().st_mtime_ns != written


def test_the_command(tmp_path: Path) -> None:
    write_parquet(example_table(), tmp_path / "embeddings.parquet")
    plane = np.random.default_rng(3).random((32, 32), dtype=np.float32)
    attention = np.random.default_rng(4).random((2, 4, 4), dtype=np.float32)
    pictures = [draw_picture("plate/cell_4", {"green": plane}, None, attention)]
    write_pictures(pictures, tmp_path / "pictures.parquet")
    run = CliRunner().invoke(app, ["portable", str(tmp_path), "--output", str(tmp_path / "out")])
    assert run.exit_code == 0, run.output
    assert "5 cells, 1 attention map." in run.output
    assert (tmp_path / "out" / "plate" / "cell_4_attention_map.png").is_file()
    assert "`subcell embed --portable` stores it for all cells" in run.output
    write_attention(
        (CellAttention(f"plate/cell_{n}", attention, (32, 32)) for n in range(5)), tmp_path / "attention.parquet"
    )
    every = CliRunner().invoke(app, ["portable", str(tmp_path), "--output", str(tmp_path / "every")])
    assert "5 cells, 5 attention maps" in every.output
    bad = CliRunner().invoke(app, ["portable", str(tmp_path), "--output", str(tmp_path / "x"), "--form", "2023"])
    assert bad.exit_code == 2
    assert "2024, 2025" in bad.output
