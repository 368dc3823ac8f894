"""The classifier of an annotation beside its encoder, as a repository that transformers and the Hub load."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.annotation.annotation_session import AnnotationSession, EncoderIdentity, TrainedState
from subcell_hf.hub.cards.card_facts import ANNOTATION_FILE
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.inference.models.loading import ModelFolder, find_models
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from subcell_hf.storage.model_folders import load_weights
from subcell_hf.storage.plain_files import read_json
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.run_record import read_run, refuse_averaged
from subcell_hf.training.localization.localization import LocalizationSettings, TrainedEnsemble
from subcell_hf.training.localization.localization_folder import save_classifier
from subcell_hf.training.runs.training_record import TRAINING_RECORD_FILE

_FORMAT = "subcell-annotation"
_SINGLE_LABEL = "single_label_classification"


def save_annotation_classifier(session: AnnotationSession, source: Path, output: Path, encoder: str | None) -> Path:
    """Write encoder and classifier as a repository with its model card.

    Args:
        session: With labels of at least two classes.
        source: The table, or the folder of its run, whose `run.json` says where the encoder is.
        output: Folder to write: new, empty, or an earlier classifier, which is replaced.
        encoder: Folder, Hub id or name of the encoder; None: as the run recorded it.

    Returns:
        The folder.

    Raises:
        InputError: If there is no classifier yet, the table does not record its encoder, or the encoder found is
            another one, the message names both; or embeddings are means over orientations.
    """
    state = session.state
    if state.classifier is None:
        raise InputError("Fewer than two classes have labels, so there is no classifier. Label cells of two classes.")
    refuse_averaged(session.table.provenance, source, "and an exported classifier is given cells in one orientation")
    model = find_encoder(session.encoder, source, encoder)
    weight, bias = (torch.from_numpy(values)[None] for values in state.classifier.linear_layer(session.components))
    settings = LocalizationSettings(hidden_sizes=(), dropout=0.0, seeds=(session.settings.seed,))
    about = {
        "format": _FORMAT,
        "version": 1,
        "encoder": asdict(_published_identity(session.encoder)),
        "classes": list(state.classifier.classes),
        "labels": _label_counts(session, state),
        "estimate": None if state.estimate is None else asdict(state.estimate),
        "training_record": _training_record(session, state, model),
    }
    with tempfile.TemporaryDirectory(prefix="subcell-annotation-") as folder:
        staged = save_classifier(
            TrainedEnsemble([(weight, bias)], settings.seeds),
            model.folder,
            Path(folder) / "model",
            state.classifier.classes,
            settings,
            {ANNOTATION_FILE: json.dumps(about, indent=1, ensure_ascii=False) + "\n"},
            problem_type=_SINGLE_LABEL,
        )
        return export_model(staged, output)


def find_encoder(identity: EncoderIdentity, source: Path, encoder: str | None = None) -> ModelFolder:
    """The encoder of a table, with its checksum compared.

    Args:
        identity: As the table records it.
        source: The table, or the folder of its run.
        encoder: Folder, Hub id or name; None: as the run recorded it.

    Raises:
        InputError: If it is not recorded, not found, or another one.
    """
    if not identity.is_known:
        raise InputError(f"{source} does not record its encoder, expected a table of `subcell embed`.")
    run = read_run(source if source.is_dir() else source.parent)
    recorded = [str(model.get("folder", "")) for model in run.get("models", ()) if isinstance(model, Mapping)]
    given = encoder or (recorded[0] if len(recorded) == 1 and Path(recorded[0]).is_dir() else identity.name)
    revision = None if Path(given).is_dir() else identity.revision or None
    (model, *others) = find_models(given, revision=revision)
    found = EncoderIdentity(model.name, model.revision or "", model.checksum)
    same = (
        found.weights_sha256 == identity.weights_sha256
        if identity.weights_sha256
        else (found.name, found.revision) == (identity.name, identity.revision)
    )
    if others or not same:
        raise InputError(
            f"The encoder {given} is {found}, and the embeddings are of {identity}. A classifier needs the encoder "
            "that it was trained on: give that one (--encoder)."
        )
    return model


def score_table(table: EmbeddingTable, classifier: Path | str) -> dict[str, Any]:
    """Classify the cells of a table with a classifier of an earlier annotation.

    Args:
        table: Of the same encoder.
        classifier: Folder that `subcell annotate` wrote.

    Returns:
        `classes`, names in order, and `probabilities`, `[cells, classes]` float32, rows sum to 1.

    Raises:
        InputError: If the folder is none, or was made for another encoder or revision; the message names both. Also if
            the embeddings of the table are means over orientations.
    """
    folder = Path(classifier)
    about = read_json(folder / ANNOTATION_FILE, "Give the folder classifier of an export of `subcell annotate`.")
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise InputError(f"{folder / ANNOTATION_FILE} is no record of an annotation. Export the classifier again.")
    refuse_averaged(table.provenance, "the table", f"and {folder} was trained on cells in one orientation")
    made_for, identity = EncoderIdentity(**about["encoder"]), EncoderIdentity.of_provenance(table.provenance)
    # The checksum identifies the weights wherever their folder lies now; a name does so only without it.
    unnamed = {"name": ""} if made_for.weights_sha256 else {}
    if replace(made_for, **unnamed) != replace(identity, **unnamed):
        raise InputError(
            f"The classifier {folder} was made for {made_for}, and the table is of {identity}. Embed the cells with "
            f"{made_for.name}, or annotate this table."
        )
    model = load_weights(SubCellForImageClassification, folder)
    with torch.inference_mode():
        logits = model.classifier(torch.from_numpy(table.embeddings))[:, 0]
    return {"classes": tuple(about["classes"]), "probabilities": logits.softmax(dim=1).numpy()}


def _published_identity(encoder: EncoderIdentity) -> EncoderIdentity:
    """Without the path of a folder, which says nothing elsewhere and may contain private names."""
    return encoder if encoder.revision else replace(encoder, name=Path(encoder.name).name)


def _label_counts(session: AnnotationSession, state: TrainedState) -> dict[str, Any]:
    inside = [name for cell, name in state.merged.labels.items() if cell in session.row_of]
    annotators = {by for own in state.merged.records.values() for by in own}
    return {
        "cells": len(inside),
        "classes": dict(sorted(Counter(inside).items())),
        "annotators": len(annotators),
        "cells_labelled_by_several": state.merged.compared,
        "disagreements_left_out": len(state.merged.disagreements),
    }


def _training_record(session: AnnotationSession, state: TrainedState, model: ModelFolder) -> dict[str, Any]:
    """What the card says: of the encoder what its own record says, of the classifier labels and estimate."""
    own: dict[str, Any] = {}
    if (model.folder / TRAINING_RECORD_FILE).is_file():
        own = read_json(model.folder / TRAINING_RECORD_FILE)
    labels = _label_counts(session, state)
    cells = labels.pop("cells")
    classes = ", ".join(f"{name} {count}" for name, count in labels.pop("classes").items())
    trained = f"multinomial logistic regression on the frozen embedding, trained on {counted(cells, 'labelled cell')}"
    encoder = _published_identity(session.encoder)
    before = f"{own['recipe']}; then" if "recipe" in own else f"Encoder {encoder} as it is;"
    estimate = state.estimate
    results = []
    if estimate is not None:
        shown = "shown at random" if estimate.chosen_at_random else "of all labels, which were not chosen at random"
        groups = "antibodies" if estimate.grouped_by == "antibody" else "fields"
        results.append(
            {
                "dataset": f"{estimate.cells} labelled cells {shown}, in {estimate.groups} {groups} that were held out",
                "dataset_type": "subcell-annotation",
                "split": "held out",
                "metric": "balanced_accuracy",
                "metric_name": "Balanced accuracy",
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "level": 0.95,
            }
        )
    return {
        "format": "subcell-training-record",
        "version": 1,
        "training_data": {**own.get("training_data", {}), "labelled_cells": f"{cells}: {classes}", **labels},
        "recipe": f"{before} {trained}",
        "hyperparameters": {
            **own.get("hyperparameters", {}),
            "inverse_penalty": session.settings.strength,
            "principal_components": int(session.components.axes.shape[1]),
            "class_weight": "balanced",
        },
        "results": results,
    }
