"""A trained or converted model → a complete repository for the Hub, in a folder that appears whole or not at all."""

import logging
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from subcell_hf.errors import InputError
from subcell_hf.hub.cards.card_facts import ANNOTATION_FILE, RECORD_FILES, CardFacts, find_record, gather_facts
from subcell_hf.hub.cards.evaluation_results import read_results
from subcell_hf.hub.cards.model_card import CardModel, check_card, make_model_card
from subcell_hf.hub.publishing.bioimageio_package import write_bioimageio
from subcell_hf.hub.publishing.copied_files import copied_text
from subcell_hf.hub.publishing.example_cell import make_example
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.hub.publishing.notebook import make_notebook
from subcell_hf.hub.publishing.onnx_export import describe_onnx, export_onnx
from subcell_hf.hub.publishing.push import Content, collect_files
from subcell_hf.inference.models.openvino_encoder import OPTIMIZATION_FILE
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellPreTrainedModel
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.model_folders import PROCESSOR_FILE, check_model, load_model, read_processor
from subcell_hf.weights.fetching import fetched_variant

_logger = logging.getLogger(__name__)

_HANDLER_FILES = {
    "endpoint/endpoint_handler.py": "handler.py",
    "endpoint/endpoint_batching.py": "endpoint_batching.py",
    "endpoint/endpoint_images.py": "endpoint_images.py",
}
"""Files of this room that answer requests on an endpoint → their names in the repository."""

_REQUIREMENTS = """\
huggingface-hub>=1.0
imagecodecs>=2025.3
numpy>=1.26
pillow>=10
safetensors>=0.5
tifffile>=2024.8
torch>=2.6
transformers>=5.18
"""

REQUIRED_FILES = ("README.md", "config.json", "preprocessor_config.json", "handler.py", "modeling_subcell.py")
"""Files that every export contains."""


def export_model(
    model_folder: Path,
    output: Path,
    *,
    repository: str | None = None,
    sources: ExportSources | None = None,
    encoder_only: bool = False,
    onnx: bool = False,
    bioimageio: bool = False,
) -> Path:
    """Stage a repository.

    Args:
        model_folder: A trained run's `model` folder (or the run's), a converted folder, or a classifier's.
        output: Folder to write: new, empty, or an earlier export, which is replaced.
        repository: `"owner/name"` that it will have on the Hub; default: `subcell/` and the name of the output folder.
        sources: Where the card's facts come from.
        encoder_only: Leave out heads and decoder.
        onnx: Also write the encoder, and the classifier if there is one, as `onnx/model.onnx`.
        bioimageio: Also write this file and what describes it as `bioimageio.zip`.

    Returns:
        The folder.

    Raises:
        InputError: If the weights are damaged, incomplete or not finite, a required field of the card is missing, the
            ONNX model gives other numbers, or the output folder holds something else.
    """
    sources = sources or ExportSources()
    if (model_folder / "model").is_dir() and not (model_folder / "config.json").is_file():
        model_folder = model_folder / "model"
    _check_output(output)
    model = load_model(model_folder)
    if encoder_only:
        model = _take_encoder(model)
    processor = load_processor(model_folder, model.config)
    repository = repository or f"subcell/{output.resolve().name}"
    fetched = fetched_variant(model_folder)
    own = None if fetched is None else f"{fetched}{'' if encoder_only else '-localization'}"
    facts = gather_facts(
        model.config,
        repository,
        variant=sources.variant or own,
        fetched=own is not None and sources.variant in (None, own),
        record=_find_record(model_folder, sources.run),
        facts=sources.facts,
        results=[result for path in sources.evaluations for result in read_results(path)],
    )
    annotation = model_folder / ANNOTATION_FILE
    with write_folder_atomically(output, replace=True) as staging:
        _write_repository(staging, model, processor, facts)
        if annotation.is_file() and not encoder_only:
            shutil.copyfile(annotation, staging / ANNOTATION_FILE)
        if onnx or bioimageio:
            onnx_facts = _add_onnx(staging, model, processor)
        if bioimageio:
            write_bioimageio(staging, onnx_facts, processor, make_example(processor), facts)
        check_export(staging)
    if (model_folder / OPTIMIZATION_FILE).is_file():
        _logger.warning(
            "%s holds the float model only. To publish int8 too, run `subcell optimize` on it and push what it writes.",
            output,
        )
    return output


