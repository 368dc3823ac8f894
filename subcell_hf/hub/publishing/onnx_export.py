"""A model as an ONNX file, for programs outside Python; written only if onnxruntime gives what torch gives."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from subcell_hf.errors import InputError
from subcell_hf.hub.cards.model_card import describe_scaling
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellPreTrainedModel

ONNX_FILE = "onnx/model.onnx"
ONNX_FACTS_FILE = "onnx/model.json"
TOLERANCE = 1e-5
"""Largest difference between onnxruntime and torch, absolute for values up to 1 and relative above."""

_OUTPUTS = ("pooler_output", "pooler_attentions", "probabilities")
_MOST_PATCHES = 512


def export_onnx(model: SubCellPreTrainedModel, processor: SubCellImageProcessor, folder: Path) -> dict[str, Any]:
    """Write `onnx/model.onnx` and `onnx/model.json`, which describes its input and outputs.

    Args:
        model: Encoder or classifier.
        processor: Its image processor, whose scaling is described.
        folder: Staging folder of a repository.

    Returns:
        The facts, as in `onnx/model.json` and, as texts, in the metadata of the ONNX file.

    Raises:
        InputError: If onnxruntime gives other numbers than torch.
    """
    import onnx
    import onnxruntime

    import_module("onnxscript")  # which torch's exporter needs

    path = folder / ONNX_FILE
    path.parent.mkdir()
    whole = _Outputs(model).eval()
    config: Any = model.config
    sizes = _example_sizes(config)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            whole,
            (torch.zeros(2, config.num_channels, *sizes[0]),),
            path,
            dynamo=True,
            dynamic_shapes={"pixel_values": _dynamic_shapes(config)},
            input_names=["pixel_values"],
            output_names=whole.names,
            external_data=False,
            verbose=False,
        )
    written = onnx.load(path)
    facts = _describe(model, processor, whole.names, written.opset_import[0].version)
    onnx.helper.set_model_props(written, {name: json.dumps(value) for name, value in facts.items()})
    onnx.save(written, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for cells, size in ((1, config.image_height_width), *((3, size) for size in sizes)):
        images = torch.rand(cells, config.num_channels, *size, generator=generator)
        with torch.no_grad():
            expected = whole(images)
        for name, found in zip(whole.names, session.run(None, {"pixel_values": images.numpy()}), strict=True):
            wanted = expected[name].numpy()
            difference = float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max())
            if not difference <= TOLERANCE:
                raise InputError(
                    f"The ONNX model differs from the model: {name} by {difference:.2g} for {cells} images of "
                    f"{size[0]}×{size[1]} px, expected at most {TOLERANCE:g}. Nothing was written. Export without "
                    "--onnx, or with other versions of torch, onnx and onnxruntime."
                )
    (folder / ONNX_FACTS_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def describe_onnx(facts: dict[str, Any]) -> str:
    """The section of a model card about the ONNX file.

    Args:
        facts: As `export_onnx` returns them.
    """
    return (
        f"\n## ONNX\n\n`{ONNX_FILE}` (opset {facts['opset']}, float32) runs in onnxruntime and in programs outside "
        f"Python. Input `pixel_values` `[batch, {len(facts['channels'])}, height, width]`: {facts['image_size']} "
        f"Channels in the order {', '.join(facts['channels'])}. Intensities: {facts['scaling']} Pixel size: "
        f"{facts['pixel_size_um']} µm. Outputs: {', '.join(f'`{name}`' for name in facts['outputs'])}. "
        f"`{ONNX_FACTS_FILE}` and the metadata of the file say the same. Its outputs equal those of torch within "
        f"{TOLERANCE:g}.\n"
    )


class _Outputs(nn.Module):
    """Encoder or classifier with a dict of tensors as its result."""

    def __init__(self, model: SubCellPreTrainedModel) -> None:
        super().__init__()
        self.model: Any = model.float()
        self.classifies = type(model).__name__ == "SubCellForImageClassification"
        self.multi_label = model.config.problem_type != "single_label_classification"
        pooled = model.config.pooling_type != "cls"
        self.names = [name for name, there in zip(_OUTPUTS, (True, pooled, self.classifies), strict=True) if there]

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        found = self.model(pixel_values, return_dict=True)
        values = {name: found[name] for name in self.names if name != "probabilities"}
        if self.classifies:
            logits = found["logits"]
            values["probabilities"] = logits.sigmoid() if self.multi_label else logits.softmax(-1)
        return values


def _example_sizes(config: Any) -> list[tuple[int, int]]:
    """Height and width to export and check with; for a ViT others than its own, so that positions are interpolated."""
    if config.backbone_config is not None:
        return [config.image_height_width]
    rows, columns = config.patch_grid
    return [((rows + 2) * config.patch_size, (columns + 4) * config.patch_size), (2 * config.patch_size,) * 2]


def _dynamic_shapes(config: Any) -> dict[int, Any]:
    dimension = torch.export.Dim
    if config.backbone_config is not None:
        return {0: dimension("batch")}
    edges = {
        axis: config.patch_size * dimension(name, min=2, max=_MOST_PATCHES)
        for axis, name in ((2, "rows"), (3, "columns"))
    }
    return {0: dimension("batch"), **edges}


def _describe(
    model: SubCellPreTrainedModel, processor: SubCellImageProcessor, outputs: list[str], opset: int
) -> dict[str, Any]:
    config: Any = model.config
    height, width = config.image_height_width
    sized = f"multiples of {config.patch_size} px from {2 * config.patch_size} px on; trained at {height}×{width} px."
    return {
        "opset": opset,
        "channels": list(config.channels),
        "image_size": sized if config.backbone_config is None else f"{height}×{width} px.",
        "scaling": describe_scaling(processor),
        "pixel_size_um": processor.pixel_size_um,
        "outputs": outputs,
        "classes": [config.id2label[number] for number in sorted(config.id2label)]
        if "probabilities" in outputs
        else [],
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's messages about its own steps."""
    verbosity, before = transformers_logging.get_verbosity(), logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
        transformers_logging.set_verbosity(verbosity)
