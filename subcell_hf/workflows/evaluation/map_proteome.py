"""The proteome map of a table of cells, with pictures of the cells where the table has them."""

import logging
from pathlib import Path

from subcell_hf.errors import counted
from subcell_hf.evaluation.proteome_map.map import MapSettings, ProteomeMap, make_map
from subcell_hf.evaluation.proteome_map.map_files import write_map
from subcell_hf.evaluation.proteome_map.thumbnails import find_pictures, read_thumbnails
from subcell_hf.storage.folder_lock import claim_folder

_logger = logging.getLogger(__name__)


def map_proteome(
    table: str | Path, output: str | Path, settings: MapSettings | None = None, *, title: str = "Proteome map"
) -> ProteomeMap:
    """Map the proteome: aggregate cells to genes, correct batch effects, cluster, test for enrichment, draw a page.

    Cells that are not on the map are logged as warnings, by reason.

    Args:
        table: Embedding table with a column gene, or output folder of `subcell embed`.
        output: Folder for `map.html` and the other files of `write_map`.
        settings: Columns, correction, graph, clusters and gene sets.
        title: Heading of the interactive map.

    Returns:
        The map.

    Raises:
        InputError: If the table or a setting does not allow a map, or the folder is in use.
    """
    table, output = Path(table), Path(output)
    with claim_folder(output):
        made = make_map(table, settings or MapSettings())
        pictures = find_pictures(table)
        write_map(made, output, title, read_thumbnails(pictures, made.example_cells) if pictures else None)
    for reason, count in made.summary["cells_left_out"].items():
        _logger.warning("%s not on the map: %s.", counted(count, "cell is", "cells are"), reason)
    pieces = made.summary["pieces_of_the_graph"]
    if pieces > 1:
        _logger.info("The graph of genes has %d disconnected components; bridging edges were added.", pieces)
    return made
