"""Lists of the inputs that a run skipped, or did not use, beside its results."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subcell_hf.storage.atomic import write_atomically

SKIPPED_FILE = "skipped.csv"
UNUSED_FILE = "unused.csv"


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV table whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())


def write_unused(folder: Path, unused: Mapping[str, str]) -> None:
    """Write which images belong to no input, or remove an earlier list where there is none.

    Args:
        folder: Of the run.
        unused: File → why it is not used.
    """
    if not unused:
        (folder / UNUSED_FILE).unlink(missing_ok=True)
        return
    rows = [{"file": file, "reason": reason} for file, reason in sorted(unused.items())]
    write_csv(folder / UNUSED_FILE, ("file", "reason"), rows)
