"""A run's folder belongs to one training: a second one would mix its checkpoints with those of the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.utils import logging

from subcell_hf.errors import InputError

LOCK_FILE = ".training.lock"

logger = logging.get_logger(__name__)


@contextmanager
def claim_run_folder(folder: Path, *, resuming: bool) -> Iterator[None]:
    """Keep a folder for the training at hand; to be entered by one process of it.

    The lock is the operating system's, so that a killed training leaves none behind. Some network file systems have
    no locks; training goes on there, with a warning.

    Args:
        folder: Of the run; made if it is not there.
        resuming: Whether an earlier training is gone on with. A new one wants a folder without another's results.

    Raises:
        InputError: If another training is writing there, or a new one finds checkpoints or a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"{folder} is in use: another training is writing there. Wait for its end, or choose another output_dir."
        ) from None
    except OSError as error:
        logger.warning(f"{folder} cannot be locked ({error}): make sure that no other training writes there.")
    try:
        found = sorted(path.name for path in (*folder.glob("checkpoint-*"), *folder.glob("model")))
        if found and not resuming:
            raise InputError(
                f"{folder} holds {found[0]} of an earlier training, which a new one would replace. Go on with it by "
                "--resume_from_checkpoint true, choose another output_dir, or delete the folder."
            )
        yield
    finally:
        lock.release()
