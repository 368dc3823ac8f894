"""Metadata columns that our tables or HDF5 cannot take are kept under another name, said before the work begins."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from subcell_hf.cells.sources import CroppedFields
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import ReadingOptions
from subcell_hf.images.tables import read_boxes
from subcell_hf.images.tables import read_table as read_rows
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.tables.aggregation import aggregate
from subcell_hf.tables.files import EmbeddingTable, read_table, write_h5ad
from subcell_hf.tables.h5ad import stored_names
from subcell_hf.workflows.embed import embed
from tests.inference.embedding_runs import save_tiny_model, write_fields

OURS = [
    *("model", "embedding", "probabilities", "probabilities_green", "top_location_1", "top_probability_2", "label"),
    *("cell_id", "file", "index", "shard", "part", "offset", "crc32", "height", "qc_x", "qc_focus", "cell_count"),
    "pixel_size_from",
]
THEIRS = [
    *("split", "channels", "n_cells", "name", "Model", "antibody", "problem", "__key__", "X", "obs_names", "level_0"),
    *("Conc (µg/ml)", ".", "_index", "a.b", "x" * 5000),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def _fields(folder: Path, columns: dict[str, list[str]], *, index: bool = False) -> Path:
    write_fields(folder, 2)
    names = sorted({path.name.rpartition("_")[0] for path in folder.glob("*_blue.*")})
    frame = pd.DataFrame({"field_of_view": names, **columns})
    frame.to_csv(folder / "metadata.csv", index=index)
    return folder


def _embed(source: Path, model: Path, output: Path, *options: str) -> Result:
    command = ["embed", str(source), "--model", str(model), "--output", str(output), "--fields-of-view", "--no-report"]
    command += ["--precision", "fp32", "--pixel-size-um", "0.08", *options]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def _kept(cells: pd.DataFrame, name: str) -> list[str]:
    return list(cells.drop_duplicates("field_of_view").sort_values("field_of_view")[name])


def test_columns_named_as_ours_are_kept_and_named(tmp_path: Path, model: Path) -> None:
    source = _fields(tmp_path / "images", {name: ["mine1", "mine2"] for name in (*OURS, *THEIRS)})
    result = _embed(source, model, tmp_path / "out")
    assert result.exit_code == 0, result.output
    table = read_table(tmp_path / "out")
    for name in OURS:
        assert _kept(table.cells, f"metadata_{name}") == ["mine1", "mine2"], name
        assert f"metadata_{name} ({name!r})" in result.output
    for name in THEIRS:
        assert _kept(table.cells, name) == ["mine1", "mine2"], name
    assert "Conc (µg_ml) ('Conc (µg/ml)')" in result.output
    data = anndata.read_h5ad(tmp_path / "out" / "embeddings.h5ad")
    assert list(data.obs_names) == list(table.cells["cell_id"])
    assert {"Conc (µg_ml)", "metadata_model", "Model", "split"} <= set(data.obs.columns)
    again = read_table(tmp_path / "out" / "embeddings.h5ad")
    assert set(again.cells.columns) == set(table.cells.columns)
    for name in ("Conc (µg/ml)", ".", "_index"):
        assert _kept(again.cells, name) == ["mine1", "mine2"]


def test_crops_and_shards_keep_them_too(tmp_path: Path, model: Path) -> None:
    source = _fields(
        tmp_path / "images", {name: ["mine1", "mine2"] for name in (*OURS, "split")} | {"antibody": ["a", "b"]}
    )
    run = CliRunner()
    made = run.invoke(app, ["crops", str(source), "--output", str(tmp_path / "crops"), "--pixel-size-um", "0.08"])
    assert made.exit_code == 0, made.output
    assert "metadata_file ('file')" in made.output
    rows = pd.DataFrame([field.metadata for field in CroppedFields(tmp_path / "crops").fields()])
    assert _kept(rows, "metadata_index") == ["mine1", "mine2"]
    made = run.invoke(app, ["shards", str(tmp_path / "crops"), "--output", str(tmp_path / "shards")])
    assert made.exit_code == 0, made.output
    lists = []
    for split, antibody in (("train", "a"), ("test", "b")):
        (tmp_path / f"{split}.txt").write_text(f"\ufeff{antibody}\n", encoding="utf-8")
        lists += ["--list", f"{split}={tmp_path / f'{split}.txt'}"]
    made = run.invoke(app, ["splits", str(tmp_path / "shards"), *lists])
    assert made.exit_code == 0, made.output
    command = [
        "embed",
        str(tmp_path / "shards"),
        "--model",
        str(model),
        "--output",
        str(tmp_path / "out"),
        "--no-report",
    ]
    made = run.invoke(app, command)
    assert made.exit_code == 0, made.output
    assert "metadata_split ('split')" in made.output
    cells = read_table(tmp_path / "out").cells
    assert _kept(cells, "split") == ["train", "test"]
    for name in ("metadata_split", "metadata_model", "metadata_shard", "metadata_embedding"):
        assert _kept(cells, name) == ["mine1", "mine2"]


def test_the_function_warns_of_them(tmp_path: Path, model: Path) -> None:
    source = _fields(tmp_path / "images", {"model": ["mine1", "mine2"]})
    options = SourceOptions(ReadingOptions(pixel_size_um=0.08), single_cells=False)
    with pytest.warns(UserWarning, match=r"stored as metadata_model \('model'\)"):
        table = embed(source, model, options=options, progress=False)
    assert _kept(table.cells, "metadata_model") == ["mine1", "mine2"]


def test_the_row_numbers_of_pandas_are_no_column(tmp_path: Path, model: Path) -> None:
    source = _fields(tmp_path / "images", {"gene": ["NA", "None"], "plate": ["0012", "1.0"]}, index=True)
    result = _embed(source, model, tmp_path / "out")
    assert result.exit_code == 0, result.output
    cells = read_table(tmp_path / "out").cells
    assert (_kept(cells, "gene"), _kept(cells, "plate")) == (["NA", "None"], ["0012", "1.0"])
    assert not [name for name in cells.columns if not name or "Unnamed" in name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("field_of_view,gene,gene\np_A0_1,a,b\n", "column 'gene' more than once"),
        ("field_of_view,,gene\np_A0_1,a,b\n", "no name for column 2"),
    ],
)
def test_names_that_say_nothing_are_refused_before_the_work(
    tmp_path: Path, model: Path, text: str, message: str
) -> None:
    source = _fields(tmp_path / "images", {})
    (source / "metadata.csv").write_text(text)
    result = _embed(source, model, tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out" / "embeddings.parquet").exists()


def test_a_pass_with_a_slash(tmp_path: Path) -> None:
    cells = pd.DataFrame({"cell_id": ["a", "b"], "field_of_view": "f", "MUC_1": ["x", "y"], "MUC/1": ["p", "q"]})
    each = {name: np.full((2, 3), value, np.float32) for name, value in (("green", 0.5), ("MUC-1/EMA", 0.25))}
    mean = np.full((2, 3), 0.375, np.float32)
    table = EmbeddingTable(cells, np.ones((2, 4), np.float32), mean, ("A", "B", "C"), each)
    write_h5ad(table, tmp_path / "t.h5ad")
    assert set(anndata.read_h5ad(tmp_path / "t.h5ad").obsm) == {
        *("probabilities", "probabilities_green", "probabilities_MUC-1_EMA")
    }
    again = read_table(tmp_path / "t.h5ad")
    np.testing.assert_array_equal(again.pass_probabilities["MUC-1/EMA"], each["MUC-1/EMA"])
    assert (list(again.cells["MUC/1"]), list(again.cells["MUC_1"])) == (["p", "q"], ["x", "y"])
    assert stored_names(["a", "b"]) == {}


def test_a_table_can_be_aggregated_twice() -> None:
    cells = pd.DataFrame({"cell_id": list("abcd"), "field_of_view": list("ffgg"), "gene": "G"})
    table = EmbeddingTable(cells, np.eye(4, dtype=np.float32))
    fields = aggregate(table, "field").table
    assert list(fields.cells["cell_count"]) == [2, 2]
    assert list(aggregate(fields, "gene").table.cells["cell_count"]) == [2]


def test_names_that_blocks_of_numbers_have(tmp_path: Path) -> None:
    text = (
        "cell_id,gene,plate,embedding,probabilities_x,Conc/uM,feat0,feat1\na,G,1.0,mine,2,3,0.5,1\nb,G,1,mine,2,3,1,2\n"
    )
    (tmp_path / "t.csv").write_text(text)
    table = read_table(tmp_path / "t.csv")
    assert list(table.cells["metadata_embedding"]) == ["mine", "mine"]
    assert list(table.cells["metadata_probabilities_x"]) == ["2", "2"]
    for ending in ("h5ad", "parquet"):
        output = tmp_path / f"o.{ending}"
        command = ["aggregate", str(tmp_path / "t.csv"), "--by", "gene", "--output", str(output)]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert ("Conc_uM ('Conc/uM')" in result.output) == (ending == "h5ad")
        again = read_table(output)
        assert list(again.cells["Conc/uM"]) == ["3"]
        np.testing.assert_array_equal(again.embeddings, [[0.75, 1.5]])
    with pytest.raises(InputError, match="the metadata column 'embedding', a reserved name"):
        write_h5ad(EmbeddingTable(table.cells.assign(embedding="x"), table.embeddings), tmp_path / "x.h5ad")


def test_comments_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("#field_of_view,gene\nf,A\n# left out, since, it, was, blurred\ng\n")
    assert read_rows(tmp_path / "t.csv") == [{"field_of_view": "f", "gene": "A"}, {"field_of_view": "g", "gene": ""}]


def test_boxes_written_as_floats(tmp_path: Path) -> None:
    text = "\ufefffield_of_view;cell_id;top;left;height;width\nf;3.0;12.0;-4.0;50.0;60\n"
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-16")
    box = read_boxes(tmp_path / "boxes.csv")["f"][0]
    assert (box.label, box.top, box.left, box.height, box.width) == (3, 12, -4, 50, 60)
