"""Cells that a search found, as one page: pictures beside what is known of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from subcell_hf.pages.rendering import render_page
from subcell_hf.report.columns import label_of
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.tables.cell_pictures import CellPicture

_FACTS = ("top_location_1", "locations", "gene", "antibody", "cell_line", "plate", "well", "field_of_view")


def write_search_page(
    path: Path,
    query: str,
    shown: Sequence[CellPicture],
    found: pd.DataFrame,
    pictures: Mapping[str, CellPicture],
    *,
    searched: int,
) -> None:
    """Write a page that needs no network.

    Args:
        path: File to write.
        query: Description of the query.
        shown: Pictures of the cells of the query, if there are any.
        found: Cells with `cell_id` and `similarity`, most similar first.
        pictures: `cell_id` → picture, for those that have one.
        searched: Number of cells that could be found.

    Raises:
        OSError: If the file cannot be written.
    """
    names = [name for name in _FACTS if name in found.columns]
    cells = [
        {
            "cell_id": str(row["cell_id"]),
            "similarity": f"{row['similarity']:.3f}",
            "facts": {label_of(name): str(row[name]).replace(";", ", ") for name in names if str(row[name])},
            "picture": pictures[row["cell_id"]].composite if row["cell_id"] in pictures else None,
        }
        for row in found.to_dict("records")
    ]
    page = render_page(
        Path(__file__).parent / "templates",
        "search.html.j2",
        query=query,
        shown=[{"cell_id": picture.cell_id, "picture": picture.composite} for picture in shown],
        cells=cells,
        searched=searched,
    )
    with write_atomically(path) as file:
        file.write(page.encode())
