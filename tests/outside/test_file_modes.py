"""What a command leaves behind has the modes that the umask allows, whichever library has written it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from subcell_hf.hub.demo.space import stage_space
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.training.localization.localization import LabelledEmbeddings, LocalizationSettings, train_ensemble
from subcell_hf.training.localization.localization_folder import save_classifier
from subcell_hf.weights.conversion import convert
from subcell_hf.weights.untrained import save_untrained
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.hub.tiny_models import save_tiny, write_facts
from tests.inference.embedding_runs import run, save_tiny_model, write_fields
from tests.model.published import draw_published_weights
from tests.training.test_trainer import ShardSettings, build


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=lambda mask: f"umask {mask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check_modes(folder: Path, umask: int) -> None:
    """Every file has 0666 and every folder 0777, less the umask."""
    paths = [folder, *folder.rglob("*")]
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths}
    wrong = {path.name: oct(path.stat().st_mode) for path in paths if path.stat().st_mode & 0o777 != expected[path]}
    assert len(paths) > 1
    assert not wrong


def test_folders_of_models(tmp_path: Path, umask: int) -> None:
    model = save_tiny("SubCellModel", tmp_path / "model")
    ensemble = train_ensemble(
        LabelledEmbeddings(np.random.default_rng(0).random((8, 64), np.float32), np.eye(8, 2, dtype=np.float32)),
        LabelledEmbeddings(np.random.default_rng(1).random((8, 64), np.float32), np.eye(8, 2, dtype=np.float32)),
        settings := LocalizationSettings(hidden_sizes=(4,), cells_per_batch=4, max_epochs=1, seeds=(1,)),
        progress=False,
    )
    made = (
        save_untrained(str(model), tmp_path / "untrained"),
        export_model(model, tmp_path / "hub", sources=ExportSources(facts=write_facts(tmp_path))),
        stage_space(model, tmp_path / "space", repository="subcell/tiny"),
        save_classifier(ensemble, model, tmp_path / "classifier", ("Nucleoli", "Cytosol"), settings),
    )
    for folder in made:
        check_modes(folder, umask)


def test_a_converted_model(tmp_path: Path, umask: int) -> None:
    weights, _ = draw_published_weights(
        torch.Generator().manual_seed(0), channels=4, width=64, layers=1, heads_of_pool=2, patch=16, grid=(2, 2)
    )
    torch.save(weights, tmp_path / "encoder.pth")
    check_modes(convert(tmp_path / "encoder.pth", tmp_path / "converted", "rybg"), umask)


def test_an_embedding_run(tmp_path: Path, umask: int) -> None:
    run(write_fields(tmp_path / "fields", 1), save_tiny_model(tmp_path / "model"), tmp_path / "out", pictures=1)
    check_modes(tmp_path / "out", umask)


@pytest.mark.parametrize("umask", [0o027], indirect=True)
def test_checkpoints_and_the_final_model(tmp_path: Path, umask: int) -> None:
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=4, size_px=32)
    write_synthetic(tmp_path / "shards", source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))
    words = ("--max_steps", "1", "--save_steps", "1", "--warmup_epochs", "0")
    trainer = build(tmp_path / "shards", tmp_path / "run", *words)
    trainer.train()
    trainer.save_final_model()
    for folder in (tmp_path / "shards", tmp_path / "run" / "checkpoint-1", tmp_path / "run" / "model"):
        check_modes(folder, umask)
