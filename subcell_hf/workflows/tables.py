"""Embedding tables aggregated, written for other tools and shown: `subcell aggregate`, `portable` and `report`."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from subcell_hf.errors import InputError, counted
from subcell_hf.storage.input_lists import write_csv
from subcell_hf.tables.aggregation import Aggregation, aggregate_blocks
from subcell_hf.tables.attention_maps import ATTENTION_FILE, CellAttention, iterate_attention
from subcell_hf.tables.cell_pictures import PICTURES_FILE, iterate_attention_of_pictures
from subcell_hf.tables.files import (
    EMBEDDINGS_FILE,
    EmbeddingTable,
    iterate_table,
    read_table,
    write_h5ad,
    write_parquet,
)
from subcell_hf.tables.plate_maps import PlateMapJoin
from subcell_hf.tables.portable import PortableReport, write_portable_files
from subcell_hf.tables.run_record import encoder_folders, read_run
from subcell_hf.workflows.notes import note_names_of_h5ad

MOST_CELLS_SHOWN = 20_000

_WRITERS = {".parquet": write_parquet, ".h5ad": write_h5ad}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AggregatedTable:
    """What an aggregation wrote.

    Attributes:
        aggregation: The groups, and what was left out.
        cells: Number of cells that were aggregated.
        skipped_file: CSV with the cells that name no group; None where there are none.
    """

    aggregation: Aggregation
    cells: int
    skipped_file: Path | None

    @property
    def table(self) -> EmbeddingTable:
        """One row per group."""
        return self.aggregation.table


def aggregate_table(
    table: str | Path, by: str, output: str | Path, *, probabilities: str = "mean", plate_maps: Sequence[Path] = ()
) -> AggregatedTable:
    """Aggregate the cells of a table to groups and write those; see `aggregate_blocks`.

    Tables in our Parquet are read block by block, so that memory grows with the groups, not with the cells.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        by: `"field"`, `"well"`, `"antibody"` or `"gene"`.
        output: File to write: `.parquet`, or `.h5ad` for scanpy. Cells without a group are listed beside it, in
            `<output>.skipped.csv`.
        probabilities: `"mean"`, or `"max"` over the cells of a group, which keeps rare locations.
        plate_maps: Tables of what is in the wells, see `read_plate_map`; joined to the cells by plate and well. Wells
            and rows without the other are logged as warnings.

    Raises:
        InputError: If the output has another suffix, the table cannot be read or aggregated, or a plate map is wrong or
            says nothing of any cell.
        OSError: If a file cannot be written.
    """
    table, output = Path(table), Path(output)
    if output.suffix not in _WRITERS:
        raise InputError(f"Cannot write {output}: expected a file ending in {' or '.join(_WRITERS)}.")
    blocks, maps = iterate_table(table), PlateMapJoin(plate_maps)
    if plate_maps:
        blocks = map(maps.to_table, blocks)
    result = aggregate_blocks(blocks, by, probabilities=probabilities)
    for path, sentence in maps.describe().items():
        _logger.warning("%s: %s.", path, sentence)
    if output.suffix == ".h5ad":
        note_names_of_h5ad([str(name) for name in result.table.cells.columns])
    _WRITERS[output.suffix](result.table, output)
    for note in result.notes:
        _logger.warning("Note: %s", note)
    skipped_file = output.with_name(output.name + ".skipped.csv")
    skipped_file.unlink(missing_ok=True)
    if result.skipped:
        rows = [{"cell_id": cell, "reason": reason} for cell, reason in result.skipped.items()]
        write_csv(skipped_file, ["cell_id", "reason"], rows)
    cells = int(result.table.cells["cell_count"].sum())
    return AggregatedTable(result, cells, skipped_file if result.skipped else None)


def write_portable(
    table: str | Path, output: str | Path, *, form: str = "2025", csv_only: bool = False
) -> PortableReport:
    """Write a table in SubCellPortable's format, with the attention maps beside it.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        output: Folder to write; files with the same names are replaced.
        form: Version of the format: `"2025"` or `"2024"`.
        csv_only: Whether to write only `result.csv`, no files per cell.

    Returns:
        Numbers of cells and of attention maps.

    Raises:
        InputError: If the table cannot be read, or a cell's name cannot name a file.
        OSError: If a file cannot be written.
    """
    table, output = Path(table), Path(output)
    folder, file = (table, table / EMBEDDINGS_FILE) if table.is_dir() else (table.parent, table)
    attention: Iterable[CellAttention] = ()
    if not csv_only and (folder / ATTENTION_FILE).is_file():
        attention = iterate_attention(folder / ATTENTION_FILE)
    elif not csv_only and (folder / PICTURES_FILE).is_file():
        attention = iterate_attention_of_pictures(folder / PICTURES_FILE)
    cells = file if file.suffix == ".parquet" and file.is_file() else read_table(table)
    written = write_portable_files(cells, output, form=form, single_files=not csv_only, attention=attention)
    files = "result.csv" if csv_only else "result.csv and the arrays of every cell"
    rows, maps = counted(written.cells, "cell"), counted(written.attention_maps, "attention map")
    _logger.info("%s contains %s: %s, %s.", output, files, rows, maps)
    encoders = [model["name"] for model in read_run(folder).get("models", ()) if "encoder" in model]
    if encoders and not csv_only:
        _logger.info("%s has no attention maps.", encoders[0])
    elif not csv_only and written.attention_maps < written.cells:
        _logger.info("Attention was stored for some cells only; `subcell embed --portable` stores it for all cells.")
    return written


def check_report_libraries() -> None:
    """Check before a long run that the report can be drawn after it.

    Raises:
        InputError: If a library that draws the report is not installed.
    """
    missing = [name for name in ("jinja2", "sklearn", "umap") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"report.html requires {', '.join(missing)}, not installed here. Install with: "
            "pip install 'subcell-hf[analysis]', or disable the page with --no-report."
        )


def draw_report(
    folder: str | Path,
    *,
    output: str | Path | None = None,
    title: str | None = None,
    max_cells: int = MOST_CELLS_SHOWN,
    seed: int = 0,
) -> Path:
    """Write a self-contained page with the cells, locations, map, quality and skipped inputs of a run.

    Args:
        folder: Output folder of `subcell embed`; of a run of several encoders each page is drawn, with links to the
            others.
        output: File to write; None: `report.html` in the folder.
        title: Title of the page; None: the name of the folder.
        max_cells: Maximum number of cells on the map and in the table.
        seed: Seed of the map and of the selection of cells.

    Returns:
        The page; of several encoders `index.html`, which shows them side by side.

    Raises:
        InputError: If a library is missing, the folder holds no table with cells, or one file is given for several
            encoders.
        OSError: If the page cannot be written.
    """
    folder = Path(folder)
    output = None if output is None else Path(output)
    check_report_libraries()
    from subcell_hf.report.page import write_report

    if folders := encoder_folders(folder):
        if output is not None:
            raise InputError(f"{folder} holds {len(folders)} encoders, each with a page. Leave --output out.")
        for own in folders.values():
            draw_report(own, title=title, max_cells=max_cells, seed=seed)
        return draw_encoders_page(folder, title=title, seed=seed)
    path = write_report(folder, title=title, max_cells=max_cells, seed=seed, output=output)
    _logger.info("Open %s (%.1f MB) in a browser.", path, path.stat().st_size / 1e6)
    return path


def draw_encoders_page(folder: str | Path, *, title: str | None = None, seed: int = 0) -> Path:
    """Write the page that shows the encoders of a run side by side.

    Args:
        folder: Output folder of `subcell embed` with several encoders.
        title: Title of the page; None: the name of the folder.
        seed: Seed of the maps and of the selection of cells.

    Returns:
        The page, `index.html` in the folder.

    Raises:
        InputError: If the folder holds no encoders, or they have no cell in common.
        OSError: If the page cannot be written.
    """
    from subcell_hf.report.encoders_page import write_encoders_page

    path = write_encoders_page(Path(folder), title=title, seed=seed)
    _logger.info("Open %s (%.1f MB) in a browser: the encoders side by side.", path, path.stat().st_size / 1e6)
    return path
