"""Simulated fields of view with known localization: the data set that needs no download.

A field is made in four steps, each with separate random numbers: shapes of cells (`simulated.outlines`,
`simulated.shapes`), densities of the landmarks (`simulated.landmarks`) and of the protein (`simulated.proteins`), and
the microscope (`simulated.optics`). What a field shows follows from its number alone (`simulated.fields`), so that a
longer data set begins with the shorter one.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from tqdm import tqdm

from subcell_hf.errors import InputError
from subcell_hf.ontology import CHANNEL_STAINS, PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.parallel.worker_pool import WorkerPool
from subcell_hf.simulation.antibodies import ProteinStyle, SimulatedAntibody, simulate_antibodies
from subcell_hf.simulation.fields import (
    PlannedField,
    SimulationSettings,
    plan_fields,
    planned_acquisition,
    simulate_field,
    simulate_planned_field,
)
from subcell_hf.simulation.outlines import CELL_LINES
from subcell_hf.simulation.proteins import PATTERNS
from subcell_hf.storage.atomic import TEMPORARY_SUFFIX, remove_leftovers, write_atomically
from subcell_hf.storage.folder_lock import LOCK_FILE, claim_folder
from subcell_hf.storage.plain_files import read_json
from subcell_hf.storage.records import describe_files, find_damage, read_record, write_record

__all__ = [
    "CELL_LINES",
    "METADATA_COLUMNS",
    "SIMULATED_LOCATIONS",
    "PlannedField",
    "ProteinStyle",
    "SimulatedAntibody",
    "SimulationSettings",
    "plan_fields",
    "simulate_antibodies",
    "simulate_dataset",
    "simulate_field",
    "simulate_planned_field",
]

SIMULATED_LOCATIONS = tuple(PATTERNS)
"""Names of the locations that can be simulated."""

METADATA_COLUMNS = (
    "field_of_view",
    "antibody",
    "gene",
    "locations",
    "cell_line",
    "plate",
    "well",
    "sample",
    "pixel_size_um",
)
"""Columns of `metadata.csv`, one row per field."""

_SETTINGS_FILE = "simulation.json"
_VERSION = 2
"""Version of the simulation, increased when a seed gives different pixels than before."""


def simulate_dataset(
    fields: int,
    seed: int,
    output: Path,
    *,
    antibodies: int | None = None,
    size_px: int = 1024,
    pixel_size_um: float = PUBLISHED_PIXEL_SIZE_UM,
    channels: Sequence[str] = tuple(CHANNEL_STAINS),
    bit_depth: int = 8,
    domain_randomization: bool = False,
    workers: int = 1,
    progress: bool = True,
) -> int:
    """Write a folder of simulated fields, named as the Human Protein Atlas names its images.

    `<plate>_<well>_<sample>_<colour>.png`, `<plate>_<well>_<sample>_mask.png` (uint16 labels), `metadata.csv` with
    `METADATA_COLUMNS`, `simulation.json` with the settings, and a hidden file per field with checksums. With
    `domain_randomization`, `acquisition.csv` lists what each field drew. Bytes depend on the arguments alone, not on
    `workers`. A run that was stopped is continued by the same call, and so is a
    finished one with more fields; damaged fields are made again.

    Args:
        fields: How many, at least 1.
        seed: Seed of the data set.
        output: Folder; new, empty, or of an earlier call with the same settings.
        antibodies: How many antibodies take turns; see `plan_fields`.
        size_px: Edge of the fields in pixels.
        pixel_size_um: Edge of a pixel in micrometres.
        channels: Colours to write.
        bit_depth: 8 or 16.
        domain_randomization: Whether every field draws its own acquisition; see `SimulationSettings`.
        workers: Processes; 1 works in this one.
        progress: Whether to show a progress bar on stderr.

    Returns:
        How many fields were made by this call; the others were there.

    Raises:
        InputError: If an argument is out of range, or the folder holds something else or more fields.
    """
    settings = SimulationSettings(
        seed, antibodies, size_px, pixel_size_um, tuple(channels), bit_depth, domain_randomization
    )
    if workers < 1:
        raise InputError(f"workers is {workers}: expected at least 1.")
    output = Path(output)
    planned = plan_fields(fields, seed, antibodies)
    with claim_folder(output):
        _open_folder(output, settings, planned)
        missing = [field for field in planned if not _is_done(output, field)]
        done = _write_fields(missing, settings, output, workers)
        for _ in tqdm(done, total=fields, initial=fields - len(missing), unit="field", disable=not progress):
            pass
        gone = [field.name for field in planned if not all(p.is_file() for p in _field_files(output, field, settings))]
        if gone:
            raise InputError(f"Files of {gone[0]} in {output} were removed while this ran. Run the same command again.")
        if domain_randomization:
            with write_atomically(output / "acquisition.csv") as file:
                file.write(_acquisition_table(planned, settings).encode())
        with write_atomically(output / "metadata.csv") as file:
            file.write(_metadata_table(planned, settings).encode())
    return len(missing)


def _open_folder(output: Path, settings: SimulationSettings, planned: Sequence[PlannedField]) -> None:
    """Make the folder ours, or make sure that it already is."""
    wanted: dict[str, Any] = json.loads(json.dumps({"version": _VERSION, **asdict(settings)}))
    # As folders of versions that did not know it: the plain ones stay byte-identical, and are continued.
    if not settings.domain_randomization:
        del wanted["domain_randomization"]
    marker = output / _SETTINGS_FILE
    if not marker.is_file():
        strangers = [path.name for path in output.glob("*") if not path.name.endswith((TEMPORARY_SUFFIX, LOCK_FILE))]
        if strangers:
            raise InputError(
                f"{output} is not empty (it holds {strangers[0]!r}) and has no {_SETTINGS_FILE}: choose a new folder."
            )
        with write_atomically(marker) as file:
            file.write((json.dumps(wanted, indent=2) + "\n").encode())
        return
    remove_leftovers(output)
    found = read_json(marker, "Choose another folder.")
    differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    if differing:
        listing = ", ".join(f"{key} {found.get(key)!r}, asked for {wanted.get(key)!r}" for key in differing)
        raise InputError(f"{output} was simulated with other settings ({listing}): choose another folder.")
    table = output / "metadata.csv"
    if table.is_file():
        with table.open(encoding="utf-8", newline="") as rows:
            held = sum(1 for _ in csv.DictReader(rows))
        if held > len(planned):
            raise InputError(f"{output} holds {held} fields, asked for {len(planned)}: choose another folder.")


def _is_done(output: Path, field: PlannedField) -> bool:
    """Whether every file of a field is as it was written; its record comes after them."""
    record = read_record(_record_of(output, field))
    return record is not None and not find_damage(output, record["files"])


def _record_of(output: Path, field: PlannedField) -> Path:
    # A hidden file, no folder: people clean and copy a folder of images file by file.
    return output / f".{field.name}.json"


def _field_files(output: Path, field: PlannedField, settings: SimulationSettings) -> list[Path]:
    """The files of a field."""
    return [output / f"{field.name}_{kind}.png" for kind in (*settings.channels, "mask")]


def _write_fields(
    missing: Sequence[PlannedField], settings: SimulationSettings, output: Path, workers: int
) -> Iterator[None]:
    """Write fields, yielding once for each that is done."""
    if workers == 1 or len(missing) < 2:
        for field in missing:
            _write_field(field, settings, output)
            yield
        return
    with WorkerPool(min(workers, len(missing))) as pool:
        tasks = [pool.submit(_write_field, field, settings, output) for field in missing]
        try:
            for task in as_completed(tasks):
                task.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


def _write_field(planned: PlannedField, settings: SimulationSettings, output: Path) -> None:
    """Simulate one field and write its files and their record."""
    field = simulate_planned_field(planned, settings)
    paths = _field_files(output, planned, settings)
    for path, plane in zip(paths, [*field.pixels, field.label_mask], strict=True):
        with write_atomically(path) as file:
            file.write(imagecodecs.png_encode(np.ascontiguousarray(plane), level=3))
    write_record(_record_of(output, planned), {"files": describe_files(output, paths)})


def _metadata_table(planned: Sequence[PlannedField], settings: SimulationSettings) -> str:
    """`metadata.csv` as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(METADATA_COLUMNS)
    for field in planned:
        antibody = field.antibody
        locations = ";".join(antibody.locations)
        place = (field.cell_line, field.plate, field.well, field.sample)
        writer.writerow([field.name, antibody.antibody, antibody.gene, locations, *place, settings.pixel_size_um])
    return text.getvalue()


def _acquisition_table(planned: Sequence[PlannedField], settings: SimulationSettings) -> str:
    """`acquisition.csv` as text."""
    rows = [{"field_of_view": field.name, **planned_acquisition(field, settings).columns()} for field in planned]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
