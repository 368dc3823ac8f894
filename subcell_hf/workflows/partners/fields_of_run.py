"""The images and masks that a finished run was made from, read again as the run read them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.inference.sources.field_reading import read_all_planes
from subcell_hf.inference.sources.recognition import open_fields
from subcell_hf.tables.run_record import RUN_FILE, read_run
from subcell_hf.types import FieldOfView
from subcell_hf.workflows.embed_input import read_embed_input


def iterate_fields_of_run(folder: str | Path, names: Sequence[str]) -> Iterator[FieldOfView]:
    """Read fields of view with all their channels, segmented as in the run where they have no mask.

    Args:
        folder: Output folder of `subcell embed`.
        names: Of the fields, in the order wanted.

    Yields:
        One field after the other, with its mask.

    Raises:
        InputError: If the folder holds no run, the run was not made of images of fields of view, or they are gone.
    """
    folder = Path(folder)
    given = read_embed_input(read_run(folder), str(folder / RUN_FILE))
    if given is None:
        raise InputError(
            f"{folder} does not say which images it was made from, expected {RUN_FILE} of `subcell embed`. Give the "
            "output folder of a run on images."
        )
    source = open_fields(given.find(given.source), given.options)
    gone = [name for name in names if name not in source.fields]
    if gone:
        raise InputError(
            f"{given.source} has no field of view {gone[0]!r} any more, which {folder} was made from "
            f"({len(gone)} of {len(names)} are missing). Put the images back where they were."
        )
    for name in names:
        yield read_all_planes(source.fields[name], source.variants, source.segmentation)
