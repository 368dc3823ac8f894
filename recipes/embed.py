"""Embed cells on many GPUs: `subcell embed`, for a launcher.

accelerate launch recipes/embed.py INPUT --model subcell-rybg --output OUT

Launchers know success and failure only, and take every exit code but 0 for a crash. So under one, a run whose tables
are complete ends with 0 even if `skipped.csv` lists inputs, and says so; `subcell embed` with the same arguments then
ends at once, with 3.
"""

import os
import sys

from subcell_hf.cli import app

SOME_SKIPPED = 3


def is_launched() -> bool:
    """Whether `torchrun` or `accelerate launch` runs this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


if __name__ == "__main__":
    try:
        app(["embed", *sys.argv[1:]])
    except SystemExit as end:
        if end.code != SOME_SKIPPED or not is_launched():
            raise
        print("The tables are complete; skipped.csv lists what is not in them. For the launcher this is exit code 0.")
