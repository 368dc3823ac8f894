"""What a cell of a table says is the same in every format: text stays text, and only an empty cell is missing."""

import bz2
import datetime
import decimal
import gzip
import lzma
import math
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.labels import add_metadata
from subcell_hf.evaluation.perturbation.benchmark import add_mechanisms, find_controls
from subcell_hf.evaluation.perturbation.table import read_profiles
from subcell_hf.evaluation.proteome_map.enrichment import read_background, read_corum, read_gmt, read_hpa_locations
from subcell_hf.evaluation.proteome_map.field_means import average_fields
from subcell_hf.storage.foreign_tables import foreign_table_of, read_foreign_table
from subcell_hf.storage.plain_files import read_json, read_lines
from subcell_hf.tables.files import read_table, table_of_frame

WORDS = ["None", "NA", "N/A", "nan", "NaN", "null", "NULL", "<NA>", "#N/A", "-nan", "none", "0012", "12", "1E05", " x "]


def _frame() -> pd.DataFrame:
    frame = pd.DataFrame({f"feat{n:04d}": np.linspace(0.1, 7, len(WORDS)) ** n for n in range(3)})
    numbers = [float(n) for n in range(len(WORDS))]
    return frame.assign(
        cell_id=[f"c{n}" for n in range(len(WORDS))],
        antibody=WORDS,
        donor=range(len(WORDS)),
        batch=numbers,
        passage=[math.nan, *numbers[1:]],
        huge=pd.array([None, *[2**60 + 1] * (len(WORDS) - 1)], dtype="Int64"),
        treated=[n % 2 == 0 for n in range(len(WORDS))],
        kind=pd.Categorical(["a", None, "b"] * 5),
        day=[datetime.date(2024, 1, 2)] * len(WORDS),
        taken=pd.to_datetime(["2024-01-02", "2024-01-03", None] * 5),
        dose=[decimal.Decimal("1.50"), decimal.Decimal(2), None] * 5,
        weak=np.array([0.1, 2, 1e-5] * 5, np.float32),
        nothing=[None] * len(WORDS),
    )


def _write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".h5ad":
        features = [name for name in frame.columns if name.startswith("feat")]
        obs = frame.drop(columns=[*features, "cell_id", "huge", "day", "taken", "dose", "nothing"])
        obs["antibody"] = obs["antibody"].astype(object)
        obs["kind"] = pd.Categorical(frame["kind"].astype(object), categories=pd.Index(["a", "b"], dtype=object))
        obs.index = pd.Index(frame["cell_id"].astype(object), name=None)
        obs.columns = obs.columns.astype(object)
        variables = pd.DataFrame(index=pd.Index(features, dtype=object))
        anndata.AnnData(frame[features].to_numpy(np.float32), obs, variables).write_h5ad(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def test_every_format_says_the_same(tmp_path: Path) -> None:
    frame = _frame()
    tables = {ending: read_table(_write(frame, tmp_path / f"t.{ending}")) for ending in ("csv", "tsv", "parquet")}
    tables["frame"] = table_of_frame(frame, "memory")
    cells = tables["csv"].cells
    assert list(cells["antibody"]) == [word.strip() for word in WORDS]
    assert list(cells["donor"])[:3] == ["0", "1", "2"]
    assert list(cells["batch"])[:3] == ["0", "1", "2"]
    assert list(cells["passage"])[:3] == ["", "1", "2"]
    assert list(cells["huge"])[:2] == ["", "1152921504606846977"]
    assert list(cells["treated"])[:2] == ["True", "False"]
    assert list(cells["kind"])[:3] == ["a", "", "b"]
    assert list(cells["taken"])[:3] == ["2024-01-02", "2024-01-03", ""]
    assert list(cells["dose"])[:3] == ["1.50", "2", ""]
    assert list(cells["weak"])[:3] == ["0.1", "2", "1e-05"]
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table.cells, cells, obj=name, check_dtype=False)
        np.testing.assert_allclose(table.embeddings, tables["csv"].embeddings, rtol=1e-6)
    found = read_table(_write(frame, tmp_path / "t.h5ad")).cells
    for name in ("antibody", "donor", "batch", "passage", "treated", "kind", "weak"):
        assert list(found[name]) == list(cells[name]), name


