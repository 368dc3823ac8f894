"""A trained ensemble beside its encoder, as a folder that transformers loads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.locations_subcell import CALIBRATED
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.ontology import training_locations
from subcell_hf.shards.splits import split_antibodies
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.model_folders import load_weights, read_processor
from subcell_hf.storage.plain_files import read_json
from subcell_hf.training.localization.localization import LocalizationSettings, TrainedEnsemble
from subcell_hf.training.runs.training_record import TRAINING_RECORD_FILE, add_classifier


def location_targets(locations: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Multi-hot targets.

    Args:
        locations: One text per cell, names joined by `;`.
        classes: Names of the classes; known locations that are not among them are left out.

    Returns:
        `[cells, classes]` float32.

    Raises:
        InputError: If a name is neither a class nor a location of the Human Protein Atlas.
    """
    known = {name: number for number, name in enumerate(classes)}
    ignored = set(training_locations()) - known.keys()
    rows: dict[str, npt.NDArray[np.float32]] = {}
    for text in dict.fromkeys(locations):
        row = np.zeros(len(known), np.float32)
        for name in filter(None, (part.strip() for part in text.split(";"))):
            if name in known:
                row[known[name]] = 1
            elif name not in ignored:
                raise InputError(f"Unknown location {name!r} in the table; expected one of {', '.join(classes)}.")
        rows[text] = row
    return np.stack([rows[text] for text in locations])


def split_cells(
    antibodies: Sequence[str], genes: Sequence[str], locations: Sequence[str], *, by: str, seed: int
) -> npt.NDArray[np.str_]:
    """Split cells by antibody or gene where a table has no column `split`: 70 % train, 10 % validation, 20 % test.

    Args:
        antibodies: [cells].
        genes: [cells].
        locations: [cells], joined by `;`.
        by: `"antibody"` or `"gene"`: what stays in one split.
        seed: Seed of the choice.

    Returns:
        `[cells]`, the split's name.

    Raises:
        InputError: If a cell has no antibody, or the antibodies are too few.
    """
    if not all(antibodies):
        raise InputError("Some cells have no antibody: give a table with a column `split`, or with antibodies.")
    gene_of = dict(zip(antibodies, genes, strict=True))
    locations_of: dict[str, set[str]] = {name: set() for name in gene_of}
    for antibody, text in set(zip(antibodies, locations, strict=True)):
        locations_of[antibody] |= {part.strip() for part in text.split(";")} - {""}
    fractions = {"train": 0.7, "validation": 0.1, "test": 0.2}
    splits = split_antibodies(gene_of, locations_of, by=by, fractions=fractions, seed=seed)
    split_of = {name: split for split, names in splits.items() for name in names}
    return np.array([split_of[antibody] for antibody in antibodies])


def check_classifier_folder(output: Path, encoder: Path, config: SubCellConfig, width: int) -> None:
    """Refuse a folder or an encoder with which `save_classifier` cannot work.

    Args:
        output: Folder to write.
        encoder: Folder of the model that made the embeddings.
        config: Its configuration.
        width: Numbers of an embedding.

    Raises:
        InputError: If the folder is in use, or the encoder's embeddings have another width.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder: choose another output.")
    if config.embedding_size != width:
        raise InputError(
            f"The embeddings have {width} numbers, those of {encoder} {config.embedding_size}. Give the encoder "
            "that made the table."
        )


def save_classifier(
    ensemble: TrainedEnsemble,
    encoder: Path,
    output: Path,
    classes: Sequence[str],
    settings: LocalizationSettings,
    extra: Mapping[str, Any] | None = None,
    *,
    problem_type: str = "multi_label_classification",
) -> Path:
    """Write encoder and ensemble as `SubCellForImageClassification`, with the encoder's image processor.

    Args:
        ensemble: The trained members.
        encoder: Folder of the model that made the embeddings.
        output: Folder to write; must not exist, or be empty. It appears whole or not at all.
        classes: Names of the classes, in order.
        settings: The recipe.
        extra: Files to write beside, name → content as text.
        problem_type: `"multi_label_classification"` (sigmoid), or `"single_label_classification"` (softmax).

    Raises:
        InputError: If the folder is in use, or the encoder's embeddings have another width.
    """
    base = load_weights(SubCellModel, encoder)
    check_classifier_folder(output, encoder, base.config, ensemble.layers[0][0].shape[-1])
    processor = read_processor(encoder, base.config)
    config = SubCellConfig.from_dict(
        {
            # What was calibrated was another classifier.
            **{name: value for name, value in base.config.to_dict().items() if name not in CALIBRATED},
            "classifier_hidden_sizes": list(settings.hidden_sizes),
            "classifier_dropout": settings.dropout,
            "classifier_ensemble_size": len(ensemble.seeds),
            "problem_type": problem_type,
            "id2label": dict(enumerate(classes)),
            "label2id": {name: number for number, name in enumerate(classes)},
        }
    )
    model = SubCellForImageClassification(config)
    model.subcell.load_state_dict(base.state_dict())
    pairs = {f"layers.{number}": pair for number, pair in enumerate(ensemble.layers)}
    model.classifier.load_state_dict(
        {
            f"{name}.{kind}": values
            for name, pair in pairs.items()
            for kind, values in zip(("weight", "bias"), pair, strict=True)
        }
    )
    with write_folder_atomically(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if (encoder / TRAINING_RECORD_FILE).is_file():
            record = add_classifier(read_json(encoder / TRAINING_RECORD_FILE), settings)
            extra = {TRAINING_RECORD_FILE: json.dumps(record, indent=1, ensure_ascii=False) + "\n", **(extra or {})}
        for name, text in (extra or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
    return output
