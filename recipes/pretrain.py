"""Pretrain SubCell from shards, in a clone; the same as `-m subcell_hf.workflows.pretrain`.

accelerate launch recipes/pretrain.py RECIPE --shards FOLDER [--name value …]
"""

import sys

from subcell_hf.process import run_plainly
from subcell_hf.workflows.pretrain import main

if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
