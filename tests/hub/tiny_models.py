"""Tiny models of each kind, saved as a run or the converter saves them."""

import json
from pathlib import Path

import torch

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining

TINY = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 64,
    "pooling_hidden_size": 16, "classifier_hidden_sizes": [8], "classifier_ensemble_size": 2, "pixel_size_um": 0.8,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24, "projection_hidden_sizes": [8], "projection_size": 8,
}  # fmt: skip
KINDS = {kind.__name__: kind for kind in (SubCellModel, SubCellForImageClassification, SubCellForPreTraining)}
FACTS = """\
training_data: {source: numbers out of a generator}
recipe: not trained
hyperparameters: {seed: 0}
"""


def save_tiny(kind: str, folder: Path, **changes: object) -> Path:
    """Save an untrained model and its processor."""
    torch.manual_seed(0)
    model = KINDS[kind](SubCellConfig(**TINY | changes)).eval()
    model.save_pretrained(folder)
    config = model.config
    made = (config.channels, config.image_size, config.pixel_size_um)
    SubCellImageProcessor(*made, channel_tokens=config.channel_tokens).save_pretrained(folder)
    return folder


def write_facts(folder: Path) -> Path:
    """A YAML file with what a card must say of an untrained model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.yaml").write_text(FACTS)
    return folder / "facts.yaml"


def write_results(folder: Path) -> Path:
    """An evaluation with an interval."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {
        "dataset": "Simulated cells", "dataset_type": "simulated", "split": "test", "metric": "macro_map",
        "metric_name": "Macro mAP", "value": 0.5, "low": 0.4, "high": 0.6, "level": 0.95,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps({"results": [result]}))
    return folder
