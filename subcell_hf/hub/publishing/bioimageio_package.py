"""A model as a bioimage.io package: the ONNX file, what goes in and comes out, test tensors, cover and licence.

The description is of format 0.5, https://github.com/bioimage-io/spec-bioimage-io; `bioimageio.core` validates and runs
the package, as do programs that take such packages.
"""

import io
import re
import zipfile
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml

from subcell_hf.hub.cards.card_facts import CardFacts
from subcell_hf.hub.publishing.example_cell import ExampleCell
from subcell_hf.hub.publishing.onnx_export import ONNX_FILE
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor

BIOIMAGEIO_FILE = "bioimageio.zip"

_FORMAT = "0.5.4"
_MOST_NAME = 64
_SPDX = {
    "apache-2.0": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause", "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc0-1.0": "CC0-1.0", "mit": "MIT",
}  # fmt: skip
"""The Hub's name of a licence → SPDX's; for others the package points to its licence file."""

_PAPER = {
    "text": (
        "Gupta et al., SubCell: Proteome-aware vision foundation models for microscopy capture single-cell biology, "
        "bioRxiv 2024"
    ),
    "doi": "10.1101/2024.12.06.627299",
}
_LABELS = {
    "pooler_output": "Embedding of the cell",
    "pooler_attentions": "Attention of each head to the whole image and to its patches",
    "probabilities": "Probability of each class",
}


def write_bioimageio(
    folder: Path, onnx_facts: dict[str, Any], processor: SubCellImageProcessor, example: ExampleCell, facts: CardFacts
) -> Path:
    """Write `bioimageio.zip` into a staged repository that has an ONNX file, a card and a licence.

    The test input is the example cell, masked and brought to the model's size as the image processor does; its scaling
    is a preprocessing step of the description.

    Args:
        folder: Staging folder.
        onnx_facts: As `export_onnx` returns them.
        processor: Of the model.
        example: Cell for the test tensors and the cover.
        facts: Of the card.

    Returns:
        The package.
    """
    onnxruntime = import_module("onnxruntime")

    taken: dict[str, Any] = {
        "cell_masks": torch.from_numpy(example.cell_mask)[None],
        "channels": list(example.channels),
        "pixel_size_um": example.pixel_size_um,
    }
    pixels = torch.from_numpy(example.pixels)[None]
    given, scaled = (
        processor(pixels, do_normalize=scaling, **taken)["pixel_values"].numpy().astype(np.float32)
        for scaling in (False, processor.do_normalize)
    )
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"pixel_values": scaled}), strict=True))
    content = {
        "weights.onnx": (folder / ONNX_FILE).read_bytes(),
        "test_input.npy": _npy(given),
        **{f"test_{name}.npy": _npy(values) for name, values in found.items()},
        "cover.png": example.files["example/composite.png"],
        "README.md": (folder / "README.md").read_bytes(),
        "LICENSE": (folder / "LICENSE").read_bytes(),
    }
    description = _describe(content, onnx_facts, processor, given.shape, found, facts)
    content["rdf.yaml"] = yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode()
    path = folder / BIOIMAGEIO_FILE
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name in sorted(content):  # the same content, the same bytes
            package.writestr(zipfile.ZipInfo(name), content[name], zipfile.ZIP_DEFLATED)
    return path


def _describe(
    content: dict[str, bytes],
    onnx_facts: dict[str, Any],
    processor: SubCellImageProcessor,
    shape: tuple[int, ...],
    outputs: dict[str, npt.NDArray[np.float32]],
    facts: CardFacts,
) -> dict[str, Any]:
    """The content of `rdf.yaml`."""

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": sha256(content[name]).hexdigest()}

    name = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", f"SubCell {facts.name}")[:_MOST_NAME]
    space = [
        {"type": "space", "id": axis, "size": size, "unit": "micrometer", "scale": processor.pixel_size_um or 1.0}
        for axis, size in (("y", shape[2]), ("x", shape[3]))
    ]
    if processor.pixel_size_um is None:
        space = [{key: value for key, value in axis.items() if key not in ("unit", "scale")} for axis in space]
    scaling = {"axes": ["channel", "y", "x"] if processor.normalize == "image" else ["y", "x"], "eps": 1e-6}
    return {
        "format_version": _FORMAT,
        "type": "model",
        "name": name,
        "description": (
            "Vision transformer for fluorescence images of single cells: one embedding per cell"
            + (" and probabilities of protein locations." if "probabilities" in outputs else ".")
            + " Give one cell per image, centred, with pixels outside of the cell set to 0"
            + (f", at {processor.pixel_size_um:g} µm per pixel." if processor.pixel_size_um else ".")
        ),
        "authors": [{"name": facts.holder}],
        "cite": [_PAPER],
        "license": _SPDX.get(facts.license, file("LICENSE")),
        "documentation": file("README.md"),
        "covers": [file("cover.png")],
        "tags": ["cells", "fluorescence-light-microscopy", "image-classification", "onnx", "2d", "subcell"],
        "inputs": [
            {
                "id": "pixel_values",
                "description": "Intensities as acquired",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": list(onnx_facts["channels"])},
                    *space,
                ],
                "data": {"type": "float32"},
                "preprocessing": [{"id": "scale_range", "kwargs": scaling}] if processor.do_normalize else [],
                "test_tensor": file("test_input.npy"),
            }
        ],
        "outputs": [
            {
                "id": key,
                "description": _LABELS[key],
                "axes": [{"type": "batch"}, *_output_axes(key, values.shape, onnx_facts["classes"])],
                "data": {"type": "float32"},
                "test_tensor": file(f"test_{key}.npy"),
            }
            for key, values in outputs.items()
        ],
        "weights": {"onnx": {**file("weights.onnx"), "opset_version": onnx_facts["opset"]}},
        "config": {"subcell_hf": {"training_data": {str(k): str(v) for k, v in facts.training_data.items()}}},
    }


def _output_axes(name: str, shape: tuple[int, ...], classes: list[str]) -> list[dict[str, Any]]:
    """The axes after that of the batch."""
    if name == "probabilities":
        return [{"type": "channel", "channel_names": list(classes)}]
    prefix = {"pooler_output": "embedding", "pooler_attentions": "head"}[name]
    channels: dict[str, Any] = {"type": "channel", "channel_names": [f"{prefix}_{n}" for n in range(shape[1])]}
    return [channels, *({"type": "index", "id": f"patch{n or ''}", "size": size} for n, size in enumerate(shape[2:]))]


def _npy(values: npt.NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(values))
    return file.getvalue()
