"""The classifiers' recipe: all members at once are each what it would be alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.model.objectives_subcell import sigmoid_focal_loss
from subcell_hf.tables.files import EmbeddingTable, write_parquet
from subcell_hf.training.localization.average_precision import average_precision
from subcell_hf.training.localization.localization import LabelledEmbeddings, LocalizationSettings, train_ensemble
from subcell_hf.training.localization.localization_arguments import parse_localization
from subcell_hf.training.localization.localization_folder import location_targets
from subcell_hf.workflows.train_localization import main, train_localization

SMALL = LocalizationSettings(
    hidden_sizes=(16, 8), cells_per_batch=32, max_epochs=12, seeds=(3, 5, 8), learning_rate=1e-2, patience_epochs=6
)


def labelled(cells: int, seed: int, width: int = 12, classes: int = 5) -> LabelledEmbeddings:
    """Cells whose classes can be learnt from their embeddings."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((width, classes))
    embeddings = generator.standard_normal((cells, width)).astype(np.float32)
    scores = embeddings @ directions + generator.standard_normal((cells, classes))
    return LabelledEmbeddings(embeddings, (scores > 2).astype(np.float32))


def test_members_end_as_they_would_alone() -> None:
    train, validation = labelled(150, 0), labelled(90, 1)
    together = train_ensemble(train, validation, SMALL, progress=False)
    assert len({len(history) for history in together.history}) > 1 or min(map(len, together.history)) == 12
    for member, seed in enumerate(SMALL.seeds):
        alone = train_ensemble(train, validation, replace(SMALL, seeds=(seed,)), progress=False)
        assert alone.best_epochs[0] == together.best_epochs[member]
        np.testing.assert_allclose(alone.history[0], together.history[member], atol=1e-6)
        for (weight, bias), (own_weight, own_bias) in zip(together.layers, alone.layers, strict=True):
            torch.testing.assert_close(weight[member], own_weight[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(bias[member], own_bias[0], atol=1e-5, rtol=1e-4)
    assert not torch.equal(together.layers[0][0][0], together.layers[0][0][1])


def test_it_trains_as_torch_would() -> None:
    """Without dropout: torch's AdamW on an nn.Sequential, batch for batch."""
    settings = replace(SMALL, dropout=0.0, seeds=(3,), max_epochs=3, plateau_epochs=99)
    train, validation = labelled(150, 0), labelled(90, 1)
    ours = train_ensemble(train, validation, settings, progress=False)
    generator = torch.Generator().manual_seed(3)
    mlp = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5))
    for layer in mlp[::2]:
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=generator)
    optimizer = torch.optim.AdamW(mlp.parameters(), lr=1e-2, weight_decay=0.01)
    history, kept = [], []
    for _ in range(3):
        for cells in torch.randperm(150, generator=generator).split(32):
            logits = mlp(torch.from_numpy(train.embeddings)[cells])
            loss = sigmoid_focal_loss(logits, torch.from_numpy(train.targets)[cells])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            scores = mlp(torch.from_numpy(validation.embeddings)).numpy()
        history.append(average_precision_score(validation.targets, scores, average="macro"))
        kept.append(mlp[0].weight.detach().clone())
    np.testing.assert_allclose(ours.history[0], history, atol=1e-5)
    torch.testing.assert_close(ours.layers[0][0][0], kept[ours.best_epochs[0]], atol=1e-5, rtol=1e-4)


def test_rates_halve_and_members_stop() -> None:
    noise = labelled(64, 0)
    noise = LabelledEmbeddings(noise.embeddings, noise.targets[::-1].copy())
    settings = replace(SMALL, max_epochs=60, patience_epochs=5, learning_rate=1e-1)
    ended = train_ensemble(noise, labelled(64, 5), settings, progress=False)
    for history, best in zip(ended.history, ended.best_epochs, strict=True):
        assert int(np.argmax(history)) == best
        assert len(history) == min(best + 6, 60)


def test_average_precision_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 12, (200, 6)) / 12  # many equal scores
    targets = (generator.random((200, 6)) < 0.2).astype(np.float64)
    expected = [average_precision_score(targets[:, c], scores[:, c]) for c in range(6)]
    np.testing.assert_allclose(average_precision(torch.from_numpy(scores), torch.from_numpy(targets)), expected)


def test_what_cannot_be_learnt_is_refused() -> None:
    train = labelled(20, 0)
    nothing = LabelledEmbeddings(train.embeddings, np.zeros_like(train.targets))
    with pytest.raises(InputError, match="No class has both"):
        train_ensemble(train, nothing, SMALL, progress=False)
    with pytest.raises(InputError, match="width 3"):
        train_ensemble(train, labelled(20, 1, width=3), SMALL, progress=False)
    with pytest.raises(InputError, match="Unknown location 'Atlantis'"):
        location_targets(["Cytosol;Atlantis"], ("Cytosol",))
    np.testing.assert_array_equal(location_targets(["Cytosol; Nucleoli", ""], ("Cytosol",)), [[1], [0]])


