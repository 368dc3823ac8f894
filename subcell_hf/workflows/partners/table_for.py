"""Embedding tables in the formats of other programs: what `subcell table` runs."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from subcell_hf.cells.partners.h5sc import H5SC_SUFFIX
from subcell_hf.errors import InputError, counted
from subcell_hf.tables.cell_pictures import PICTURES_FILE, iterate_pictures
from subcell_hf.tables.files import EmbeddingTable, iterate_table, read_table, write_h5ad
from subcell_hf.tables.partners.cellmaps import write_cellmaps
from subcell_hf.tables.partners.h5sc import write_h5sc
from subcell_hf.tables.partners.places import rows_by_field
from subcell_hf.tables.partners.profiles import write_profiles
from subcell_hf.tables.partners.qupath import write_qupath
from subcell_hf.types import FieldOfView
from subcell_hf.workflows.notes import note_names_of_h5ad
from subcell_hf.workflows.partners.fields_of_run import iterate_fields_of_run

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableFor:
    """A table in the format of another program.

    Attributes:
        path: File or folder that was written.
        rows: Number of rows: cells, or genes for `cellmaps`.
        renamed: Name of a field of view or column → what it is called there, where the format does not allow it; for
            `qupath` the file of each field.
    """

    path: Path
    rows: int
    renamed: Mapping[str, str] = field(default_factory=dict)


def write_table_for(table: str | Path, to: str, output: str | Path) -> TableFor:
    """Write an embedding table for another program.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        to: `"anndata"` (`.h5ad`), `"profiles"` (`.csv` or `.parquet`), or the name of a folder: `"cellmaps"`,
            `"datasets"`, `"lance"`; `"spatialdata"`, `"qupath"` and `"h5sc"` also read the images of the run again.
        output: New file or folder; a file of that name is replaced.

    Returns:
        What was written.

    Raises:
        InputError: If the format is unknown, the table cannot be read or does not hold what the format needs, the
            folder has content, or a library is missing.
        OSError: If a file cannot be written.
    """
    table, output = Path(table), Path(output)
    if to not in FORMATS:
        raise InputError(f"Unknown format {to!r}: choose one of {', '.join(FORMATS)}.")
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output} is a folder with content, expected a new file or folder. Choose another --output.")
    return FORMATS[to](table, output)


def _anndata(table: Path, output: Path) -> TableFor:
    if output.suffix != ".h5ad":
        raise InputError(f"Cannot write {output}: expected a file ending in .h5ad.")
    content = read_table(table)
    note_names_of_h5ad([str(name) for name in content.cells.columns])
    write_h5ad(content, output)
    return TableFor(output, len(content))


def _profiles(table: Path, output: Path) -> TableFor:
    return TableFor(output, write_profiles(iterate_table(table), output))


def _cellmaps(table: Path, output: Path) -> TableFor:
    content = read_table(table)
    genes = write_cellmaps(content, output)
    used = int(genes.provenance["aggregation"]["cells"])
    if used < len(content):
        left = counted(len(content) - used, "row")
        _logger.warning("%s of %s without a gene left out.", left, table)
    return TableFor(output, len(genes))


def _lance(table: Path, output: Path) -> TableFor:
    from subcell_hf.tables.partners.lance import write_lance

    return TableFor(output, write_lance(iterate_table(table), output))


def _datasets(table: Path, output: Path) -> TableFor:
    from subcell_hf.tables.partners.dataset_folder import write_dataset

    file = (table if table.is_dir() else table.parent) / PICTURES_FILE
    pictures = iterate_pictures(file) if file.is_file() else iter(())
    return TableFor(output, write_dataset(iterate_table(table), pictures, output))


_FieldsWriter = Callable[[EmbeddingTable, Iterable[FieldOfView], Path], dict[str, str]]


def _with_fields(table: Path, output: Path, write: _FieldsWriter) -> TableFor:
    """Write a table with the images of its run."""
    content = read_table(table)
    names = list(rows_by_field(content.cells))
    fields = iterate_fields_of_run(table if table.is_dir() else table.parent, names)
    return TableFor(output, len(content), write(content, fields, output))


def _qupath(table: Path, output: Path) -> TableFor:
    return _with_fields(table, output, write_qupath)


def _h5sc(table: Path, output: Path) -> TableFor:
    if output.suffix != H5SC_SUFFIX:
        raise InputError(f"Cannot write {output}: expected a file ending in {H5SC_SUFFIX}.")
    return _with_fields(table, output, write_h5sc)


def _spatialdata(table: Path, output: Path) -> TableFor:
    from subcell_hf.tables.partners.spatialdata_store import write_spatialdata

    if output.suffix != ".zarr":
        raise InputError(f"Cannot write {output}: expected a folder ending in .zarr.")
    return _with_fields(table, output, write_spatialdata)


FORMATS: Mapping[str, Callable[[Path, Path], TableFor]] = {
    "anndata": _anndata,
    "cellmaps": _cellmaps,
    "datasets": _datasets,
    "h5sc": _h5sc,
    "lance": _lance,
    "profiles": _profiles,
    "qupath": _qupath,
    "spatialdata": _spatialdata,
}
"""Name of each format → what writes it."""
