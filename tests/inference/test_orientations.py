"""Means over the orientations of a cell: what a loop over turned cells gives, in every way to embed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import subcell_hf
from subcell_hf.errors import InputError
from subcell_hf.hub.cards.encoder_card import make_encoder_card
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.runs import fingerprint_of
from subcell_hf.inference.models.loading import CellEncoder, find_models
from subcell_hf.inference.sources.recognition import open_source
from subcell_hf.tables.attention_maps import ATTENTION_FILE, iterate_attention
from subcell_hf.tables.embedding_table import SCHEMA_VERSION, EmbeddingTable
from subcell_hf.tables.files import read_table
from subcell_hf.tables.run_record import read_run
from subcell_hf.tables.search.exact import directions_of, mean_direction
from subcell_hf.tables.search.stored_cells import open_cells
from subcell_hf.workflows import EmbedInput, embed_with_encoders
from subcell_hf.workflows.answers.image_query import embed_image
from subcell_hf.workflows.evaluation.baseline_computation import BaselineComputation
from subcell_hf.workflows.evaluation.table_origin import TableOrigin
from tests.inference.embedding_runs import random_crops, run, save_tiny_model, write_fields

PLAIN: dict[str, Any] = {"precision": "fp32", "device": "cpu", "progress": False}
MASKED = """
import torch
from subcell_hf.inference import Encoder


def encode(images, masks, channels):
    inside = images * masks[:, None]
    return torch.cat([inside[:, :, :9, 3:].mean((2, 3)), inside[:, :, 20:, :4].amax((2, 3))], dim=1)


def build():
    colours = ("red", "yellow", "blue", "green")
    return Encoder("masked", encode, channels=colours, pixel_size_um=0.32, input_px=32, scaling="intensity",
                   mask_cells=False, takes_masks=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, an encoder that takes masks, fields of view, and their table of 8 orientations."""
    folder = tmp_path_factory.mktemp("home")
    save_tiny_model(folder / "model")
    (folder / "masked.py").write_text(MASKED)
    write_fields(folder / "images", 2)
    subcell_hf.embed(folder / "images", folder / "model", output=folder / "run8", orientations=8, h5ad=False, **PLAIN)
    return folder


def turn(cells: np.ndarray, orientations: int) -> np.ndarray:
    """Cells `[cells, …, height, width]` in 4 orientations, or in 8: `[orientations · cells, …]`."""
    turned = [np.rot90(cells, number, (-2, -1)) for number in range(4)]
    return np.concatenate([*turned, *(np.swapaxes(one, -2, -1) for one in turned)][:orientations])


def average(table: EmbeddingTable, orientations: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Embeddings and probabilities of turned cells, averaged."""
    given = table.embeddings, table.probabilities
    embeddings, probabilities = (
        None if values is None else values.reshape(orientations, -1, values.shape[1]).mean(0, dtype=np.float64)
        for values in given
    )
    assert embeddings is not None
    return embeddings, probabilities


@pytest.mark.parametrize("orientations", [4, 8])
def test_means_are_those_of_turned_cells(home: Path, orientations: int) -> None:
    crops, model = random_crops(3), home / "model"
    embeddings, probabilities = average(subcell_hf.embed(turn(crops, orientations), model, **PLAIN), orientations)
    options = {**PLAIN, "orientations": orientations, "batch_size": 2}
    found = subcell_hf.embed(crops, model, **options)
    np.testing.assert_allclose(found.embeddings, embeddings, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-6)
    assert found.embeddings.dtype == found.probabilities.dtype == np.float32  # type: ignore[union-attr]
    assert found.provenance["orientations"] == orientations

    seen = subcell_hf.embed(turn(crops, 8), model, **options)
    same = seen.embeddings.reshape(8, 3, -1) - found.embeddings
    assert np.abs(same[:orientations]).max() < 1e-6
    assert orientations == 8 or np.abs(same[orientations:]).max() > 1e-3


def test_means_in_half_precision_are_means_of_it(home: Path) -> None:
    crops, options = random_crops(3), {**PLAIN, "precision": "bf16", "batch_size": 3}  # equal batches round alike
    embeddings, probabilities = average(subcell_hf.embed(turn(crops, 4), home / "model", **options), 4)
    found = subcell_hf.embed(crops, home / "model", orientations=4, **options)
    np.testing.assert_allclose(found.embeddings, embeddings, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-6)
    exact = subcell_hf.embed(crops, home / "model", orientations=4, **PLAIN)
    assert 0 < np.abs(found.embeddings - exact.embeddings).max() < 0.05


def test_one_orientation_is_what_it_was(home: Path, tmp_path: Path) -> None:
    """Tables of one orientation do not record it, and runs of earlier versions keep their fingerprint."""
    found = subcell_hf.embed(random_crops(2), home / "model", output=tmp_path / "run", h5ad=False, **PLAIN)
    turned = subcell_hf.embed(turn(random_crops(2), 4)[2:4], home / "model", **PLAIN)
    assert np.abs(found.embeddings - turned.embeddings).max() > 1e-3
    assert "orientations" not in found.provenance
    assert "orientations" not in read_run(tmp_path / "run")
    source, models, _ = open_source(home / "images", find_models(str(home / "model")))
    facts = [source.fingerprint(), [models[0].checksum], "fp32", 2000, SCHEMA_VERSION]
    known = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    assert fingerprint_of(source, models, EmbedSettings(), "fp32", None) == known
    assert fingerprint_of(source, models, EmbedSettings(orientations=4), "fp32", None) != known


def test_attention_is_that_of_the_cell_as_it_is(home: Path, tmp_path: Path) -> None:
    maps = {}
    for orientations in (1, 8):
        options = {**PLAIN, "orientations": orientations, "attention_maps": True, "h5ad": False}
        subcell_hf.embed(random_crops(2), home / "model", output=tmp_path / str(orientations), **options)
        file = tmp_path / str(orientations) / ATTENTION_FILE
        maps[orientations] = [cell.attention for cell in iterate_attention(file)]
    np.testing.assert_array_equal(maps[1], maps[8])


def test_masks_are_turned_with_their_cells(home: Path) -> None:
    crops, encoder = random_crops(3), f"{home / 'masked.py'}:build"
    masks = np.random.default_rng(1).random((3, 32, 32)) < 0.6
    turned = subcell_hf.embed(turn(crops, 8), encoder, cell_masks=turn(masks, 8), **PLAIN)
    found = subcell_hf.embed(crops, encoder, cell_masks=masks, orientations=8, **PLAIN)
    np.testing.assert_allclose(found.embeddings, average(turned, 8)[0], atol=1e-6)
    assert np.ptp(turned.embeddings.reshape(8, 3, -1), axis=0).min() > 1e-3


def test_images_need_not_be_square(home: Path) -> None:
    crops, model = random_crops(2, size_px=48)[:, :, :32], home / "rectangle"
    save_tiny_model(model)
    settings = json.loads((model / "preprocessor_config.json").read_text())
    settings |= {"do_center_crop": False, "do_pad": False, "do_resize": False}
    (model / "preprocessor_config.json").write_text(json.dumps(settings))
    lying = subcell_hf.embed(np.concatenate([crops, np.rot90(crops, 2, (2, 3))]), model, **PLAIN)
    standing = [np.rot90(crops, number, (2, 3)) for number in (1, 3)]
    stood = subcell_hf.embed(np.concatenate(standing), model, **PLAIN)
    found = subcell_hf.embed(crops, model, orientations=4, **PLAIN)
    expected = (average(lying, 2)[0] + average(stood, 2)[0]) / 2
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)


