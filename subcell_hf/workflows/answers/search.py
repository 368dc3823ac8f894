"""Cells like these, among the cells of an embedding table: `subcell search`, and `subcell_hf.search` of a notebook."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted
from subcell_hf.tables.cell_pictures import PICTURES_FILE, CellPicture, iterate_pictures
from subcell_hf.tables.embedding_table import CELL_ID, EmbeddingTable
from subcell_hf.tables.search.exact import NearestCells, directions_of, mean_direction, search_exactly, unit_direction
from subcell_hf.tables.search.index import IndexFacts, SearchIndex, has_index
from subcell_hf.tables.search.index_building import build_index
from subcell_hf.tables.search.queries import SearchFilters, SearchQuery, rows_of_cells, rows_to_search, select_rows
from subcell_hf.tables.search.stored_cells import Floats, Mask, SearchedCells, open_cells

SIMILARITY = "similarity"
"""Column of the cosine between a found cell and the query."""

_SHOWN = ("cell_id", SIMILARITY, "top_location_1", "locations", "gene", "antibody", "plate", "well")

MANY_CELLS = 200_000
"""Cells from which a note says that an index makes searches faster."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        cells: The most similar cells, most similar first: `cell_id`, `similarity` and the columns of the table.
        query: Description of the query.
        searched: Number of cells that could be found.
        page: Page with their pictures; None where none was asked for.
    """

    cells: pd.DataFrame
    query: str
    searched: int
    page: Path | None = None

    def as_text(self) -> str:
        """Columns separated by tabs, with the most common ones of the table."""
        if self.cells.empty:
            return ""
        shown = self.cells[[name for name in _SHOWN if name in self.cells.columns]]
        return str(shown.to_csv(sep="\t", index=False)).rstrip("\n")

    def as_json(self) -> str:
        """A list with one object per cell, of all columns."""
        return str(self.cells.to_json(orient="records", indent=1))


def search(
    table: EmbeddingTable | Path | str,
    query: str | Path | Sequence[str] | SearchQuery | npt.NDArray[np.floating],
    k: int = 10,
    *,
    exclude: str | Sequence[str] = (),
    where: str | None = None,
    pictured: bool = False,
    exact: bool = False,
) -> pd.DataFrame:
    """Find the cells that are most similar to a query, by the cosine of their embeddings.

    A Parquet table is read in a stream, or by its index (`build_search_index`) if it has one.

    Example:
        ```python
        import subcell_hf

        subcell_hf.search("run", "1_A1_1_3", k=20, exclude="antibody")
        ```

    Args:
        table: Table in memory; file, or output folder of `subcell embed`.
        query: `cell_id` of a cell, or several; `Path` of an image; embeddings `[width]` or `[cells, width]`; or a
            `SearchQuery`. Several cells are searched for by the mean of their directions, and are not found themselves.
        k: How many cells to find.
        exclude: `"plate"`, `"well"`, `"field"`, `"antibody"` or `"gene"`, or several: what found cells must not share
            with the query.
        where: Condition for found cells, as `pandas.DataFrame.eval` reads it.
        pictured: Whether to find only cells with a picture.
        exact: Whether to search without an index.

    Returns:
        One row per cell, most similar first: `cell_id`, `similarity` from -1 to 1, and the columns of the table. Fewer
        than `k` rows if fewer cells fulfil the conditions, which is warned of.

    Raises:
        InputError: If the table or the image cannot be read, or a cell, a column or a condition is wrong.
    """
    filters = SearchFilters(where, (exclude,) if isinstance(exclude, str) else tuple(exclude), pictured)
    given: SearchQuery | npt.NDArray[np.floating]
    if isinstance(query, Path):
        given = SearchQuery(image=query)
    elif isinstance(query, str | SearchQuery):
        given = SearchQuery(cells=(query,)) if isinstance(query, str) else query
    elif isinstance(query, np.ndarray) and query.dtype.kind == "f":
        given = query
    else:
        given = SearchQuery(cells=tuple(map(str, query)))
    return search_table(table, given, k, filters, exact=exact).cells


def search_table(
    table: EmbeddingTable | Path | str,
    query: SearchQuery | npt.NDArray[np.floating],
    k: int = 10,
    filters: SearchFilters | None = None,
    *,
    index: bool = False,
    exact: bool = False,
    output: str | Path | None = None,
) -> SearchResult:
    """Search a table, and write a page with the pictures of what was found; see `search`.

    Args:
        table: Table in memory, file, or output folder of `subcell embed`.
        query: What is searched for; an array holds embeddings.
        k: How many cells to find.
        filters: Which cells may be found.
        index: Whether to build the index first, or to resume building it.
        exact: Whether to search without an index.
        output: Page to write.

    Returns:
        The cells found.

    Raises:
        InputError: As `search`; also if the index does not fit the table.
        OSError: If a file cannot be written.
    """
    filters = filters or SearchFilters()
    if k < 1:
        raise InputError(f"k is {k}, expected at least 1.")
    if index and exact:
        raise InputError("An index is built (--index) and not used (--exact): choose one of the two.")
    cells = open_cells(table)
    if index:
        build_index(cells)
        if isinstance(query, SearchQuery) and query == SearchQuery():
            return SearchResult(cells.cells(None, []), "", 0)
    direction, own, what, shown = _read_query(cells, query)
    pictures = _pictures_of(cells)
    pictured = [] if not filters.pictured else [picture.cell_id for picture in _read_pictures(pictures)]
    allowed = rows_to_search(cells, filters, own, pictured)
    nearest = _search(cells, direction, k, allowed, exact)
    rows = [int(row) for row in nearest.rows[0]]
    frame = cells.cells(None, rows)
    frame = frame[[CELL_ID, *(name for name in frame.columns if name != CELL_ID)]]
    frame.insert(1, SIMILARITY, nearest.similarities[0].astype(np.float64).clip(-1, 1).round(4), allow_duplicates=True)
    if len(frame) < k:
        _logger.warning("Only %s of the %s wanted fulfil the conditions.", counted(len(frame), "cell"), k)
    page = None if output is None else Path(output)
    if page is not None:
        from subcell_hf.report.search_page import write_search_page

        wanted = {*frame[CELL_ID], *([] if own is None or own.sum() > k else cells.cells([CELL_ID])[CELL_ID][own])}
        found = {picture.cell_id: picture for picture in _read_pictures(pictures) if picture.cell_id in wanted}
        shown = shown or [found[name] for name in sorted(wanted - {*frame[CELL_ID]}) if name in found]
        write_search_page(page, what, shown, frame, found, searched=int(allowed.sum()))
        _logger.info("Open %s in a browser.", page)
    return SearchResult(frame, what, int(allowed.sum()), page)


def build_search_index(table: Path | str) -> IndexFacts:
    """Build an index of a table in `TABLE.search` beside it, resume an interrupted build, or check a complete one.

    Args:
        table: Parquet file, or output folder of `subcell embed`.

    Returns:
        Size of the index and its recall on a sample.

    Raises:
        InputError: If the table cannot be read, or faiss is not installed.
        OSError: If a file cannot be written.
    """
    return build_index(open_cells(table))


def _search(cells: SearchedCells, direction: Floats, k: int, allowed: Mask, exact: bool) -> NearestCells:
    """By the index if there is one."""
    if not exact and cells.path is not None and has_index(cells.path):
        return SearchIndex(cells).search(direction, k, allowed)
    if cells.count >= MANY_CELLS and not exact:
        _logger.warning("All %s cells are compared. --index builds an index, which later searches use.", cells.count)
    return search_exactly(cells, direction, k, allowed)


def _read_query(
    cells: SearchedCells, query: SearchQuery | npt.NDArray[np.floating]
) -> tuple[Floats, Mask | None, str, list[CellPicture]]:
    """Direction, cells of the table that it is of, description, and pictures that are not those of the table."""
    if not isinstance(query, SearchQuery):
        vectors = np.atleast_2d(query).astype(np.float32)
        if vectors.shape[1] != cells.width or not np.isfinite(vectors).all():
            raise InputError(
                f"The query has the shape {query.shape}, expected finite numbers [{cells.width}] or [cells, "
                f"{cells.width}] as {cells.name} has."
            )
        mean = directions_of(vectors).sum(axis=0, dtype=np.float64)
        return unit_direction(mean, "the query"), None, counted(len(vectors), "embedding"), []
    query.check()
    if query.image is not None:
        from subcell_hf.workflows.answers.image_query import embed_image  # imports torch, which takes seconds

        embedded = embed_image(cells, query.image)
        return embedded.direction, None, str(query.image), list(embedded.pictures)
    own = rows_of_cells(cells, query.cells) if query.cells else select_rows(cells, query.mean_of or "")
    what = ", ".join(query.cells[:3]) if query.cells else str(query.mean_of)
    if not own.any():
        raise InputError(f"No cell of {cells.name} fulfils {what!r} (--mean-of). Change the condition.")
    return mean_direction(cells, own), own, what + (f" and {len(query.cells) - 3} more" if query.cells[3:] else ""), []


def _pictures_of(cells: SearchedCells) -> Path | None:
    """The file with pictures of the table's cells."""
    path = None if cells.path is None else cells.path.parent / PICTURES_FILE
    return path if path is not None and path.is_file() else None


def _read_pictures(path: Path | None) -> list[CellPicture]:
    return [] if path is None else list(iterate_pictures(path))
