"""Cards learn from what each kind of run leaves beside its model, and from what evaluations found."""

import json
from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.hub.cards.card_facts import find_record, gather_facts
from subcell_hf.hub.cards.evaluation_results import read_results
from subcell_hf.hub.cards.model_card import CardModel, make_model_card
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.training.localization.localization import LocalizationSettings
from subcell_hf.training.runs.training_record import add_classifier

RESULT = {"dataset": "d", "dataset_type": "d", "metric": "m", "metric_name": "M", "value": 0.5}
RECORD = {
    "format": "subcell-training-record",
    "version": 1,
    "training_data": {"source": "simulated", "cells": 5},
    "recipe": "Pretraining with the objectives (weights) reconstruction 1",
    "hyperparameters": {"steps": 7},
    "hardware": {"device": "cpu", "processes": 1, "runtime_s": 60.0},
    "results": [RESULT],
}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_the_record_of_pretraining_and_of_its_classifiers(tmp_path: Path) -> None:
    path = write(tmp_path / "training_record.json", RECORD)
    assert find_record(tmp_path) == path
    facts = gather_facts(SubCellConfig(), "subcell/x", record=path)
    assert facts.training_data["cells"] == 5
    assert facts.results[0].value == 0.5
    assert facts.license == "mit"
    extended = add_classifier(RECORD, LocalizationSettings(hidden_sizes=(16, 8), seeds=(0, 1, 2)))
    facts = gather_facts(SubCellConfig(), "subcell/x", record=write(path, extended))
    assert facts.recipe.endswith("; then 3 MLPs (16, 8) on the frozen embedding, whose probabilities are averaged")
    assert facts.hyperparameters["classifier_members"] == 3
    assert facts.hyperparameters["classifier_learning_rate"] == 1e-3
    assert facts.hyperparameters["steps"] == 7
    assert not facts.results  # the probe's are those of another head


def test_emissions_are_those_of_all_stretches(tmp_path: Path) -> None:
    hardware = {"device": "cpu", "processes": 4, "runtime_s": 1000.0, "device_s": 3600.0}
    record = write(tmp_path / "training_record.json", RECORD | {"hardware": hardware})
    config = SubCellConfig(architectures=["SubCellModel"])
    processor = SubCellImageProcessor(config.channels, {"height": 64, "width": 64}, 0.16)
    card = make_model_card(CardModel(config, processor, 5), gather_facts(config, "subcell/x", record=record))
    assert card.data["co2_eq_emissions"]["emissions"] == pytest.approx(65 / 1000 * 480)
    assert "1 device hours (4 × cpu)" in card.text
    assert "hours are those of all sessions of the run" in card.text


@pytest.mark.parametrize(("start", "base"), [("/home/me/models/start", None), ("subcell/mae-rybg", "subcell/mae-rybg")])
def test_the_record_of_fine_tuning_without_paths(start: str, base: str | None, tmp_path: Path) -> None:
    record = {
        "init_checkpoint": start, "channels": {"green": "kept"}, "image_size": 448, "pixel_size_um": 0.16,
        "trained": "head", "crops": {"train": 10, "validation": 3}, "classes": {"a": "5 train, 1 validation"},
        "problem": "one class per crop", "loss": "cross_entropy", "output_dir": "/home/me/out", "labels_left_out": {},
    }  # fmt: skip
    path = write(tmp_path / "fine_tuning.json", record)
    assert find_record(tmp_path) == path
    facts = gather_facts(SubCellConfig(), "subcell/x", record=path)
    assert facts.base_model == base
    assert facts.training_data["crops"] == "10 train, 3 validation"
    assert "/home/me" not in str(facts)


def test_facts_that_are_given_win_over_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "training_record.json", RECORD)
    (tmp_path / "facts.yaml").write_text("license: cc-by-4.0\nrecipe: by hand\nlimits: Only one.\n")
    facts = gather_facts(SubCellConfig(), "subcell/x", record=path, facts=tmp_path / "facts.yaml")
    assert (facts.license, facts.recipe, facts.limits) == ("cc-by-4.0", "by hand", ("Only one.",))
    with pytest.raises(InputError, match="is not a training record"):
        gather_facts(SubCellConfig(), "subcell/x", record=write(path, {"format": "other", "version": 1}))
    with pytest.raises(InputError, match=r"Unknown published model 'mae': expected one of mae-bg, "):
        gather_facts(SubCellConfig(), "subcell/x", variant="mae")


def test_results_of_localization_are_the_models_own(tmp_path: Path) -> None:
    row = {"model": "subcell", "head": "linear", "level": "cell", "units": 9, "metric": "macro_map", "value": 0.6}
    scores = [
        row | {"low": 0.5, "high": 0.7},
        row | {"metric": "lrap", "low": None, "high": None},
        row | {"metric": "macro_auc", "value": None},
        row | {"model": "pixels"},
        row | {"head": "mlp"},
    ]
    record = {
        "task": "localization", "model": "subcell", "head": "linear", "classes": {"scheme": "31"}, "scores": scores,
    }  # fmt: skip
    first, second = read_results(write(tmp_path / "results.json", record).parent)
    assert (first.metric, first.value, first.low, first.high, first.level) == ("macro_map", 0.6, 0.5, 0.7, 0.95)
    assert (second.metric, second.low, second.level) == ("lrap", None, None)


def test_results_of_perturbation_and_nothing(tmp_path: Path) -> None:
    retrieval = {"mean_average_precision": 0.52, "mean_average_precision_95": [0.37, 0.68]}
    record = {
        "profiles": {"wells": 344, "plates": 4}, "replicate_retrieval": retrieval, "mechanism_retrieval": None,
    }  # fmt: skip
    (found,) = read_results(write(tmp_path / "report.json", record))
    assert (found.metric, found.value, found.low, found.high) == ("replicate_map", 0.52, 0.37, 0.68)
    with pytest.raises(InputError, match=r"has no results\.json or report\.json"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(InputError, match="contains no results"):
        read_results(write(tmp_path / "report.json", {"genes": 3}))
    result = {"metrik" if name == "metric" else name: value for name, value in RESULT.items()}
    path = write(tmp_path / "results.json", {"results": [result]})
    with pytest.raises(InputError, match=r"A result lacks \['metric'\] and has unknown fields \['metrik'\]"):
        read_results(path)
