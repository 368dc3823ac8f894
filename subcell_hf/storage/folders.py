"""Folders that appear whole or not at all, as files do in `storage.atomic`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.storage.atomic import TEMPORARY_SUFFIX, flush_to_disk, hold, remove_if_abandoned, temporary_path
from subcell_hf.storage.folder_lock import claim_output
from subcell_hf.storage.full_disk import naming_full_disk


@contextmanager
def write_folder_atomically(output: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Make a folder that appears under its name only when it is complete.

    What killed writers of the same folder have left beside it is removed.

    Args:
        output: The folder; an empty one may be there already.
        replace: Whether a folder with content is replaced, too.

    Yields:
        An empty folder beside it, to be filled.

    Raises:
        InputError: If another job writes the same folder, or has given it content meanwhile.
        OSError: If something cannot be written; a full disk is named.
    """
    final = Path(output).resolve()  # beside the folder itself, not beside a link to it
    if final.is_mount():
        raise InputError(
            f"{output} is the root of a file system, which cannot be replaced as a whole. Choose a folder inside it, "
            f"such as {final / 'model'}."
        )
    staging = temporary_path(final)
    descriptor = None
    held = ExitStack()
    try:
        with naming_full_disk(output):
            held.enter_context(claim_output(final))
            for leftover in final.parent.glob(f".*{TEMPORARY_SUFFIX}"):
                same = leftover.name.startswith(f".{final.name[:40]}.") and len(leftover.name) == len(staging.name)
                if same and leftover.is_dir():
                    remove_if_abandoned(leftover)
            staging.mkdir()
            if os.name == "posix":
                descriptor = os.open(staging, os.O_RDONLY)
                hold(descriptor)
            yield staging
            if final.is_dir() and not replace:
                if any(final.iterdir()):
                    raise InputError(f"{output} was filled by another job in the meantime. Choose another output.")
                final.rmdir()
            publish_folder(staging, final)
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(staging, ignore_errors=True)
        held.close()


def publish_folder(staging: Path, final: Path) -> None:
    """Flush a written folder to the disk and give it its name; an existing folder is replaced.

    Files get the modes that the process's umask allows: some libraries, safetensors among them, write files that only
    their owner can read.
    """
    allowed = staging.stat().st_mode & 0o666  # the umask is in the mode of a folder that mkdir has made
    for path in staging.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o666 != allowed:
            path.chmod(allowed)
    for path in (*staging.rglob("*"), staging):
        flush_to_disk(path)
    if final.exists():
        remove_folder(final)
    staging.rename(final)
    flush_to_disk(final.parent)
    shutil.rmtree(_hidden(final), ignore_errors=True)  # of a run that was killed while it replaced the folder


def remove_folder(path: Path) -> None:
    """Remove a folder in one step, so that a kill leaves no half of it under its name."""
    hidden = _hidden(path)
    if hidden.exists():
        shutil.rmtree(hidden)
    path.rename(hidden)
    shutil.rmtree(hidden)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.removed")
