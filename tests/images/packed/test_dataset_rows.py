"""Datasets of Hugging Face, as `datasets` writes and streams them: ids, pixels and masks stay as they are."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from datasets import Array3D, Dataset, DatasetDict, Features, Image, Sequence, Value, load_dataset
from huggingface_hub import constants

import subcell_hf
from subcell_hf.errors import InputError
from subcell_hf.images import unpack_dataset
from subcell_hf.images.fields_of_view import FieldError, find_fields, list_fields
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.tables.cell_pictures import CellPicture
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.partners.dataset_folder import write_dataset
from tests.images.written_fields import COLOURS, label_mask, random_plane
from tests.inference.embedding_runs import save_tiny_model

IDS = ("plate 1_A1_1", "plate 1_B2_1", "ß.2")
Planes = list[dict[str, npt.NDArray[Any]]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def _picture(pixels: npt.NDArray[Any], tiff: bool = False) -> dict[str, Any]:
    return {"bytes": (imagecodecs.tiff_encode if tiff else imagecodecs.png_encode)(pixels), "path": None}


def _fields() -> tuple[Dataset, Planes]:
    """Fields of view: an image for each channel, one of them TIFF, with masks."""
    planes = [{name: random_plane(n * 9 + k, dtype="uint16") for k, name in enumerate(COLOURS)} for n in range(3)]
    rows: dict[str, list[Any]] = {
        f"{name}_image": [_picture(one[name], tiff=name == "red") for one in planes] for name in COLOURS
    }
    rows |= {"mask": [_picture(label_mask())] * 3, "field_of_view": list(IDS), "antibody": ["HPA1", "HPA2", None]}
    rows |= {"locations": [["Cytosol", "Nucleoli"], [], None], "embedding": [[1.0, 2.0]] * 3}
    features = Features({name: Image() for name in rows if name.endswith("_image") or name == "mask"})
    features |= {"field_of_view": Value("string"), "antibody": Value("string"), "embedding": Sequence(Value("float32"))}
    return Dataset.from_dict(rows, Features(features | {"locations": Sequence(Value("string"))})), planes


def _check(source: Path, planes: Planes) -> None:
    found = find_fields(source, ReadingOptions(pixel_size_um=0.1))
    assert [item.name for item in found] == sorted(IDS)
    for item in found:
        field, own = item.read(), planes[IDS.index(item.name)]
        assert field.pixels.dtype == np.uint16
        np.testing.assert_array_equal(field.pixels, [own[name] for name in field.channels])
        np.testing.assert_array_equal(field.label_mask, label_mask())
    assert found[0].metadata | {"antibody": "HPA1", "locations": "Cytosol;Nucleoli"} == found[0].metadata
    assert "embedding" not in found[0].metadata


def test_fields_of_parquet_files_saved_datasets_and_streams(tmp_path: Path) -> None:
    dataset, planes = _fields()
    (tmp_path / "repository/data").mkdir(parents=True)
    dataset.select([0]).to_parquet(tmp_path / "repository/data/train-00000-of-00002.parquet")
    dataset.select([1, 2]).to_parquet(tmp_path / "repository/data/train-00001-of-00002.parquet")
    dataset.to_parquet(tmp_path / "one.parquet")
    DatasetDict({"train": dataset.select([0, 1]), "test": dataset.select([2])}).save_to_disk(tmp_path / "saved")
    for name in ("repository", "one.parquet", "saved"):
        _check(tmp_path / name, planes)
    stream = load_dataset(str(tmp_path / "repository"), split="train", streaming=True)
    assert unpack_dataset(stream, tmp_path / "streamed") == 3
    _check(tmp_path / "streamed", planes)


def test_cells_in_arrays_are_embedded_as_the_same_crops_in_memory(tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 65_535, (5, 4, 40, 44), np.uint16)
    columns = {"crop": list(crops), "cell_id": [f"cell {n}" for n in range(5)], "field_of_view": ["A1"] * 5}
    kinds = {"crop": Array3D((4, 40, 44), "uint16"), "cell_id": Value("string"), "field_of_view": Value("string")}
    Dataset.from_dict(columns, Features(kinds)).save_to_disk(tmp_path / "cells")
    model = save_tiny_model(tmp_path / "model")
    reading = ReadingOptions(channel_names=COLOURS, pixel_size_um=0.32)
    settings = {"precision": "fp32", "device": "cpu", "progress": False}
    table = subcell_hf.embed(tmp_path / "cells", model, options=SourceOptions(reading, single_cells=True), **settings)
    expected = subcell_hf.embed(crops, model, channels=COLOURS, pixel_size_um=0.32, **settings)
    assert list(table.cells["cell_id"]) == columns["cell_id"]
    assert set(table.cells["source_field"]) == {"A1"}
    np.testing.assert_array_equal(table.embeddings, expected.embeddings)


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    def refused(match: str, kind: Any = None, **columns: list[Any]) -> None:
        features = Features({name: Image() if name != "cell_id" else Value("string") for name in columns})
        with pytest.raises(FieldError, match=match):
            unpack_dataset(Dataset.from_dict(columns, features), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    one = _picture(random_plane(0))
    refused("two rows called 'a', expected every cell_id once", blue=[one] * 2, cell_id=["a", "a"])
    refused("called '../a'.*cannot be the name of a file", blue=[one], cell_id=["../a"])
    refused("a channel has no underscore", blue=[one], my_green=[one])
    refused("columns of images none, but cell_id", cell_id=["a"])
    refused("blue of '000000' is only a path, gone.png", blue=[{"bytes": None, "path": "gone.png"}])
    refused("begins with b'GIF89a'", blue=[{"bytes": b"GIF89a", "path": None}])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    dataset, _ = _fields()
    dataset.save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    content = bytearray(file.read_bytes())
    start = content.index(IDS[0].encode())
    content[start - 64 : start] = b"\xff" * 64  # where texts begin: Arrow itself would end the process
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"data-00000-of-00001\.arrow cannot be read as Arrow"):
        list_fields(tmp_path / "saved")


def test_pictures_drawn_for_display_are_no_input(tmp_path: Path) -> None:
    cells = pd.DataFrame({"cell_id": ["a"], "field_of_view": ["f"]})
    picture = CellPicture("a", imagecodecs.png_encode(np.arange(4800, dtype=np.uint8).reshape(40, 40, 3)), b"", None)
    write_dataset([EmbeddingTable(cells, np.zeros((1, 2), np.float32))], iter([picture]), tmp_path / "table")
    (item,) = list_fields(tmp_path / "table", ReadingOptions(pixel_size_um=0.1)).fields
    with pytest.raises(FieldError, match="composite"):
        item.read()
