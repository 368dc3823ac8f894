"""Three encoders over simulated fields in one run: against the sum of their forward passes plus one reading.

The reference reads, segments and crops every field once and nothing else, and runs each encoder over all cells in
memory and nothing else. Ours is the whole job of `subcell embed` with three encoders: reading, cropping, forward
passes, checks and tables. All run in this process, in turn, and are measured in processor time, which other programs
do not change. The weights are random, in models small enough that reading is a large share of the work.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from subcell_hf.inference.encoders.finding import Model, declare_channels, find_encoders
from subcell_hf.inference.engine.batches import Batch, BatchReader
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.forward import BatchEmbedder
from subcell_hf.inference.engine.together import SourceOfEncoder, embed_together
from subcell_hf.inference.sources.blocks import SharedSource
from subcell_hf.inference.sources.recognition import input_channels, open_source
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.parallel.processes import Processes
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.tables.cell_pictures import PictureBudget

SHAPE = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 384}
PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"height": 224, "width": 224}}


def save_models(folder: Path) -> dict[str, str]:
    """Name → what is given as `--model`: a SubCell model, DINOv2 and ConvNeXt with random weights."""
    torch.manual_seed(0)
    config = SubCellConfig(**SHAPE)
    SubCellModel(config).save_pretrained(folder / "subcell")
    SubCellImageProcessor(config.channels).save_pretrained(folder / "subcell")
    others = {
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE, image_size=224, patch_size=14)),
        "convnext": transformers.ConvNextModel(
            transformers.ConvNextConfig(hidden_sizes=[24, 48, 96, 192], depths=[1, 1, 1, 1])
        ),
    }
    for name, model in others.items():
        model.save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return {name: str(folder / name) for name in ("subcell", *others)}


def seconds_of(function: Callable[[], Any]) -> float:
    """Processor time of a function, all threads together."""
    began = time.process_time()
    function()
    return time.process_time() - began


def read_all(source: SharedSource, encoders: dict[str, tuple[Model, ...]]) -> Iterator[list[Batch]]:
    """The batches of every encoder, of one after the other."""
    for models in encoders.values():
        view = SourceOfEncoder(source, tuple(model.variant for model in models))
        reader = BatchReader(view, PictureBudget(0, 0), 16)
        yield [item for item in reader.batches([(0, view.names())]) if isinstance(item, Batch)]


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=200)
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = EmbedSettings(
        device="cpu", precision="fp32", engine_backend="torch", batch_size=16, pictures=0, h5ad=False, progress=False
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate_dataset(options.fields, 0, folder / "images", size_px=options.size_px, progress=False)
        encoders = {}
        for name, text in save_models(folder).items():
            found = declare_channels(find_encoders(f"{name}={text}"), lambda: input_channels(folder / "images"))
            encoders[name] = found
        source, _, _ = open_source(folder / "images", [model for own in encoders.values() for model in own])
        choices = [tuple(model.variant for model in models) for models in encoders.values()]
        ours, reading, forward = [], [], []
        for repeat in range(options.repeats):

            def run(repeat: int = repeat) -> None:
                embed_together(
                    source,
                    encoders,
                    folder / f"run {repeat}",
                    settings,
                    processes=Processes(),
                    records={name: {} for name in encoders},
                )

            def read() -> None:
                for name in source.names():
                    source.read_each(name, choices[:1])

            ours.append(seconds_of(run))
            reading.append(seconds_of(read))
            each = []
            for models, batches in zip(encoders.values(), read_all(source, encoders), strict=True):
                embedder = BatchEmbedder(models, torch.device("cpu"), "fp32", 16)

                def embed(embedder: BatchEmbedder = embedder, batches: list[Batch] = batches) -> None:
                    for batch in batches:
                        embedder.embed(batch)

                each.append(seconds_of(embed))
            forward.append(each)
        reference = min(reading) + sum(min(times) for times in zip(*forward, strict=True))
        result = {
            "name": "encoders",
            "reference": "forward passes of each encoder over cells in memory, plus one reading of the fields",
            "fields": options.fields,
            "cells": sum(len(batch.places) for batch in batches),
            "threads": options.threads,
            "ours_cpu_s": round(min(ours), 2),
            "reading_cpu_s": round(min(reading), 2),
            "forward_cpu_s": dict(zip(encoders, [round(min(t), 2) for t in zip(*forward, strict=True)], strict=True)),
            "reference_cpu_s": round(reference, 2),
            "ratio": round(min(ours) / reference, 3),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
