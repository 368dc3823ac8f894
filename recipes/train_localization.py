"""Train location classifiers on frozen embeddings, in a clone; as `-m subcell_hf.workflows.train_localization`.

python recipes/train_localization.py --table embeddings.parquet --encoder subcell-rybg --output subcell-rybg-located
"""

import sys

from subcell_hf.process import run_plainly
from subcell_hf.workflows.train_localization import main

if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