def test_names_are_no_features(tmp_path: Path) -> None:
    """Without a pattern of features, numbers that name what a cell belongs to stay outside of the embedding."""
    text = "cell_id,antibody,plate,Well,code,treated,f0,f1\nx,007,0012,1E05,01,True,1,2\ny,7,12,1E06,02,False,3,NA\n"
    (tmp_path / "t.csv").write_text(text.replace("NA", "4"))
    table = read_table(tmp_path / "t.csv")
    np.testing.assert_array_equal(table.embeddings, [[1, 2], [3, 4]])
    assert list(table.cells["antibody"]) == ["007", "7"]
    assert list(table.cells["plate"]) == ["0012", "12"]
    assert list(table.cells["Well"]) == ["1E05", "1E06"]
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match="row 1 is NaN"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("strain,f0\n1,0.5\n2,0.7\n")
    np.testing.assert_allclose(read_profiles([tmp_path / "t.csv"], ["strain"]).features, [[0.5], [0.7]])


def _profiles(path: Path, plates: list[object], groups: list[object]) -> Path:
    frame = pd.DataFrame({"Metadata_Plate": plates, "Metadata_t": groups, "f0": np.arange(len(plates)) / 7})
    return _write(frame, path)


def test_equal_plates_match_across_formats(tmp_path: Path) -> None:
    csv = _profiles(tmp_path / "a.csv", [1, 2], ["NA", "0"])
    floats = _profiles(tmp_path / "b.parquet", [1.0, 2.0, None], [0.0, 1.0, None])
    text = _profiles(tmp_path / "c.csv", ["1.0", "0012"], ["None", "12"])
    table = read_profiles([csv, floats, text])
    assert list(table.column("Metadata_Plate")) == ["1", "2", "1", "2", None, "1", "0012"]
    assert list(table.column("Metadata_t")) == ["NA", "0", "0", "1", None, "None", "12"]
    assert find_controls(table, [("Metadata_t", "0")]).tolist() == [False, True, True, False, False, False, False]
    assert find_controls(table, [("Metadata_t", "0.0")]).sum() == 2
    np.testing.assert_array_equal(table.features[:2], read_profiles([csv]).features)


def test_unnamed_row_numbers_are_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"Metadata_Plate": ["a", "b"], "f0": [0.5, 0.25]}, index=[5, 9])
    frame.to_csv(tmp_path / "i.csv")
    pd.read_csv(tmp_path / "i.csv").to_csv(tmp_path / "ii.csv")
    frame.to_parquet(tmp_path / "i.parquet")
    for name in ("i.csv", "ii.csv", "i.parquet"):
        assert read_profiles([tmp_path / name]).names == ("f0",)
    cells = pd.DataFrame({"feat0000": [0.5, 0.25]}, index=["p", "q"])
    cells.to_csv(tmp_path / "c.csv")
    cells.to_parquet(tmp_path / "c.parquet")
    cells.rename_axis("cell_id").to_parquet(tmp_path / "n.parquet")
    for name in ("c.csv", "c.parquet", "n.parquet"):
        assert list(read_table(tmp_path / name).cells["cell_id"]) == ["p", "q"]


def test_lists_of_numbers_are_the_embedding(tmp_path: Path) -> None:
    columns = {"cell_id": ["a", "b"], "area": [1.5, 2.5], "embedding": [[1.0, 2.0], [3.0, 4.0]]}
    pq.write_table(pa.table({**columns, "locations": [["Cytosol", "Nucleoli"], []]}), tmp_path / "l.parquet")
    table = read_table(tmp_path / "l.parquet")
    np.testing.assert_array_equal(table.embeddings, [[1, 2], [3, 4]])
    assert list(table.cells["locations"]) == ["Cytosol;Nucleoli", ""]
    pq.write_table(pa.table({**columns, "vector": [[1.0], [2.0]]}), tmp_path / "two.parquet")
    with pytest.raises(InputError, match="lists of numbers in embedding, vector"):
        read_table(tmp_path / "two.parquet")
    pq.write_table(pa.table({**columns, "embedding": [[1.0, 2.0], [3.0]]}), tmp_path / "ragged.parquet")
    with pytest.raises(InputError, match="lists of 2 lengths"):
        read_table(tmp_path / "ragged.parquet")


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, lambda data: pa.compress(data, codec="zstd", asbytes=True), bytes],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_is_unambiguous_is_read(tmp_path: Path, pack: Callable[[bytes], bytes], encoding: str) -> None:
    for text in (
        "a,b\nµ,0012\n",
        "a;b\r\nµ;0012\r\n",
        "a\tb\rµ\t0012\r",
        'sep=;\n"a";"b"\n"µ";"0012"',
        "a,b,\nµ,0012,\n,,\n",
    ):
        (tmp_path / "t.csv").write_bytes(pack(text.encode(encoding)))
        table = read_foreign_table(tmp_path / "t.csv")
        assert {name: table.text(name) for name in table.columns} == {"a": ["µ"], "b": ["0012"]}


