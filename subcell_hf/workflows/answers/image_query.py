"""An image as a query: embedded as the cells of a table were, by the same model."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from subcell_hf.errors import InputError, counted
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.parallel.processes import Processes
from subcell_hf.tables.cell_pictures import PICTURES_FILE, CellPicture, iterate_pictures
from subcell_hf.tables.files import EMBEDDINGS_FILE
from subcell_hf.tables.run_record import orientations_of, read_run
from subcell_hf.tables.search.exact import mean_direction
from subcell_hf.tables.search.stored_cells import Floats, SearchedCells, open_cells
from subcell_hf.workflows.embed import embed_to_folder, find_models_of
from subcell_hf.workflows.embed_input import EmbedInput, read_embed_input

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedImage:
    """What came of an image.

    Attributes:
        cells: Number of its cells.
        direction: `[width]`, the direction of their mean.
        pictures: Of its cells.
    """

    cells: int
    direction: Floats
    pictures: Sequence[CellPicture]


def embed_image(cells: SearchedCells, image: Path) -> EmbeddedImage:
    """Embed the cells of an image with the model and the options of the run that wrote a table.

    Args:
        cells: Table of a run of `subcell embed`.
        image: Image, or folder with images.

    Returns:
        The mean of its cells.

    Raises:
        InputError: If the run does not say how it embedded, its model is not the same any more, or the image cannot be
            embedded.
        OSError: If a temporary file cannot be written.
    """
    if not image.exists():
        raise InputError(f"{image} does not exist, expected an image or a folder of images (--image).")
    given = _input_of(cells)
    reading = replace(given.options.reading, metadata=None, plate_maps=())
    options = replace(given.options, reading=reading, split=None)
    given = replace(given, source=str(image), model=given.find(given.model), options=options)
    _check_model(cells, given)
    precision, orientations = str(cells.provenance.get("precision", "fp32")), orientations_of(cells.provenance)
    with tempfile.TemporaryDirectory(prefix="subcell-query-") as temporary:
        folder = Path(temporary) / "run"
        settings = EmbedSettings(precision=precision, orientations=orientations, h5ad=False)
        done = embed_to_folder(given, folder, settings, processes=Processes(), report=False)
        embedded = open_cells(folder / EMBEDDINGS_FILE)
        if embedded.width != cells.width:
            raise InputError(
                f"{image} has embeddings of {embedded.width} numbers, those of {cells.name} {cells.width}."
            )
        direction = mean_direction(embedded, np.ones(embedded.count, np.bool_))
        pictures = list(iterate_pictures(folder)) if (folder / PICTURES_FILE).is_file() else []
    if done.cells > 1:
        _logger.warning("%s has %s; searching for cells like their mean.", image, counted(done.cells, "cell"))
    return EmbeddedImage(done.cells, direction, pictures)


def _input_of(cells: SearchedCells) -> EmbedInput:
    """How the table was embedded."""
    folder = None if cells.path is None else cells.path.parent
    given = None if folder is None else read_embed_input(read_run(folder), f"{folder}/run.json")
    if given is None:
        raise InputError(
            f"{cells.name} does not say how its cells were embedded: expected run.json of `subcell embed` beside it. "
            "Search by cell (--cell), or embed the images again."
        )
    if given.model == "auto" or given.source.startswith("hpa:"):
        raise InputError(
            f"{cells.name} was embedded with --model {given.model} from {given.source}, so it is not defined how an "
            "image is embedded. Search by cell (--cell)."
        )
    return given


def _check_model(cells: SearchedCells, given: EmbedInput) -> None:
    """Refuse another model than that of the table."""
    named = [(str(m.get("name")), str(m.get("weights_sha256"))) for m in cells.provenance.get("models", ())]
    found = [(model.name, model.checksum) for model in find_models_of(given)]
    if [checksum for _, checksum in named] != [checksum for _, checksum in found]:
        old, new = (", ".join(f"{name} ({digest[:12]})" for name, digest in pairs) for pairs in (named, found))
        raise InputError(
            f"{cells.name} was embedded by {old}; {given.model} is now {new}. Embeddings of two models cannot be "
            "compared: embed the table again, or restore the model."
        )
