"""Several pretrainings one after the other in the processes of one launcher, whose start takes longer than they do.

torchrun … tests/workflows/launched_recipes.py COMMAND_LINES.json
"""

import json
import sys
from pathlib import Path

from subcell_hf.process import run_plainly
from subcell_hf.workflows.pretrain import main

if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            run_plainly(lambda words=words: main(words))
        except SystemExit as end:
            if end.code:
                raise
