"""Notes and warnings about the input of a job: logged by the workflows, shown by the command line."""

import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from subcell_hf.cells.published.crops import PublishedCrops
from subcell_hf.cells.published.facts import published_cell_facts
from subcell_hf.cells.published.fetching import OTHER_LOCATIONS
from subcell_hf.errors import InputWarning, counted
from subcell_hf.hub.publishing.push import readable_size
from subcell_hf.images.image_tables.plate_maps import read_plate_map
from subcell_hf.images.metadata_columns import metadata_table, renamed_columns
from subcell_hf.images.packed.unpacking import unpacked
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.tables import METADATA_FILE, read_column_names
from subcell_hf.tables.h5ad import stored_names
from subcell_hf.tables.right_use import uses_of

_SHOWN_REASONS = 5
_MEASURED_CELLS = 16
SHARD_BYTES_PER_CELL = 400_000
"""Size of a cell of 448 px, 8 bits and four channels in a shard, about."""

_ASSUMED = {
    "HPA name": "assumed from the file names of the Human Protein Atlas",
    "model": "assumed to be the model's",
}

_logger = logging.getLogger(__name__)


def note_unused(unused: Mapping[str, str]) -> None:
    """Log which images are part of no field, and why.

    Args:
        unused: Image → reason.
    """
    if not unused:
        return
    _logger.info("Not used, listed in unused.csv (%d):", len(unused))
    files: dict[str, list[str]] = {}
    for file, reason in sorted(unused.items()):
        files.setdefault(reason, []).append(file)
    for reason, of_reason in list(files.items())[:_SHOWN_REASONS]:
        others = f" and {counted(len(of_reason) - 1, 'other')}" if len(of_reason) > 1 else ""
        _logger.info("  %s%s: %s.", of_reason[0], others, reason)


def note_published_cells(cells: PublishedCrops) -> None:
    """Log which of the published cells are about to be read, and under which licence.

    Args:
        cells: The cells.
    """
    chosen, facts = cells.cells, published_cell_facts()
    antibodies = counted(len(set(chosen.table["antibody"].to_pylist())), "antibody", "antibodies")
    _logger.info(
        "%s of %s in %s, about %s to read from %s.", counted(len(chosen), "published cell"), antibodies,
        counted(len(chosen.fields), "field"), readable_size(len(chosen) * facts.bytes_per_cell), cells.place,
    )  # fmt: skip
    _logger.info("Licence: %s (%s).", facts.license, facts.source)
    if unknown := chosen.unknown_antibodies:
        shown = ", ".join(unknown[:_SHOWN_REASONS])
        _logger.warning("Without cells: %s of the list: %s.", counted(len(unknown), "antibody", "antibodies"), shown)
    if others := cells.unlisted_locations():
        named = ", ".join(f"{name} ({count})" for name, count in sorted(others.items()))
        _logger.warning(
            "Locations that are no classes are kept in the column %s, in cells: %s.", OTHER_LOCATIONS, named
        )


def note_expected_time(cells: PublishedCrops, output: Path) -> None:
    """Read the first published cells, and log how long all will take at this rate and how large the shards will be.

    Args:
        cells: The cells.
        output: Folder of the shards.

    Raises:
        UnreachableError: If the cells cannot be reached.
    """
    rate = cells.measure(_MEASURED_CELLS)
    if not rate.bytes:
        return
    place = next(parent for parent in (output, *output.absolute().parents) if parent.exists())
    needed, free = len(cells.cells) * SHARD_BYTES_PER_CELL, shutil.disk_usage(place).free
    _logger.info(
        "The first %s took %.1f s (%s); all at this rate: %s (days, h:mm:ss), %s of shards.",
        counted(rate.cells, "cell"), rate.seconds, readable_size(rate.bytes),
        timedelta(seconds=round(rate.seconds * len(cells.cells) / rate.cells)), readable_size(needed),
    )  # fmt: skip
    if needed > free:
        _logger.warning("%s has %s left, less than the shards need. Choose fewer cells, or another folder.", place,
                        readable_size(free))  # fmt: skip


def note_pixel_sizes(record: Mapping[str, Any]) -> None:
    """Log the pixel sizes that were assumed because none was given.

    Args:
        record: Content of `run.json` or `crops.json`.
    """
    for size in record.get("pixel_sizes", ()):
        if size["from"] in _ASSUMED:
            cells = counted(size["cells"], "cell")
            _logger.info("Pixel size of %s: %g um, %s.", cells, size["pixel_size_um"], _ASSUMED[size["from"]])


def note_use(record: Mapping[str, Any]) -> None:
    """Warn where pixel size, window or masking differ from what a model was trained with.

    Args:
        record: Content of `run.json`.
    """
    for use in uses_of(record):
        for sentence in use.deviations():
            _logger.warning("Warning: %s. Published results do not apply (see the report).", sentence)


def note_doubtful_channels(found: Sequence[Mapping[str, Any]]) -> None:
    """Warn of channels that are constant or equal to another.

    Args:
        found: What `count_doubtful_channels` gives.
    """
    for row in list(found)[:_SHOWN_REASONS]:
        _logger.warning(
            "Warning: channels of %s, such as %s: %s. Check that every channel has its own file (column "
            "qc_doubtful_channels).",
            counted(row["fields"], "image"),
            row["first"],
            row["channels"],
        )


def note_renamed_columns(
    source: str, reading: ReadingOptions, *, h5ad: bool = False, passes: Sequence[str] = ()
) -> None:
    """Warn of metadata columns that are kept under another name, before the work begins.

    Args:
        source: Images, or a table that lists them; anything else has no metadata of this kind.
        reading: The tables of metadata and the plate maps, if any were given.
        h5ad: Whether an AnnData file is written, which cannot hold some names.
        passes: Names of the passes of a run.
    """
    path = None if "://" in source else metadata_table(unpacked(Path(source)), reading.metadata, METADATA_FILE)
    tables = {} if path is None else {path: tuple(read_column_names(path))}
    tables |= {path: read_plate_map(path).columns for path in reading.plate_maps}
    kept: list[str] = []
    for table, names in tables.items():
        renamed = renamed_columns(names)
        note_renamed(renamed, f"{table} has columns with reserved names; their values are stored as")
        kept += [renamed.get(name, name) for name in names]
    if h5ad:
        note_names_of_h5ad((*dict.fromkeys(kept), *passes))


def note_names_of_h5ad(names: Sequence[str]) -> None:
    """Warn of names that an AnnData file cannot hold."""
    note_renamed(stored_names(names), "Some names are not allowed in an AnnData file (HDF5) and are stored as")


def note_renamed(renamed: Mapping[str, str], beginning: str) -> None:
    """Warn of changed names in one sentence, if there are any.

    Args:
        renamed: Name → new name.
        beginning: Of the sentence.
    """
    if renamed:
        pairs = ", ".join(f"{other} ({name!r})" for name, other in renamed.items())
        warnings.warn(f"{beginning} {pairs}.", InputWarning, stacklevel=3)