def check_export(folder: Path) -> dict[str, Content]:
    """Make sure that a folder is a complete, harmless repository.

    Args:
        folder: A staged repository.

    Returns:
        Its files, by their path in the repository.

    Raises:
        InputError: If a file is missing or damaged, the card lacks a field, or there is a link or pickle.
    """
    files = collect_files(folder)
    missing = [name for name in REQUIRED_FILES if name not in files]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}: give an output folder of `subcell export`.")
    read_processor(folder, check_model(folder))
    check_card((folder / "README.md").read_text(encoding="utf-8"), str(folder / "README.md"))
    return files


def load_processor(folder: Path, config: SubCellConfig) -> SubCellImageProcessor:
    """The folder's image processor, or the one that follows from the configuration of a trained model.

    Raises:
        InputError: If it is damaged, or makes other channels than the model takes.
    """
    path = folder / PROCESSOR_FILE
    if not path.exists() and not path.is_symlink():  # a link to nowhere is a fault, not a missing file
        height, width = config.image_height_width
        size = {"height": height, "width": width}
        return SubCellImageProcessor(config.channels, size, config.pixel_size_um, channel_tokens=config.channel_tokens)
    return read_processor(folder, config)


def _take_encoder(model: SubCellPreTrainedModel) -> SubCellPreTrainedModel:
    encoder = getattr(model, "subcell", model)
    encoder.config.architectures = ["SubCellModel"]
    taken: SubCellPreTrainedModel = encoder
    return taken


def _find_record(model_folder: Path, run: Path | None) -> Path | None:
    """The training record of the run that was named, or beside the model."""
    if run is None:
        return find_record(model_folder)
    found = find_record(run) or find_record(run / "model")
    if found is None:
        raise InputError(f"{run} has no {' or '.join(RECORD_FILES)}: give the folder of a finished run.")
    return found


def _check_output(output: Path) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.is_dir() or not all((output / name).is_file() for name in REQUIRED_FILES):
        raise InputError(f"{output} is not an earlier export: choose a new folder.")


def _write_repository(
    folder: Path, model: SubCellPreTrainedModel, processor: SubCellImageProcessor, facts: CardFacts
) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    about = CardModel(model.config, processor, sum(parameter.numel() for parameter in model.parameters()))
    example = make_example(processor)
    files = dict(example.files)
    files["README.md"] = str(make_model_card(about, facts)).encode()
    files["notebook.ipynb"] = make_notebook(about, example, facts.repository, facts.name)
    files["requirements.txt"] = _REQUIREMENTS.encode()
    files["CITATION.cff"] = _fill("citation.cff.jinja", facts)
    files["LICENSE"] = _license_text(facts)
    for own, uploaded in _HANDLER_FILES.items():
        files[uploaded] = copied_text(own).encode()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _add_onnx(folder: Path, model: SubCellPreTrainedModel, processor: SubCellImageProcessor) -> dict[str, Any]:
    exported = model if isinstance(model, SubCellForImageClassification) else _take_encoder(model)
    facts = export_onnx(exported, processor, folder)
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + describe_onnx(facts), encoding="utf-8")
    return facts


def _fill(template: str, facts: CardFacts) -> bytes:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    text = (shipped_folder("model_cards") / template).read_text(encoding="utf-8")
    return environment.from_string(text).render(facts=facts).encode()


def _license_text(facts: CardFacts) -> bytes:
    if facts.license == "mit":
        return _fill("license_mit.txt.jinja", facts)
    address = f"https://huggingface.co/docs/hub/repositories-licenses#{facts.license}"
    return f"{facts.holder} license this model under {facts.license}; see {address} for the text.\n".encode()
