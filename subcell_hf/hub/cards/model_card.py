"""Model cards: a template filled from a model and the facts of its training, checked by the Hub's own classes."""

from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import CardData, EvalResult, ModelCard, ModelCardData

from subcell_hf import ontology
from subcell_hf.errors import InputError
from subcell_hf.hub.cards.card_facts import CardFacts
from subcell_hf.hub.cards.evaluation_results import Result
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.shipped import shipped_folder

GRID_G_PER_KWH = 480.0
"""World average of 2023 (Ember, Global Electricity Review 2024), used if no grid is given."""
DEVICE_WATTS = {"cuda": 400.0, "cpu": 65.0}
"""Assumed power of one process's device, used if none is given."""

_METADATA = ("license", "library_name", "pipeline_tag", "tags")
"""Metadata that every card must have."""


@dataclass(frozen=True)
class CardModel:
    """The model that a card is about.

    Attributes:
        config: Its configuration, with `architectures`.
        processor: Its image processor.
        parameters: How many numbers it has.
    """

    config: SubCellConfig
    processor: SubCellImageProcessor
    parameters: int

    @property
    def classifies(self) -> bool:
        """Whether it predicts locations."""
        return "SubCellForImageClassification" in (self.config.architectures or [])

    @property
    def classes(self) -> list[str]:
        """Names of the locations; none for an encoder."""
        return [name for _, name in sorted((self.config.id2label or {}).items())] if self.classifies else []

    @property
    def pipeline_tag(self) -> str:
        """The Hub's name of the task."""
        return "image-classification" if self.classifies else "image-feature-extraction"


def make_model_card(model: CardModel, facts: CardFacts) -> ModelCard:
    """Fill the template.

    Args:
        model: What is published.
        facts: What is known of it.

    Raises:
        InputError: If the Hub would not understand the card.
    """
    config = model.config
    grams, carbon = _describe_carbon(facts)
    auto_class = "AutoModelForImageClassification" if model.classifies else "AutoModel"
    if "SubCellForPreTraining" in (config.architectures or []):
        carries = "encoder, decoder and heads of pretraining (`AutoModelForPreTraining` loads them all)"
    else:
        carries = "encoder and localization classifiers" if model.classifies else "encoder"
    summary = f", {facts.summary}" if facts.summary else ""
    card: ModelCard = ModelCard.from_template(
        _card_data(model, facts, grams),
        template_path=str(shipped_folder("model_cards") / "card.md.jinja"),
        facts=facts,
        opening=(
            f"A SubCell vision transformer for fluorescence images of single cells{summary}. This repository holds the "
            f"{carries}, {model.parameters / 1e6:.3g} M parameters, and the code that loads it."
        ),
        auto_class=auto_class,
        classes=model.classes,
        activation="softmax(-1)" if config.problem_type == "single_label_classification" else "sigmoid()",
        embedding_size=config.embedding_size,
        channels=[{"name": n, "stain": ontology.CHANNEL_STAINS.get(n, "as named")} for n in config.channels],
        any_channels=config.channel_tokens == "separate",
        pixel_size=f"{model.processor.pixel_size_um:.6g} µm" if model.processor.pixel_size_um else "not recorded",
        crops=facts.crop_advice or _describe_crops(model.processor),
        scaling=describe_scaling(model.processor),
        sourced=any(result.source_url for result in facts.results),
        carbon=carbon,
    )
    check_card(str(card), "The card")
    return card


def check_card(text: str, where: str) -> CardData:
    """Read a card back as the Hub does and make sure that it says what the Hub needs.

    Args:
        text: Of the `README.md`.
        where: What to call it in messages.

    Returns:
        Its metadata.

    Raises:
        InputError: If the metadata is damaged, or a field is missing; the message names it.
    """
    try:
        data = ModelCard(text, ignore_metadata_errors=False).data
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{where} has invalid metadata ({error}): export the model again.") from error
    missing = [name for name in _METADATA if not data.get(name)]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)} in its metadata: export the model again.")
    if data["pipeline_tag"] not in ("image-classification", "image-feature-extraction"):
        raise InputError(f"{where} has the unexpected pipeline_tag {data['pipeline_tag']!r}: export the model again.")
    return data


