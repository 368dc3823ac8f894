"""Checkpoints, model folders, recipes and other settings."""

import shutil
from pathlib import Path

import torch

from subcell_hf.augmentation.presets import load_settings
from subcell_hf.hub.cards.card_facts import gather_facts
from subcell_hf.hub.cards.evaluation_results import read_results
from subcell_hf.hub.publishing.export import load_model, load_processor
from subcell_hf.inference.engine.embedding import Processes
from subcell_hf.inference.models.loading import CellEncoder, find_models
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import build_config
from subcell_hf.weights.conversion import convert
from subcell_hf.weights.untrained import save_untrained
from tests.fuzz.runner import Kind
from tests.hub.tiny_models import FACTS, save_tiny, write_results
from tests.inference.embedding_runs import run, save_tiny_model, write_fields
from tests.model.published import draw_published_weights

YAML = "model_config: {vit_model: {image_size: [16, 16], num_attention_heads: 4, layer_norm_eps: 1.0e-12}}\n"


def write_checkpoint(*, legacy: bool = False, lightning: bool = False) -> object:
    """A published encoder with a classifier and its yaml."""

    def write(folder: Path) -> None:
        generator = torch.Generator().manual_seed(5)
        encoder, classifiers = draw_published_weights(
            generator, channels=2, width=32, layers=1, heads_of_pool=1, patch=8, grid=(2, 2), members=1
        )
        content = {"state_dict": encoder, "epoch": 3, "lr_schedulers": []} if lightning else encoder
        torch.save(content, folder / "encoder.pth", _use_new_zipfile_serialization=not legacy)
        torch.save(classifiers[0], folder / "classifier.pth", _use_new_zipfile_serialization=not legacy)
        (folder / "config.yaml").write_text(YAML)

    return write


def convert_checkpoint(folder: Path) -> None:
    """As `subcell convert`; what it accepts must be finite."""
    made = convert(folder / "encoder.pth", folder / "out", "bg", [folder / "classifier.pth"], folder / "config.yaml")
    weights = load_model(made).state_dict()
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise AssertionError("weights that are not finite were accepted")


def write_model(kind: str, sharded: bool = False) -> object:
    """A model's folder."""

    def write(folder: Path) -> None:
        save_tiny(kind, folder / "model")
        if sharded:
            SubCellModel.from_pretrained(folder / "model").save_pretrained(folder / "sharded", max_shard_size="20KB")
            shutil.copy(folder / "model" / "preprocessor_config.json", folder / "sharded")
            shutil.rmtree(folder / "model")
            (folder / "sharded").rename(folder / "model")

    return write


def read_model(folder: Path) -> None:
    """As export, embed and untrained load it."""
    model = load_model(folder / "model")
    load_processor(folder / "model", model.config)


def embed_model(folder: Path) -> None:
    """As `subcell embed` loads it."""
    (found,) = find_models(str(folder / "model"))
    CellEncoder(found, torch.device("cpu"), "fp32")


def untrained_model(folder: Path) -> None:
    """As `subcell untrained` reads it."""
    save_untrained(str(folder / "model"), folder / "out")


def write_recipe(folder: Path) -> None:
    """A recipe and its views."""
    root = Path(__file__).parents[2]
    shutil.copy(root / "recipes" / "configs" / "mae.yaml", folder / "recipe.yaml")
    shutil.copy(root / "subcell_hf" / "augmentation" / "presets" / "multi_task.yaml", folder / "views.yaml")


def read_recipe(folder: Path) -> None:
    """As training reads it."""
    build_config(parse_arguments([str(folder / "recipe.yaml")]))


def read_views(folder: Path) -> None:
    """As training and `subcell views` read settings of views."""
    load_settings(str(folder / "views.yaml"))


def write_card(folder: Path) -> None:
    """Facts and results for a card."""
    (folder / "facts.yaml").write_text(FACTS)
    write_results(folder / "results")


def read_card(folder: Path) -> None:
    """As `subcell export` reads them."""
    config = SubCellConfig(image_size=32)
    gather_facts(config, "lab/model", facts=folder / "facts.yaml", results=read_results(folder / "results"))


def write_run(folder: Path) -> None:
    """Half of a run of `subcell embed`; its model and fields lie beside it, where nothing is damaged."""
    model, fields = save_tiny_model(folder.parent / "model"), write_fields(folder.parent / "fields", 2)
    run(fields, model, folder.parent / "whole", h5ad=False)
    run(fields, model, folder / "out", processes=Processes(1, 2, 0), h5ad=False)


def resume_run(folder: Path) -> None:
    """As `subcell embed` resumes: what is damaged is made again or refused, and the end is that of a whole run."""
    inputs = folder.parents[1] / "sound" / "resumed"
    if run(inputs / "fields", inputs / "model", folder / "out", h5ad=False).complete:
        found, expected = (place / "embeddings.parquet" for place in (folder / "out", inputs / "whole"))
        if found.read_bytes() != expected.read_bytes():
            raise AssertionError("a resumed run differs from one that was not stopped")


MODEL_KINDS = [
    Kind(
        "checkpoint",
        {
            "zip": write_checkpoint(),
            "legacy": write_checkpoint(legacy=True),
            "training": write_checkpoint(lightning=True),
        },
        convert_checkpoint,
        14,
    ),
    Kind(
        "model",
        {
            "encoder": write_model("SubCellModel"),
            "classifier": write_model("SubCellForImageClassification"),
            "sharded": write_model("SubCellModel", sharded=True),
        },
        read_model,
        10,
    ),
    Kind("embed", {"classifier": write_model("SubCellForImageClassification")}, embed_model, 8),
    Kind("untrained", {"encoder": write_model("SubCellModel")}, untrained_model, 5),
    Kind("recipe", {"recipe": write_recipe}, read_recipe, 6, spared=frozenset({"views.yaml"})),
    Kind("views", {"views": write_recipe}, read_views, 5, spared=frozenset({"recipe.yaml"})),
    Kind("card", {"facts": write_card}, read_card, 4),
    Kind("resumed", {"half": write_run}, resume_run, 2, refusals=(IsADirectoryError,)),
]
