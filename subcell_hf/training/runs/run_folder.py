"""A run's folder belongs to one training: a second one would mix its checkpoints with those of the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.storage.folder_lock import claim_folder


@contextmanager
def claim_run_folder(folder: Path, *, resuming: bool) -> Iterator[None]:
    """Keep a folder for the training at hand; to be entered by one process of it.

    Args:
        folder: Of the run; made if it is not there.
        resuming: Whether an earlier training is resumed. A new one wants a folder without another's results.

    Raises:
        InputError: If another training is writing there, or a new one finds checkpoints or a model.
    """
    with claim_folder(folder):
        found = sorted(path.name for path in (*folder.glob("checkpoint-*"), *folder.glob("model")))
        if found and not resuming:
            raise InputError(
                f"{folder} contains {found[0]} of an earlier training; a new training would replace it. Resume it with "
                "--resume_from_checkpoint true, choose another output_dir, or delete the folder."
            )
        yield
