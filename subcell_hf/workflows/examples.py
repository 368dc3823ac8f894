"""A small simulated plate to try the package on; what `subcell examples` runs."""

import csv
import io
import shlex
from dataclasses import dataclass
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.simulation.fields import PlannedField, plan_fields
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.storage.atomic import write_atomically

PLATE_MAP_FILE = "plate_map.csv"
"""Name of the plate map among the examples."""

_FIELDS, _SEED, _SIZE_PX = 8, 0, 768
_MODEL = "mae-rybg"


@dataclass(frozen=True)
class Examples:
    """What `write_examples` has written.

    Attributes:
        folder: Images, masks, `metadata.csv` and the plate map.
        fields: Number of fields of view.
        wells: Number of wells, each on one of two plates.
        locations: True locations of the proteins.
        plate_map: The plate map.
        command: The command that embeds the examples.
    """

    folder: Path
    fields: int
    wells: int
    locations: tuple[str, ...]
    plate_map: Path
    command: str


def write_examples(folder: str | Path, *, progress: bool = True) -> Examples:
    """Write a few simulated fields of view with the layout of a plate; takes a few seconds.

    Eight wells on two plates show four proteins of known location, each in two cell lines. Images are named as those
    of the Human Protein Atlas (`<plate>_<well>_<sample>_<colour>.png`) and have its four channels and pixel size.
    `metadata.csv` holds antibody, gene and locations of every field, `plate_map.csv` what is in the wells. Every call
    writes the same bytes; one that was interrupted is completed by the next.

    Args:
        folder: New, empty, or of an earlier call.
        progress: Whether to show a progress bar on stderr.

    Returns:
        What was written, and the command that embeds it.

    Raises:
        InputError: If the folder holds something else.
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a new or empty folder. Choose another folder.")
    planned = plan_fields(_FIELDS, _SEED)
    simulate_dataset(_FIELDS, _SEED, folder, size_px=_SIZE_PX, progress=progress)
    plate_map = folder / PLATE_MAP_FILE
    with write_atomically(plate_map) as file:
        file.write(_plate_map(planned).encode())
    return Examples(
        folder=folder,
        fields=len(planned),
        wells=len({(field.plate, field.well) for field in planned}),
        locations=tuple(dict.fromkeys(name for field in planned for name in field.antibody.locations)),
        plate_map=plate_map,
        command=shlex.join(
            ["subcell", "embed", str(folder), "--model", _MODEL, "--output", "results", "--plate-map", str(plate_map)]
        ),
    )


def _plate_map(planned: list[PlannedField]) -> str:
    """One row per well; the plates are replicates of each other."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("plate", "well", "antibody", "cell_line", "replicate"))
    for field in sorted(planned, key=lambda field: (field.plate, field.well)):
        writer.writerow((field.plate, field.well, field.antibody.antibody, field.cell_line, field.plate))
    return text.getvalue()
