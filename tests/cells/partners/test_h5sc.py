"""scPortrait's single cells: embedded as the same crops in memory are."""

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

import subcell_hf
from subcell_hf.cells.partners.h5sc import H5scCrops
from subcell_hf.cells.sources import crop_source
from subcell_hf.errors import InputError
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.shards.cell_table import read_cell_records
from subcell_hf.shards.reader import ShardReader
from subcell_hf.workflows.shards import shard_images
from tests.inference.embedding_runs import save_tiny_model

NAMES = ("nucleus", "cytosol", "DNA", "Microtubules", "ER", "Protein")
MAPPING = {"DNA": "blue", "Microtubules": "red", "ER": "yellow", "Protein": "green"}


def write_h5sc(
    path: Path, cells: int = 70, names: tuple[str, ...] = NAMES, masks: int = 2, **columns: list[str]
) -> np.ndarray:
    """A file as scPortrait 1.3 writes it; its images."""
    images = np.random.default_rng(0).random((cells, len(names), 32, 32)).astype(np.float16)
    images[:, :masks] = images[:, :masks] > 0.3
    obs = pd.DataFrame({"scportrait_cell_id": np.arange(cells, dtype=np.uint64) + 100, "well": ["A1"] * cells})
    obs = obs.assign(**{name: np.array(values, object) for name, values in columns.items()})
    obs.index = pd.Index([str(n) for n in range(cells)], dtype=object)
    kinds = ["mask"] * masks + ["image_channel"] * (len(names) - masks)
    with h5py.File(path, "w") as file:
        anndata.io.write_elem(file, "obs", obs.astype(dict.fromkeys(["well", *columns], object)))
        file.create_dataset("obsm/single_cell_images", data=images, chunks=(1, 1, 32, 32), compression="gzip")
        about = {"channel_names": np.array(names, object), "channel_mapping": np.array(kinds, object)}
        anndata.io.write_elem(file, "uns", {"single_cell_images": about})
    return images


def test_cells_are_embedded_as_the_same_crops_in_memory(tmp_path: Path) -> None:
    images = write_h5sc(tmp_path / "cells.h5sc")
    model = save_tiny_model(tmp_path / "model")
    options = SourceOptions(ReadingOptions(pixel_size_um=0.32, channel_mapping=MAPPING))
    settings = {"precision": "fp32", "device": "cpu", "progress": False}
    table = subcell_hf.embed(tmp_path / "cells.h5sc", model, options=options, **settings)
    expected = subcell_hf.embed(
        images[:, 2:].astype(np.float32), model, channels=("blue", "red", "yellow", "green"), pixel_size_um=0.32,
        cell_masks=images[:, 1] > 0, **settings,
    )  # fmt: skip
    assert list(table.cells["cell_id"]) == [str(n) for n in range(100, 170)]
    assert set(table.cells["well"]) == {"A1"}
    np.testing.assert_array_equal(table.embeddings, expected.embeddings)


def test_shards_hold_the_cells_of_every_antibody(tmp_path: Path) -> None:
    antibodies = ["HPA000001"] * 3 + ["HPA000002"] * 9 + ["HPA000001"]
    images = write_h5sc(tmp_path / "cells.h5sc", 13, antibody=antibodies)
    reading = ReadingOptions(pixel_size_um=0.1, channel_mapping=MAPPING)
    options = {"reading": reading, "split_by": "none", "progress": False}
    report = shard_images(tmp_path / "cells.h5sc", tmp_path / "shards", **options)
    assert (report.index.antibodies, report.skipped) == (("HPA000001", "HPA000002"), ())
    records = read_cell_records(str(tmp_path / "shards")).to_pylist()
    pixels, masks = ShardReader(tmp_path / "shards").read(np.arange(len(antibodies)))
    assert sorted(record["cell_id"] for record in records) == [str(100 + row) for row in range(len(antibodies))]
    for record, cell, mask in zip(records, pixels, masks, strict=True):
        row = int(record["cell_id"]) - 100
        assert record["antibody"] == antibodies[row]
        np.testing.assert_array_equal(cell, images[row, 2:].astype(np.float32))
        np.testing.assert_array_equal(mask, images[row, 1] > 0)
    write_h5sc(tmp_path / "none.h5sc", 3)
    with pytest.raises(InputError, match=r"\.h5sc file, a column antibody in its obs"):
        shard_images(tmp_path / "none.h5sc", tmp_path / "other", **options)


def test_a_real_file(real_data: Callable[[str], Path]) -> None:
    path = real_data("vendor/scportrait_h5sc/single_cells.h5sc")
    source = H5scCrops(path, 0.08, MAPPING)
    (listed,) = source.fields()
    crops = source.read(listed.name)
    with h5py.File(path) as file:
        images = file["obsm/single_cell_images"][:]
    assert crops.channels == ("blue", "red", "yellow", "green")
    np.testing.assert_array_equal(crops.pixels, images[:, 1:])
    np.testing.assert_array_equal(crops.cell_masks, images[:, 0] > 0)
    assert [cell["cell_id"] for cell in crops.cells] == ["7", "11", "12"]
    assert crops.cells[0]["source_file"] == "56_F11_1_0.npy"


def test_what_is_not_known_is_asked_for(tmp_path: Path) -> None:
    write_h5sc(tmp_path / "cells.h5sc", 3)
    with pytest.raises(InputError, match="--pixel-size-um"):
        crop_source(tmp_path / "cells.h5sc")
    write_h5sc(tmp_path / "two.h5sc", 3, ("mask_1", "mask_2", "DNA", "Protein"))
    source = H5scCrops(tmp_path / "two.h5sc", 0.1)
    with pytest.raises(InputError, match="the masks mask_1, mask_2, expected one of cells"):
        source.read(source.fields()[0].name)
    (tmp_path / "cut.h5sc").write_bytes((tmp_path / "cells.h5sc").read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be read as scPortrait's single cells"):
        H5scCrops(tmp_path / "cut.h5sc", 0.1).fields()
