"""Fine-tune a SubCell on your labelled crops, in a clone; the same as `-m subcell_hf.workflows.finetune`.

accelerate launch recipes/finetune.py finetune --init_checkpoint MODEL --data CROPS [--name value …]
"""

import sys

from subcell_hf.process import run_plainly
from subcell_hf.workflows.finetune import main

if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
