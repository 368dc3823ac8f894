"""A Gradio Space that shows a model: staged as a folder, or served from this machine."""

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from transformers import AutoConfig

from subcell_hf.errors import InputError
from subcell_hf.hub.demo_answers import DemoSettings
from subcell_hf.hub.demo_model import ReferenceCells
from subcell_hf.hub.example_cell import make_example
from subcell_hf.hub.export import load_processor
from subcell_hf.hub.weights_check import check_weights
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.ontology import CHANNEL_STAINS, location_colours
from subcell_hf.training.checkpoints import publish_folder

_APP_FILES = {
    "demo_app.py": "app.py",
    "demo_answers.py": "demo_answers.py",
    "demo_images.py": "demo_images.py",
    "demo_model.py": "demo_model.py",
    "demo_page.py": "demo_page.py",
    "demo_pictures.py": "demo_pictures.py",
    "endpoint_images.py": "endpoint_images.py",
}
"""Files of this room that the page is made of → their names in the Space."""

_EXAMPLES = ("Mitochondria", "Nucleoli", "Golgi apparatus", "Plasma membrane", "Nucleoplasm")
_MOST_REFERENCE_CELLS = 1500
_REQUIREMENTS = """\
gradio>=6
imagecodecs>=2025.3
numpy>=1.26
pillow>=10
tifffile>=2024.8
torch>=2.6
transformers>=5.18
# To outline the cells of whole fields of view, add: subcell-hf[data]
"""


def stage_space(
    model: Path | str, output: Path, *, repository: str, title: str | None = None, reference: Path | None = None
) -> Path:
    """Write the folder of a Space: the page, its settings, examples and reference cells; whole or not at all.

    Args:
        model: Folder of the model, for its channels and processor.
        output: Folder to write: new, empty, or an earlier Space, which is replaced.
        repository: `owner/name` of the model on the Hub, which the Space will load.
        title: Of the page; default: the repository's name.
        reference: Embedding table of cells of known location, made with this model.

    Raises:
        InputError: If the model, the table or the output folder is not what it must be.
    """
    if output.exists() and any(output.iterdir()) and not (output / "demo.json").is_file():
        raise InputError(f"{output} holds something else than a Space: choose a new folder.")
    config, processor = _load_facts(Path(model))
    title = title or f"SubCell: {repository.rpartition('/')[2]}"
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for own, uploaded in _APP_FILES.items():
            text = (Path(__file__).parent / own).read_text(encoding="utf-8")
            # On the Hub the files lie beside each other; the package may be there or not.
            (staging / uploaded).write_text(text.replace("from subcell_hf.hub.", "from "), encoding="utf-8")
        facts = {"model": repository, "title": title, "colours": location_colours(), "stains": CHANNEL_STAINS}
        (staging / "demo.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        (staging / "requirements.txt").write_text(_REQUIREMENTS, encoding="utf-8")
        (staging / "README.md").write_text(_readme(title, repository), encoding="utf-8")
        write_examples(staging / "examples", processor)
        if reference is not None:
            fit_reference(reference, config).save(staging / "reference.npz")
        staging.chmod(0o755)
        publish_folder(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return output


def local_settings(model: Path, examples: Path, reference: Path | None = None) -> DemoSettings:
    """Settings of a page on this machine.

    Args:
        model: Folder of the model.
        examples: Folder to write simulated examples to.
        reference: Embedding table of cells of known location.

    Raises:
        InputError: If the model or the table is not what it must be.
    """
    config, processor = _load_facts(model)
    return DemoSettings(
        model=str(model),
        title=f"SubCell: {model.resolve().name}",
        colours=location_colours(),
        stains=CHANNEL_STAINS,
        reference=None if reference is None else fit_reference(reference, config),
        examples=write_examples(examples, processor),
        trust_remote_code=False,
    )


def fit_reference(table: Path, config: SubCellConfig, seed: int = 0) -> ReferenceCells:
    """Reference cells out of an embedding table: those with a known location, else with a predicted one.

    Raises:
        InputError: If the embeddings are of another width than the model's, or fewer than three cells have a location.
    """
    from subcell_hf.inference.tables import read_table

    cells = read_table(table)
    if cells.embeddings.shape[1] != config.embedding_size:
        raise InputError(
            f"{table} holds embeddings of width {cells.embeddings.shape[1]}, the model gives {config.embedding_size}: "
            "embed the reference cells with this model."
        )
    columns = [name for name in ("locations", "top_location_1") if name in cells.cells]
    labels = ["" for _ in range(len(cells))]
    for name in columns:
        found = cells.cells[name].fillna("").astype(str).str.split(";").str[0]
        labels = [label or other for label, other in zip(labels, found, strict=True)]
    rows = np.array([index for index, label in enumerate(labels) if label], np.int64)
    if len(rows) < 3:
        raise InputError(
            f"{table} has {len(rows)} cells with a location (column locations or top_location_1): expected at least 3."
        )
    if len(rows) > _MOST_REFERENCE_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _MOST_REFERENCE_CELLS, replace=False))
    return ReferenceCells.fit(np.asarray(cells.embeddings[rows], np.float32), [labels[row] for row in rows])


def write_examples(folder: Path, processor: SubCellImageProcessor) -> dict[str, Path]:
    """Simulate a cell for each of a few locations; returns name → folder."""
    written = {}
    for seed, location in enumerate(_EXAMPLES, start=24):
        example = make_example(processor, seed, location)
        place = folder / location.replace(" ", "_")
        place.mkdir(parents=True)
        for channel, pixels in zip(example.channels, example.pixels, strict=True):
            Image.fromarray(pixels).save(place / f"{channel}.png")
        Image.fromarray(example.cell_mask.astype(np.uint8) * 255).save(place / "mask.png")
        (place / "pixel_size_um.txt").write_text(f"{example.pixel_size_um}\n", encoding="utf-8")
        written[location] = place
    return written


def _load_facts(model: Path) -> tuple[SubCellConfig, SubCellImageProcessor]:
    check_weights(model)
    config: Any = AutoConfig.from_pretrained(model)
    return config, load_processor(model, config)


def _readme(title: str, repository: str) -> str:
    facts = {
        "title": title,
        "emoji": "🔬",
        "colorFrom": "green",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "app_file": "app.py",
        "license": "mit",
        "models": [repository],
        "short_description": "Protein locations and embeddings of cell images",
    }
    header = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{header}---\n# {title}\n\nA page that shows where [{repository}](https://huggingface.co/{repository}) "
        "finds the protein of a cell. The example cells are simulated.\n"
    )
