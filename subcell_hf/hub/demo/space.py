"""A Gradio Space that shows a model: staged as a folder, or served from this machine."""

import io
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from PIL import Image

from subcell_hf.errors import InputError, counted
from subcell_hf.hub.demo.demo_answers import DemoSettings
from subcell_hf.hub.demo.demo_model import ReferenceCells
from subcell_hf.hub.publishing.copied_files import copied_text
from subcell_hf.hub.publishing.example_cell import make_example
from subcell_hf.hub.publishing.export import load_processor
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.ontology import CHANNEL_STAINS, location_colours
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.model_folders import check_model
from subcell_hf.tables.run_record import refuse_averaged

if TYPE_CHECKING:
    import pandas as pd

_APP_FILES = {
    "demo/demo_app.py": "app.py",
    "demo/demo_answers.py": "demo_answers.py",
    "demo/demo_images.py": "demo_images.py",
    "demo/demo_model.py": "demo_model.py",
    "demo/demo_page.py": "demo_page.py",
    "demo/demo_pictures.py": "demo_pictures.py",
    "demo/demo_pieces.html.j2": "demo_pieces.html.j2",
    "endpoint/endpoint_images.py": "endpoint_images.py",
}
"""Files of this room that the page is made of → their names in the Space."""

_EXAMPLES = ("Mitochondria", "Nucleoli", "Golgi apparatus", "Plasma membrane", "Nucleoplasm")
_MOST_REFERENCE_CELLS = 1500
_PYTHON = "3.11"
"""The Hub's own default, 3.10, is older than what the model's code is written for."""
# A Space is built anew months later, so torch and transformers have the newest tested versions as their upper limits.
_REQUIREMENTS = """\
# The wheels of PyPI bring gigabytes of CUDA, of which a Space on a CPU has no use.
--extra-index-url https://download.pytorch.org/whl/cpu
gradio>=6
imagecodecs>=2025.3
jinja2>=3.1
numpy>=1.26
pillow>=10
tifffile>=2024.8
torch>=2.6,<2.14
transformers>=5.18,<5.24
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
        raise InputError(f"{output} is not an earlier Space: choose a new folder.")
    config, processor = _load_facts(Path(model))
    cells = None if reference is None else map_reference(reference, config)
    title = title or f"SubCell: {repository.rpartition('/')[2]}"
    with write_folder_atomically(output, replace=True) as staging:
        for own, uploaded in _APP_FILES.items():
            (staging / uploaded).write_text(copied_text(own), encoding="utf-8")
        facts = {"model": repository, "title": title, "colours": location_colours(), "stains": CHANNEL_STAINS}
        (staging / "demo.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        (staging / "requirements.txt").write_text(_REQUIREMENTS, encoding="utf-8")
        (staging / "README.md").write_text(_readme(title, repository), encoding="utf-8")
        write_examples(staging / "examples", processor)
        if cells is not None:
            cells.save(staging / "reference.npz")
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
        reference=None if reference is None else map_reference(reference, config),
        examples=write_examples(examples, processor),
        trust_remote_code=False,
    )


def map_reference(table: Path, config: SubCellConfig, seed: int = 0) -> ReferenceCells:
    """Lay reference cells out by UMAP: those of an embedding table with a known location, else with a predicted one.

    Pictures beside the table come with their cells; of many cells those with a picture are taken first.

    Args:
        table: Embedding table that was made with the model.
        config: Of the model.
        seed: Of the map, and of which cells are taken where there are more than 1,500.

    Raises:
        InputError: If the embeddings are of another width than the model's or means over orientations, too few cells
            have a location, or umap-learn is not installed.
    """
    from subcell_hf.report.projection import FEWEST_FOR_UMAP, project_cells
    from subcell_hf.tables.cell_pictures import PICTURES_FILE
    from subcell_hf.tables.files import EMBEDDINGS_FILE, read_table

    if find_spec("umap") is None:
        raise InputError(
            "The map of reference cells requires umap-learn, not installed here. Install with: pip install "
            "'subcell-hf[analysis]', or omit the reference cells."
        )
    cells, file = read_table(table), table / EMBEDDINGS_FILE if table.is_dir() else table
    refuse_averaged(cells.provenance, table, "and the page compares them with cells in one orientation")
    if cells.embeddings.shape[1] != config.embedding_size:
        raise InputError(
            f"{table} contains embeddings of width {cells.embeddings.shape[1]}, but the model computes "
            f"{config.embedding_size} numbers: embed the reference cells with this model."
        )
    labels = _first_locations(cells.cells)
    rows = np.flatnonzero(np.array(labels, dtype=str) != "")
    if len(rows) < FEWEST_FOR_UMAP:
        raise InputError(
            f"{table} has {counted(len(rows), 'cell')} with a location (column locations or top_location_1): "
            f"expected at least "
            f"{FEWEST_FOR_UMAP}."
        )
    names = cells.cells["cell_id"].astype(str).to_numpy()
    pictures = _read_pictures(file.with_name(PICTURES_FILE))
    if len(rows) > _MOST_REFERENCE_CELLS:
        shuffled = np.random.default_rng(seed).permutation(rows)
        pictured = np.isin(names[shuffled], list(pictures))
        rows = np.sort(np.concatenate([shuffled[pictured], shuffled[~pictured]])[:_MOST_REFERENCE_CELLS])
    embeddings = np.asarray(cells.embeddings[rows], np.float32)
    made = project_cells(embeddings, seed)
    chosen = [labels[row] for row in rows]
    return ReferenceCells.from_map(embeddings, made.positions, chosen, made.method, names[rows].tolist(), pictures)


def _read_pictures(path: Path) -> dict[str, bytes]:
    """Pictures beside a table, small; none where it has none."""
    from subcell_hf.tables.cell_pictures import iterate_pictures

    found = {}
    for picture in iterate_pictures(path) if path.is_file() else ():
        file = io.BytesIO()
        Image.fromarray(picture.composite_pixels()).save(file, "WEBP", quality=80)
        found[picture.cell_id] = file.getvalue()
    return found


def _first_locations(cells: "pd.DataFrame") -> list[str]:
    """First known location of each cell, else the most probable one, else nothing."""
    labels = [""] * len(cells)
    for name in ("locations", "top_location_1"):
        if name in cells:
            found = cells[name].fillna("").astype(str).str.split(";").str[0]
            labels = [label or other for label, other in zip(labels, found, strict=True)]
    return labels


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
    config = check_model(model)
    return config, load_processor(model, config)


def _readme(title: str, repository: str) -> str:
    facts = {
        "title": title,
        "emoji": "🔬",
        "colorFrom": "green",
        "colorTo": "blue",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": _PYTHON,
        "app_file": "app.py",
        "license": "mit",
        "models": [repository],
        "short_description": "Protein locations and embeddings of cell images",
    }
    header = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{header}---\n# {title}\n\nA page that shows the protein locations that "
        f"[{repository}](https://huggingface.co/{repository}) predicts for a cell. The example cells are simulated.\n"
    )
