"""A screen from tables to hits, files and a page."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subcell_hf.evaluation.screening.screen import ScreenResult, evaluate_screen
from subcell_hf.evaluation.screening.screen_report import (
    PAGE_FILE,
    WELLS_FILE,
    describe_hits,
    write_screen_report,
)
from subcell_hf.evaluation.screening.screen_text import left_out_sentences, warnings_of
from subcell_hf.evaluation.screening.settings import ScreenSettings
from subcell_hf.evaluation.screening.wells import WellTable, read_well_pictures, read_wells
from subcell_hf.storage.folder_lock import claim_folder

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScreenReport:
    """Result of `screen_plates`.

    Attributes:
        page: `screen.html`; `hits.csv`, `wells.csv`, `results.json` and more lie beside it.
        result: Everything that was found.
        sentence: The outcome in one sentence.
        left_out: Number of wells that took no part.
    """

    page: Path
    result: ScreenResult
    sentence: str
    left_out: int


def screen_plates(
    profiles: Sequence[str | Path],
    output: str | Path,
    settings: ScreenSettings | None = None,
    *,
    plate_maps: Sequence[str | Path] = (),
    compared: Mapping[str, str | Path] | None = None,
) -> ScreenReport:
    """Find the hits of a screen and write them.

    What needs attention, such as plates to repeat, is logged as warnings.

    Args:
        profiles: Tables of cells or wells; see `read_wells`.
        output: Folder for `hits.csv`, `wells.csv`, `plates.csv`, `results.json`, `screen.html` and the profiles that
            were compared. The page shows cells if the profiles are folders of `subcell embed` with pictures.
        settings: What the columns mean and what is done.
        plate_maps: What is in the wells, unless the profiles say it.
        compared: Name → other profiles of the same wells, such as classical features; tested beside the own ones.

    Raises:
        InputError: If a table cannot be read, columns are missing or wrong, nothing can be tested, or the folder is in
            use.
        OSError: If a file cannot be written.
    """
    settings = settings or ScreenSettings()
    output = Path(output)
    paths = [Path(path) for path in profiles]
    with claim_folder(output):
        table = _read(paths, [Path(path) for path in plate_maps], settings)
        others = {name: _read([Path(path)], [], settings) for name, path in (compared or {}).items()}
        result = evaluate_screen(table, settings, others)
        left_out = left_out_sentences(result, str(output / WELLS_FILE))
        write_screen_report(result, output, [*table.notes, *left_out], read_well_pictures(paths))
    for sentence in (*table.notes, *left_out, *warnings_of(result)):
        _logger.warning("%s", sentence)
    if result.batches is not None:
        _logger.info("%s", result.batches.sentence)
    return ScreenReport(output / PAGE_FILE, result, describe_hits(result), sum(result.summary["left_out"].values()))


def _read(profiles: Sequence[Path], plate_maps: Sequence[Path], settings: ScreenSettings) -> WellTable:
    columns = dict.fromkeys(
        [
            settings.treatment_column,
            settings.dose_column,
            settings.mechanism_column,
            *(column for column, _ in (*settings.controls, *settings.positive_controls)),
        ]
    )
    return read_wells(
        profiles, plate_maps, list(columns), settings.count_column, rows_are_cells=settings.rows_are_cells
    )