def _card_data(model: CardModel, facts: CardFacts, grams: float | None) -> ModelCardData:
    more: dict[str, Any] = {}
    if grams is not None and facts.hardware is not None:
        location = (facts.carbon or {}).get("location")
        more["co2_eq_emissions"] = {
            "emissions": float(f"{grams:.3g}"),
            "source": "device hours × assumed power × grid intensity, see the card",
            "training_type": "fine-tuning" if facts.base_model else "pre-training",
            **({"geographical_location": location} if location else {}),
            "hardware_used": f"{facts.hardware.get('processes', 1)} × {facts.hardware.get('device', 'unknown')}",
        }
    if model.classifies:
        more["widget"] = [{"src": "example/sheet.png", "example_title": "Simulated cell"}]
    if facts.base_model:
        more["base_model"] = facts.base_model
    if facts.datasets:
        more["datasets"] = list(facts.datasets)
    if facts.results:
        more["metrics"] = sorted({result.metric for result in facts.results})
        more["eval_results"] = [_eval_result(result, model.pipeline_tag) for result in facts.results]
    tags = ["subcell", "biology", "microscopy", "fluorescence", "single-cell", "protein-localization", "custom_code"]
    return ModelCardData(
        model_name=facts.name,
        license=facts.license,
        library_name="transformers",
        pipeline_tag=model.pipeline_tag,
        tags=tags,
        **more,
    )


def _eval_result(result: Result, task: str) -> EvalResult:
    interval = None
    if result.low is not None and result.high is not None:
        interval = {"interval_low": result.low, "interval_high": result.high}
        interval |= {} if result.level is None else {"level": result.level}
    return EvalResult(
        task_type=task,
        dataset_type=result.dataset_type,
        dataset_name=result.dataset,
        dataset_split=result.split,
        metric_type=result.metric,
        metric_name=result.metric_name,
        metric_value=result.value,
        metric_args=interval,
        source_name=result.source_name,
        source_url=result.source_url,
    )


def _describe_crops(processor: SubCellImageProcessor) -> str:
    size = f"{processor.size['height']} × {processor.size['width']} px"
    if processor.do_resize:
        return f"one cell in the centre, resized to {size}."
    return f"one cell in the centre; larger crops are cut to {size}, smaller ones padded with zeros."


def describe_scaling(processor: SubCellImageProcessor) -> str:
    """How an image processor scales intensities, as a sentence without subject."""
    if not processor.do_normalize:
        return "not scaled."
    over = "all channels of a crop together" if processor.normalize == "image" else "each channel separately"
    return f"minimum and maximum over {over} become 0 and 1."


def _describe_carbon(facts: CardFacts) -> tuple[float | None, str]:
    """Grams of CO2 equivalents, and how they were calculated."""
    hardware, said = facts.hardware or {}, facts.carbon or {}
    if "runtime_s" not in hardware:
        return None, "Device hours of the training were not recorded, so no emissions are given."
    processes, device = int(hardware.get("processes", 1)), str(hardware.get("device", "cpu"))
    hours = float(hardware.get("device_s", float(hardware["runtime_s"]) * processes)) / 3600
    watts = float(said.get("device_watts", DEVICE_WATTS["cpu" if device == "cpu" else "cuda"]))
    intensity = float(said.get("grid_g_per_kwh", GRID_G_PER_KWH))
    grams = hours * watts / 1000 * intensity
    power = "as given" if "device_watts" in said else "an assumption"
    grid = f"of the grid in {said['location']}" if said.get("location") else "of the world's average grid"
    return grams, (
        f"About {grams:.3g} g CO₂ equivalents: {hours:.3g} device hours ({processes} × {device}) × {watts:g} W "
        f"({power}) × {intensity:g} g/kWh {'(as given)' if 'grid_g_per_kwh' in said else grid}. The hours are those of "
        "all sessions of the run, up to their last checkpoints; cooling and manufacture are not included."
    )
