"""What commands say of metadata columns that cannot keep their names; before the work begins."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer


def say_renamed(source: str, metadata: Path | None, *, h5ad: bool = False, passes: Sequence[str] = ()) -> None:
    """Name the metadata columns that are kept under another name.

    Args:
        source: What a command was given: images, or a table that lists them; all else says nothing.
        metadata: Table of metadata, if one was given.
        h5ad: Whether an AnnData file is written, whose names may hold less.
        passes: Names of the passes of a run.
    """
    from subcell_hf.images.metadata_columns import metadata_table, renamed_columns
    from subcell_hf.images.tables import METADATA_FILE, read_column_names

    path = None if "://" in source else metadata_table(Path(source), metadata, METADATA_FILE)
    names = [] if path is None else read_column_names(path)
    renamed = renamed_columns(names)
    say(renamed, f"{path} has columns whose names our tables need; their values are kept as")
    if h5ad:
        from subcell_hf.tables.h5ad import stored_names

        kept = [renamed.get(name, name) for name in names]
        say(stored_names((*kept, *passes)), "The AnnData file cannot hold some names (HDF5); there they are")


def say(renamed: Mapping[str, str], beginning: str) -> None:
    """One line for names that are changed; nothing where none is."""
    if renamed:
        pairs = ", ".join(f"{other} ({name!r})" for name, other in renamed.items())
        typer.echo(f"Note: {beginning} {pairs}.", err=True)
