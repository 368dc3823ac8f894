"""The end of `make quickstart`: load the exported model back as a stranger would, then say what was learnt.

python recipes/show_results.py build/quickstart
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

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


def compare(results: dict[str, Any]) -> str:
    """What embeddings of each kind know of antibodies that training has not seen, one kind a line, the best first."""
    locations = {
        (row["model"], row["head"]): row["value"]
        for row in results["scores"]
        if (row["level"], row["metric"]) == ("cell", "macro_map")
    }
    lines = {row["model"]: row for row in results["cell_lines"]}
    plates = {row["model"]: row for row in results["batches"] if row["column"] == "plate"}
    text = [f"{'':<12}{'linear probe':>14}{'neighbours':>14}{'cell line':>14}{'plate':>14}"]
    for name, score in sorted(results["macro_map"].items(), key=lambda item: -item[1]):
        numbers = [score, locations[name, "neighbours"], *(rows[name]["balanced_accuracy"] for rows in (lines, plates))]
        text.append(f"{name:<12}" + "".join(f"{number:14.3f}" for number in numbers))
    chances = [next(iter(rows.values()))["chance"] for rows in (lines, plates)]
    text += [
        "",
        "linear probe, neighbours: macro mean average precision of the proteins' locations",
        f"cell line: balanced accuracy of its prediction; by chance {chances[0]:.2f}",
        f"plate: the same; by chance {chances[1]:.2f}, and better not above it",
    ]
    return "\n".join(f"  {line}".rstrip() for line in text)


def main(folder: Path) -> None:
    """Print the table of scores and where everything lies."""
    hide_weight_bars()
    results = json.loads((folder / "results.json").read_text())
    print(f"\nLoaded back with AutoModel.from_pretrained({str(folder / 'hub')!r}): {load_back(folder / 'hub')}")
    print(f"\nWhat embeddings know of antibodies that training has not seen:\n\n{compare(results)}\n")
    for verdict in results["verdicts"]:
        print(textwrap.fill(verdict, 100, initial_indent="  ", subsequent_indent="    "))
    print("\n  what new images show    ", folder / "report" / "report.html")
    print("  how good the model is   ", folder / "evaluation" / "report.html")
    print("  ready for the Hub       ", folder / "hub")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
