"""The notebook of a published model: it runs top to bottom where this package is not installed."""

import json

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from subcell_hf.hub.cards.model_card import CardModel
from subcell_hf.hub.publishing.example_cell import ExampleCell

_SETUP = """\
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from PIL import Image
from transformers import AutoImageProcessor, {auto_class}

LOCAL = Path("config.json").is_file()  # True in a copy of the repository, whose files are used
NAME = str(Path.cwd()) if LOCAL else {repository}
REVISION = "main"  # for reproducible results use a commit: the code of the repository is executed


def fetch(file):
    return Path(file) if LOCAL else Path(hf_hub_download(NAME, file, revision=REVISION))
"""

_LOAD = """\
processor = AutoImageProcessor.from_pretrained(NAME, revision=REVISION, trust_remote_code=True)
model = {auto_class}.from_pretrained(NAME, revision=REVISION, trust_remote_code=True).eval()

with torch.no_grad():
    outputs = model(**processor(crop, pixel_size_um=PIXEL_SIZE_UM))
embedding = outputs.pooler_output[0].float().numpy()
embedding.shape
"""

_CROP = """\
FILES = {planes}
PIXEL_SIZE_UM = {pixel_size_um}
crop = {{channel: np.asarray(Image.open(fetch(file))) for channel, file in FILES.items()}}
{{channel: (plane.shape, plane.dtype) for channel, plane in crop.items()}}
"""

_LOCATIONS = """\
{scores}
best = sorted(zip(scores.tolist(), model.config.id2label.values()), reverse=True)[:5]
for score, location in best:
    print(f"{{location:30}} {{score:.3f}}")
"""

_ATTENTION = """\
heads = outputs.pooler_attentions[0].float().numpy()  # [heads, rows, columns]
total = heads.sum(axis=0)
grey = (255 * (total - total.min()) / (np.ptp(total) + 1e-12)).astype(np.uint8)
Image.fromarray(grey).resize((448, 448), Image.Resampling.BICUBIC)
"""

_OWN = """\
## Your own cells

Give a dict with one array for each of {channels}, or one array with these planes in this order; any depth, as acquired,
with the cell in the centre. `pixel_size_um=` is the pixel size of your microscope, `cell_masks=` masks
neighbouring cells, and a list of crops is a batch. See `processor.channel_mapping` and the model card."""


def make_notebook(model: CardModel, example: ExampleCell, repository: str, name: str) -> bytes:
    """Write the notebook.

    Args:
        model: What is published.
        example: The cell that lies in the repository.
        repository: `"owner/name"`, used where the notebook does not lie in a copy of it.
        name: Of the model, in words.

    Returns:
        The file's bytes, the same for the same arguments.
    """
    auto_class = "AutoModelForImageClassification" if model.classifies else "AutoModel"
    planes = json.dumps(example.planes, indent=4)
    cells = [
        new_markdown_cell(
            f"# {name}\n\nFrom one cell to its embedding{' and its protein location' if model.classifies else ''}. "
            "Needs `pip install torch transformers pillow`."
        ),
        new_code_cell(_SETUP.format(auto_class=auto_class, repository=json.dumps(repository))),
        new_markdown_cell("## A cell\n\nSimulated; one grey picture for each channel."),
        new_code_cell(_CROP.format(planes=planes, pixel_size_um=example.pixel_size_um)),
        new_code_cell('Image.open(fetch("example/composite.png"))'),
        new_markdown_cell("## Its embedding"),
        new_code_cell(_LOAD.format(auto_class=auto_class)),
    ]
    if model.classifies:
        multi = model.config.problem_type != "single_label_classification"
        scores = f"scores = outputs.logits[0].float().{'sigmoid()' if multi else 'softmax(-1)'}"
        cells += [new_markdown_cell("## Where the protein is"), new_code_cell(_LOCATIONS.format(scores=scores))]
    if model.config.pooling_type in ("gated", "attention"):
        cells += [new_markdown_cell("## Attention of the model"), new_code_cell(_ATTENTION)]
    cells.append(new_markdown_cell(_OWN.format(channels=", ".join(f"`{channel}`" for channel in example.channels))))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # nbformat's own are random
        cell["source"] = cell["source"].rstrip("\n")
    notebook = new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.validate(notebook)
    text: str = nbformat.writes(notebook)
    return (text + "\n").encode()