def test_memory_that_runs_out_in_a_later_orientation_halves_the_batch(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, sizes, forward = random_crops(6), list[int](), CellEncoder.forward

    def forward_of_a_small_device(self: CellEncoder, pixel_values: torch.Tensor, channels: object) -> object:
        sizes.append(len(pixel_values))
        if sizes == [6, 6, 6]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, pixel_values, channels)

    plain = subcell_hf.embed(crops, home / "model", orientations=4, **PLAIN)
    monkeypatch.setattr(CellEncoder, "forward", forward_of_a_small_device)
    with pytest.warns(UserWarning, match="continuing with 3 images per batch"):
        small = subcell_hf.embed(crops, home / "model", orientations=4, batch_size=6, **PLAIN)
    assert sizes == [6] * 3 + [3] * 8
    np.testing.assert_allclose(small.embeddings, plain.embeddings, atol=1e-6)
    np.testing.assert_allclose(small.probabilities, plain.probabilities, atol=1e-6)


def test_a_run_is_resumed_with_its_orientations_only(home: Path, tmp_path: Path) -> None:
    images, model = home / "images", home / "model"
    with pytest.raises(InputError, match="orientations is 3, expected 1, 4 or 8"):
        run(images, model, tmp_path / "three", orientations=3)
    run(images, model, tmp_path / "one", h5ad=False)
    record = read_run(tmp_path / "one")
    del record["settings"]["orientations"]  # as earlier versions wrote it
    (tmp_path / "one" / "run.json").write_text(json.dumps(record))
    assert run(images, model, tmp_path / "one", h5ad=False).resumed_parts == 2
    with pytest.raises(InputError, match="orientations: 1 in that run, 4 now"):
        run(images, model, tmp_path / "one", orientations=4)
    assert run(images, model, home / "run8", orientations=8, h5ad=False).cells == 4
    with pytest.raises(InputError, match="orientations: 8 in that run, 1 now"):
        run(images, model, home / "run8")


def test_an_image_is_embedded_as_the_table_was(home: Path) -> None:
    cells = open_cells(home / "run8")
    found = embed_image(cells, home / "images")
    everywhere = mean_direction(cells, np.ones(cells.count, np.bool_))
    np.testing.assert_allclose(found.direction, everywhere, atol=1e-6)
    once = subcell_hf.embed(home / "images", home / "model", **PLAIN).embeddings
    lengths = np.linalg.norm(once, axis=1, keepdims=True)
    assert np.abs(found.direction - directions_of((once / lengths).sum(0, keepdims=True))).max() > 1e-4


def test_twins_of_a_model_embed_as_it_did(home: Path, tmp_path: Path) -> None:
    table = read_table(home / "run8")
    origin = TableOrigin.of_table(home / "run8", table.provenance, None)
    computation = BaselineComputation.open(origin, table.cells, tmp_path / "kept", measured=False, workers=0)
    computation.embed_untrained(tmp_path / "untrained", {})
    assert read_run(tmp_path / "untrained")["orientations"] == 8


def test_several_encoders_average_alike(home: Path, tmp_path: Path) -> None:
    given, names = EmbedInput(str(home / "images")), [f"model={home / 'model'}", f"masked={home / 'masked.py'}:build"]
    embed_with_encoders(given, names, tmp_path, EmbedSettings(orientations=8, h5ad=False, **PLAIN), report=False)
    np.testing.assert_array_equal(read_table(tmp_path / "model").embeddings, read_table(home / "run8").embeddings)
    assert read_run(tmp_path / "masked")["orientations"] == 8
    card = make_encoder_card(read_run(tmp_path / "masked"), 8)
    assert "| orientations | means over 8 of each cell |\n| checksum |" in card
    assert " --orientations 8 --output embeddings" in card
    assert "orientations" not in make_encoder_card({**read_run(tmp_path / "masked"), "orientations": 1}, 8)
