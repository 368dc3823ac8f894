"""Embed cells on many GPUs: `subcell embed`, for a launcher.

accelerate launch recipes/embed.py INPUT --model subcell-rybg --output OUT

The same as `accelerate launch -m subcell_hf.cli embed INPUT …`. Launchers know success and failure only, and take every
exit code but 0 for a crash. So under one, a run whose tables are complete ends with 0 even if `skipped.csv` lists
inputs, and says so; `subcell embed` with the same arguments then ends at once, with 3.
"""

import sys

from subcell_hf.cli import app

if __name__ == "__main__":
    app(["embed", *sys.argv[1:]])