def test_decimal_commas_where_nothing_else_fits(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("Metadata_Plate;f0;f1\n1;0,5;1\n2;-1,25e-1;2\n")
    np.testing.assert_array_equal(read_profiles([tmp_path / "t.csv"]).features, [[0.5, 1], [-0.125, 2]])
    for body in ("1;1,500;2", "1;1.5;2,5", "1;1.234,5;2"):  # thousands or not; two kinds; both at once
        (tmp_path / "t.csv").write_text(f"Metadata_Plate;f0;f1\n{body}\n")
        with pytest.raises(InputError, match="Write decimal points"):
            read_profiles([tmp_path / "t.csv"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\nµ,2\n".encode("cp1252"), r"not UTF-8 \(byte 0xb5 in line 2\)\. Save it again as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "NUL in line 1"),
        (gzip.compress(b"a,b\n1,2\n" * 99)[:-9], "cannot be unpacked: Compressed file ended.*copy it again"),
        (bz2.compress(b"a,b\n1,2\n" * 99)[:-9], "cannot be unpacked"),
        (lzma.compress(b"a,b\n1,2\n" * 99)[:-9], "cannot be unpacked"),
        (b"PK\x03\x04 no zip", "cannot be unpacked"),
        (b"", "is empty"),
        (b"a,a\n1,2\n", "column 'a' more than once"),
        (b"a,b\n1,2,3\n", "row of 3 cells under 2 columns"),
        (b"a,b\n1,2\n3", "ends in the middle of a row"),
        (b'a,b\n"1,2\n3,4\n', "odd number of quotes"),
        (b"a,,b\n1,2,3\n", "no name for column 2"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"(?s)t\.csv .*{message}") as raised:
        read_foreign_table(tmp_path / "t.csv")
    assert "\n" not in str(raised.value)


def test_a_mark_at_the_beginning_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("\ufeffG0\nG1\n", encoding="utf-8")
    assert read_background(tmp_path / "genes.txt") == {"G0", "G1"}
    assert read_lines(tmp_path / "genes.txt") == ["G0", "G1"]
    (tmp_path / "corum.csv").write_text("\ufeffcomplex;gene_names\n1;G0\n1;NA\n", encoding="utf-8")
    assert read_corum(tmp_path / "corum.csv", ["G0"]).sets == {"complex 1": frozenset({"G0", "NA"})}
    header = "\ufeffGene\tGene name\tMain location\tAdditional location\n"
    (tmp_path / "hpa.tsv").write_text(header + "E1\tG0\tCytosol;Nucleoli\t\n", encoding="utf-16")
    assert set(read_hpa_locations(tmp_path / "hpa.tsv", ["G0"]).sets) == {"Cytosol", "Nucleoli"}
    (tmp_path / "sets.gmt").write_text("\ufeffone\t\tG0\tG1\n", encoding="utf-8")
    assert read_gmt(tmp_path / "sets.gmt").sets == {"one": frozenset({"G0", "G1"})}
    (tmp_path / "run.json").write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json(tmp_path / "run.json") == {"a": 1}
    (tmp_path / "run.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"run\.json is damaged or not JSON"):
        read_json(tmp_path / "run.json")


def test_mechanisms_may_be_called_none(tmp_path: Path) -> None:
    profiles = read_profiles([_profiles(tmp_path / "p.parquet", ["1"] * 4, ["NA", "0012", "12", "3"])])
    (tmp_path / "moa.csv").write_text("Metadata_t;moa\nNA;None\n0012;a\n12;b\n3.0;c\n", encoding="utf-16")
    found = add_mechanisms(profiles, tmp_path / "moa.csv", "Metadata_t", "moa")
    assert list(found.column("moa")) == ["None", "a", "b", "c"]


def test_metadata_join_as_text(tmp_path: Path) -> None:
    cells = pd.DataFrame({"cell_id": ["1", "2"], "antibody": ["", ""]})
    for name in ("m.csv", "m.parquet"):
        _write(pd.DataFrame({"cell_id": [2.0, 1.0], "antibody": ["NA", "007"]}), tmp_path / name)
        assert list(add_metadata(cells, tmp_path / name)["antibody"]) == ["007", "NA"]


def test_where_finds_whole_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"gene": ["NA", "None", "G"], "donor": [3.0, None, 3.0], "feat0": [0.1, 0.2, 0.3]})
    for name in ("w.csv", "w.parquet"):
        means = average_fields(_write(frame, tmp_path / name), where={"donor": "3"})
        assert list(means.fields["gene"]) == ["NA", "G"]


def test_mixed_values_in_memory() -> None:
    table = foreign_table_of({"m": pd.Series([1, "a", 2.0, None, True], dtype=object)}, "memory")
    assert table.text("m") == ["1", "a", "2", "", "True"]
    with pytest.raises(InputError, match="expected texts or single numbers"):
        foreign_table_of({"m": pa.array([{"x": 1}])}, "memory").text("m")