def test_the_recipe_writes_a_model_that_transformers_loads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    config = SubCellConfig(
        channels=("blue", "green"), image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, pooling_hidden_size=4, location_sets={"threshold": 0.1},
        novelty={"antibodies": 60},
    )  # fmt: skip
    encoder = SubCellModel(config)
    encoder.save_pretrained(tmp_path / "encoder")
    SubCellImageProcessor(channels=("blue", "green"), size=16).save_pretrained(tmp_path / "encoder")
    generator = np.random.default_rng(0)
    names = np.array(["Nucleoplasm", "Cytosol", "Nucleoli;Cytosol"])[generator.integers(0, 3, 90)]
    frame = pd.DataFrame({"cell_id": [str(n) for n in range(90)], "field_of_view": "f", "locations": names})
    frame["split"] = np.resize(["train", "train", "validation"], 90)
    frame.loc[:3, "locations"] = ["", " ", ";", ""]
    frame.loc[4, "split"] = "holdout"
    embeddings = generator.standard_normal((90, 16)).astype(np.float32)
    write_parquet(EmbeddingTable(frame, embeddings), tmp_path / "table.parquet")
    paths = {"table": "table.parquet", "encoder": "encoder", "output": "located"}
    arguments = [text for name, file in paths.items() for text in (f"--{name}", str(tmp_path / file))]
    small = ["--max_epochs", "2", "--seeds", "1", "2", "--hidden_sizes", "6"]
    with caplog.at_level("INFO", "subcell_hf"):
        main([*arguments, "--device", "cpu", *small])
    said = caplog.text
    assert "2 members" in said
    assert "Cells without a location, left out: 4 of 90." in said
    assert "Not used: 1 cell in holdout." in said
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "located").eval()
    assert (model.config.classifier_ensemble_size, model.config.num_labels) == (2, 31)
    assert not {"location_sets", "novelty"} & model.config.to_dict().keys()  # those of another classifier
    processor = AutoImageProcessor.from_pretrained(tmp_path / "located")
    pixel_values = processor(generator.integers(0, 255, (1, 2, 16, 16), np.uint8))["pixel_values"]
    torch.testing.assert_close(model(pixel_values).pooler_output, encoder.eval()(pixel_values).pooler_output)

    keywords = {name: tmp_path / file for name, file in paths.items()} | {"output": tmp_path / "again"}
    result = train_localization(**keywords, device="cpu", max_epochs=2, seeds=(1, 2), hidden_sizes=[6])
    assert (result.model, len(result.classes), len(result.macro_map)) == (tmp_path / "again", 31, 2)
    assert result.unlabelled_cells == 4
    assert result.cells == {"holdout": 1, "train": 56, "validation": 29}
    written, again = (tmp_path / name / "model.safetensors" for name in ("located", "again"))
    assert again.read_bytes() == written.read_bytes()

    capsys.readouterr()
    with pytest.raises(InputError, match="is not an empty folder"):
        train_localization(**keywords, device="cpu")
    write_parquet(EmbeddingTable(frame, embeddings, provenance={"orientations": 8}), tmp_path / "averaged.parquet")
    with pytest.raises(InputError, match="means over 8 orientations of each cell, and a classifier is given cells in"):
        train_localization(**keywords | {"table": tmp_path / "averaged.parquet", "output": tmp_path / "new"})
    write_parquet(EmbeddingTable(frame, embeddings[:, :8]), tmp_path / "narrow.parquet")
    with pytest.raises(InputError, match=r"The embeddings have 8 numbers, those of .* 16"):
        train_localization(
            table=tmp_path / "narrow.parquet", encoder=tmp_path / "encoder", output=tmp_path / "new", device="cpu"
        )
    assert "epochs" not in capsys.readouterr().err  # refused before the training, not after it


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "table is not set: give the embedding table with --table"),
        (["--table", "t", "--encoder", "e", "--output", "o", "--max_epoch", "2"], "did you mean max_epochs"),
        (["--table", "t", "--encoder", "e", "--output", "o", "--max_epochs", "0"], "max_epochs is 0"),
        (["--table", "t", "--encoder", "e", "--output", "o", "--classes", "all"], "classes is 'all': expected one of"),
        (["located"], "There is no recipe located: .*comes with the package: localization"),
    ],
)
def test_what_cannot_work_is_refused_by_name(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_localization(words)


def test_the_recipe_is_the_published_one() -> None:
    parsed = parse_localization(["localization", "--table", "t", "--encoder", "e", "--output", "o"])
    assert parsed.settings == LocalizationSettings()
    assert parse_localization(["--table", "t", "--encoder", "e", "--output", "o"]) == parsed
