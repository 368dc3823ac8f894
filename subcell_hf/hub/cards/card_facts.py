"""What a model card says, gathered from the objects of a run; what is missing is asked for by name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.hub.cards.evaluation_results import Result, result_from_mapping
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.ontology import CHANNEL_VARIANTS
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.plain_files import explaining, read_json, read_yaml
from subcell_hf.training.runs.training_record import TRAINING_RECORD_FILE

FINE_TUNING_FILE = "fine_tuning.json"
ANNOTATION_FILE = "annotation.json"
"""Record of a classifier of `subcell annotate`, which stays with it when it is exported again."""
RECORD_FILES = (ANNOTATION_FILE, TRAINING_RECORD_FILE, FINE_TUNING_FILE)
"""Records beside a model, of annotation, of pretraining and classifiers, and of fine-tuning; the first one counts."""

_REMEDY = (
    "give --run with the folder of the run, --variant for a published model's weights, or --facts with a YAML file "
    "that contains these fields"
)


@dataclass(frozen=True)
class CardFacts:
    """The contents of a card that the model's files do not contain.

    Attributes:
        name: In words.
        repository: `"owner/name"` on the Hub.
        training_data: What is known of the images, key → text or number.
        recipe: How it was trained, in words.
        hyperparameters: Name → value.
        license: Of the weights, the Hub's identifier.
        citation: BibTeX.
        intended_use: One sentence each.
        limits: One sentence each.
        license_note: On what the licence does not cover.
        holder: Of the copyright.
        summary: What was learnt, a clause.
        base_model: Hub name of the model that this one began from.
        datasets: Hub names of the training data.
        results: Of evaluations.
        hardware: `device`, `processes`, `runtime_s` of training and `device_s`, of all its devices.
        carbon: `device_watts`, `grid_g_per_kwh`, `location` to reckon emissions with.
        source: Where converted weights come from: `url`, `files`, `note`.
        crop_advice: Which crops to give.
    """

    name: str
    repository: str
    training_data: Mapping[str, Any]
    recipe: str
    hyperparameters: Mapping[str, Any]
    license: str
    citation: str
    intended_use: tuple[str, ...]
    limits: tuple[str, ...]
    license_note: str = ""
    holder: str = "the authors of this model"
    summary: str = ""
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()
    hardware: Mapping[str, Any] | None = None
    carbon: Mapping[str, Any] | None = None
    source: Mapping[str, Any] | None = None
    crop_advice: str = ""


_LISTS = {"intended_use", "limits", "datasets"}
REQUIRED = ("training_data", "recipe", "hyperparameters", "license", "citation", "intended_use", "limits")
"""Fields without which no card is written, beside name and repository."""


def variant_names() -> tuple[str, ...]:
    """Names of the published models that have a file of facts."""
    return tuple(sorted(path.stem for path in (shipped_folder("model_cards") / "published").glob("*.yaml")))


def gather_facts(
    config: SubCellConfig,
    repository: str,
    *,
    variant: str | None = None,
    fetched: bool = False,
    record: Path | None = None,
    facts: Path | None = None,
    results: Iterable[Result] = (),
) -> CardFacts:
    """Put together what a card will say.

    Args:
        config: Of the model.
        repository: `"owner/name"`.
        variant: Name of the published model that these weights are.
        fetched: Whether they were fetched by that name, so that their geometry needs no comparison.
        record: The training record that a run left.
        facts: YAML file of fields of `CardFacts`; they override all others.
        results: Of evaluations.

    Raises:
        InputError: If a required field is missing, a field is unknown, the published model is another, or a file cannot
            be read; the message names it.
    """
    told: dict[str, Any] = {"repository": repository, "name": repository.split("/")[-1]}
    told |= _read_yaml(shipped_folder("model_cards") / "common.yaml")
    if variant is not None:
        told |= _published_facts(variant, config, fetched)
        told["repository"] = repository
        if fetched:  # encoder and classifiers are in one repository
            told.pop("base_model", None)
    if record is not None:
        told |= _read_record(record)
    if facts is not None:
        told |= _read_yaml(facts)
    unknown = sorted(set(told) - {item.name for item in fields(CardFacts)})
    if unknown:
        raise InputError(
            f"{facts or record} has unknown fields: {', '.join(unknown)}. Expected some of "
            f"{', '.join(item.name for item in fields(CardFacts))}."
        )
    missing = [name for name in REQUIRED if not told.get(name)]
    if missing:
        raise InputError(f"The model card lacks {', '.join(missing)}: {_REMEDY}.")
    plain = [name for name in ("training_data", "hyperparameters") if not isinstance(told[name], Mapping)]
    if plain:
        raise InputError(f"{facts or record}: {', '.join(plain)} must consist of `name: value` lines, got plain text.")
    with explaining(facts or record or repository, _REMEDY):
        told["results"] = (*map(result_from_mapping, told.get("results") or ()), *results)
        for name in _LISTS & told.keys():
            told[name] = (told[name],) if isinstance(told[name], str) else tuple(told[name])
        return CardFacts(**told)


def _published_facts(variant: str, config: SubCellConfig, fetched: bool) -> dict[str, Any]:
    """Facts of a published model, after a check that the weights are those of this model."""
    if variant not in variant_names():
        raise InputError(f"Unknown published model {variant!r}: expected one of {', '.join(variant_names())}.")
    shared = _read_yaml(shipped_folder("model_cards") / "published.yaml")
    own = _read_yaml(shipped_folder("model_cards") / "published" / f"{variant}.yaml")
    method = shared["methods"][own["method"]]
    expected = {
        "channels": list(CHANNEL_VARIANTS[own["channels"]]),
        "position_embedding_type": method["position_embedding_type"],
    } | ({} if fetched else {"hidden_size": 768, "num_hidden_layers": 12})
    wrong = [f"{name} is {getattr(config, name)!r}, not {value!r}" for name, value in expected.items()
             if getattr(config, name) != value]  # fmt: skip
    classifies = "SubCellForImageClassification" in (config.architectures or [])
    if classifies != (own["kind"] == "classifier"):
        wrong.append(f"it is {'a classifier' if classifies else 'not a classifier'}")
    if wrong:
        raise InputError(f"The model is not the published {variant}: {'; '.join(wrong)}.")
    told = {name: shared[name] for name in ("holder", "crop_advice", "training_data")}
    told |= {name: own[name] for name in ("name", "base_model", "results") if name in own}
    told["limits"] = [*_read_yaml(shipped_folder("model_cards") / "common.yaml")["limits"], *shared["limits"]]
    told["source"] = {**shared["source"], "files": own["files"]}
    trained = shared["classifier"] if classifies else method
    pretrained = f"{method['name']} (recipe {method['recipe']}), {method['summary']}"
    told["recipe"] = f"{pretrained}; then {trained['recipe']}" if classifies else pretrained
    return told | {"hyperparameters": trained["hyperparameters"], "summary": method["summary"]}


def find_record(folder: Path) -> Path | None:
    """The record that a training run left in a model's folder."""
    return next((path for name in RECORD_FILES if (path := folder / name).is_file()), None)


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
        if path.name == FINE_TUNING_FILE:
            return _read_fine_tuning(record)
        if path.name == ANNOTATION_FILE:
            record = record["training_record"]
        if record["format"] != "subcell-training-record" or record["version"] != 1:
            raise ValueError(f"format {record['format']!r}, version {record['version']!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a training record ({error!r}): give the folder of a run with --run."
        ) from error
    return {name: value for name, value in record.items() if name not in ("format", "version")}


def _read_fine_tuning(record: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a fine-tuning run, without paths of the machine."""
    start = str(record["init_checkpoint"])
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", start) is not None and not Path(start).exists()
    told: dict[str, Any] = {
        "training_data": {
            "crops": ", ".join(f"{count} {split}" for split, count in record["crops"].items()),
            "classes": "; ".join(f"{name}: {count}" for name, count in record["classes"].items()),
            "channels": record["channels"],
            "pixel size": record["pixel_size_um"],
        },
        "recipe": f"Fine-tuning of {start if on_hub else Path(start).name}: {record['trained']} trained",
        "hyperparameters": {name: record[name] for name in ("problem", "loss", "image_size")},
    }
    return told | ({"base_model": start} if on_hub else {})


def _read_yaml(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must consist of `field: value` lines.")
    return values
