"""Tiny models and tiny inputs for tests that embed."""

from pathlib import Path

import numpy as np
import torch

from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.embedding import EmbedReport, Processes, embed_cells
from subcell_hf.inference.models.loading import find_models
from subcell_hf.inference.sources.recognition import open_source
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from tests.images.written_fields import write_hpa_field

ALONE = Processes()


def save_tiny_model(
    folder: Path, channels: tuple[str, ...] = ("red", "yellow", "blue", "green"), seed: int = 0
) -> Path:
    """A random classifier that sees 32 px at 0.32 um, with an attention map of 4 x 4."""
    config = SubCellConfig(
        channels=channels, image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, pooling_hidden_size=8, classifier_hidden_sizes=[8], classifier_ensemble_size=2,
        num_labels=4, id2label=dict(enumerate(("Nucleoplasm", "Cytosol", "Nucleoli", "Negative"))),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = SubCellForImageClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    SubCellImageProcessor(channels=channels, size=32, pixel_size_um=0.32).save_pretrained(folder)
    return folder


def write_fields(folder: Path, count: int = 3, colours: tuple[str, ...] = ("red", "yellow", "blue", "green")) -> Path:
    """Fields of 64 x 72 px with two cells each."""
    for number in range(count):
        write_hpa_field(folder, f"7_A{number}_1", colours=colours)
    return folder


def run(
    source: Path | str,
    model: Path | str,
    output: Path,
    options: SourceOptions | None = None,
    processes: Processes = ALONE,
    proteins: tuple[str, ...] = (),
    models: Path | None = None,
    **settings: object,
) -> EmbedReport:
    """Embed in this process, in fp32 unless said otherwise."""
    found = find_models(
        str(model),
        models=str(models) if models else None,
        proteins=proteins,
        crop_px=options.crop_px if options else None,
    )
    cells, found, _ = open_source(source, found, options)
    chosen = EmbedSettings(**{"precision": "fp32", "progress": False, "device": "cpu", **settings})  # type: ignore[arg-type]
    return embed_cells(cells, found, output, chosen, processes=processes)


def random_crops(count: int, seed: int = 0, size_px: int = 32, channels: int = 4) -> np.ndarray:
    """`[count, channels, size_px, size_px]` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size_px, size_px), np.uint8)
