"""What commands share that write a folder."""

import functools
from collections.abc import Callable
from typing import Any


def claims_output(command: Callable[..., None]) -> Callable[..., None]:
    """A command that keeps its folder `--output` for itself from its beginning, and refuses one it cannot write."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        from subcell_hf.storage.folder_lock import claim_folder

        with claim_folder(options["output"]):
            command(**options)

    return run
