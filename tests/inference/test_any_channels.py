"""A model with separate channel tokens embeds whatever channels its cells have, by name."""

from pathlib import Path

import numpy as np
import pytest
import torch

import subcell_hf
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import ReadingOptions
from subcell_hf.inference.sources.recognition import SourceOptions
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.storage.model_folders import check_model, read_processor
from subcell_hf.tables.files import read_table
from tests.hub.tiny_models import save_tiny
from tests.inference.embedding_runs import run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("SubCellModel", tmp_path_factory.mktemp("models") / "any", channel_tokens="separate")


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (3, 4, 64, 64), np.uint8)


def _expected(model: Path, crops: np.ndarray, names: list[str]) -> np.ndarray:
    inputs = SubCellImageProcessor.from_pretrained(model)(crops, channels=names)
    with torch.inference_mode():
        return SubCellModel.from_pretrained(model).eval()(**inputs).pooler_output.numpy()


@pytest.mark.parametrize("names", [["blue", "green"], ["green", "other", "red"], ["blue"], ["protein"]])
def test_arrays_of_any_subset_in_any_order(model: Path, crops: np.ndarray, names: list[str]) -> None:
    given = crops[:, : len(names)]
    table = subcell_hf.embed(given, model, channels=names, precision="fp32", progress=False)
    np.testing.assert_allclose(table.embeddings, _expected(model, given, names), atol=1e-6)
    assert set(table.cells["model_channels"].iloc[0].split(";")) == set(names)
    back = subcell_hf.embed(given[:, ::-1], model, channels=names[::-1], precision="fp32", progress=False)
    np.testing.assert_allclose(back.embeddings, table.embeddings, atol=1e-6)


def test_proteins_take_their_place_in_turn(model: Path, crops: np.ndarray) -> None:
    table = subcell_hf.embed(
        crops, model, channels=["a", "blue", "b", "red"], protein_channels=["a", "b"], precision="fp32", progress=False
    )
    for number, plane in enumerate((0, 2)):
        expected = _expected(model, crops[:, [1, 3, plane]], ["blue", "red", "green"])
        np.testing.assert_allclose(table.embeddings[:, 64 * number : 64 * (number + 1)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blue", "actin", "green", "red"], "not on actin"),
        (["blue", "blue", "green", "red"], "without repetition"),
        (["blue", *(f"other_{number}" for number in range(8))], "at most 8"),
    ],
)
def test_names_that_mean_nothing_are_refused(model: Path, crops: np.ndarray, names: list[str], message: str) -> None:
    planes = np.concatenate([crops] * 3, axis=1)[:, : len(names)]
    with pytest.raises(InputError, match=message):
        subcell_hf.embed(planes, model, channels=names, progress=False)


def test_files_with_a_stain_never_seen(model: Path, crops: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    for number, crop in enumerate(crops[:, :3]):
        np.save(tmp_path / "cells" / f"cell{number}.npy", crop)
    names = ("DAPI", "green", "actin")
    reading = ReadingOptions(channel_names=names, channel_mapping={"DAPI": "blue", "actin": "other"})
    options = SourceOptions(reading=reading, single_cells=True)
    assert run(tmp_path / "cells", model, tmp_path / "out", options).skipped == ()
    table = read_table(tmp_path / "out")
    assert set(table.cells["model_channels"]) == {"blue;other;green"}
    expected = _expected(model, crops[:, :3], ["blue", "green", "other"])
    np.testing.assert_allclose(table.embeddings, expected, atol=1e-6)


def test_a_processor_of_the_other_mode_is_refused(model: Path, tmp_path: Path) -> None:
    SubCellImageProcessor(size=64).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="channel_tokens"):
        read_processor(tmp_path, check_model(model))
