"""Embed cells on many GPUs: `subcell embed`, for a launcher.

accelerate launch recipes/embed.py INPUT --model subcell-rybg --output OUT
"""

import sys

from subcell_hf.cli import app

if __name__ == "__main__":
    app(["embed", *sys.argv[1:]])
