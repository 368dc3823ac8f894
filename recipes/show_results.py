"""The end of `make quickstart`: load the exported model back as a stranger would, then say what was learnt.

python recipes/show_results.py build/quickstart
"""

import json
import sys
import textwrap
from pathlib import Path

import numpy as np
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from subcell_hf.progress import hide_weight_bars


def load_back(folder: Path) -> str:
    """Load a Hub folder with the code that it carries, and embed an empty-handed stranger's random crop."""
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    classifier = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    generator = np.random.default_rng(0)
    crop = {channel: generator.integers(0, 4096, (128, 128), dtype=np.uint16) for channel in processor.channels}
    inputs = processor(crop)
    embedding = model(**inputs).pooler_output
    probabilities = classifier(**inputs).logits.sigmoid()
    return f"{embedding.shape[1]} numbers per cell, {probabilities.shape[1]} locations"


def main(folder: Path) -> None:
    """Print the table of scores and where everything lies."""
    hide_weight_bars()
    results = json.loads((folder / "results.json").read_text())
    scores = results["macro_map"]
    print(f"\nLoaded back with AutoModel.from_pretrained({str(folder / 'hub')!r}): {load_back(folder / 'hub')}")
    print("\nProtein localization of antibodies that training has not seen (macro mean average precision):\n")
    for name, score in sorted(scores.items(), key=lambda item: -item[1]):
        print(f"  {name:<12}{score:6.3f}  {'█' * round(40 * score)}")
    print()
    for verdict in results["verdicts"]:
        print(textwrap.fill(verdict, 100, initial_indent="  ", subsequent_indent="    "))
    print("\n  what new images show    ", folder / "report" / "report.html")
    print("  how good the model is   ", folder / "evaluation" / "report.html")
    print("  ready for the Hub       ", folder / "hub")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
