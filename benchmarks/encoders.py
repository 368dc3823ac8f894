"""Three encoders over simulated fields in one run: against the sum of their forward passes plus one reading.

The reference reads, segments and crops every field once and nothing else, and runs each encoder over all cells in
memory and nothing else. Ours is the whole job of `subcell embed` with three encoders: reading, cropping, forward
passes, checks and tables. All run in this process, in turn, and are measured in processor time, which other programs
do not change. The weights are random, in models small enough that reading is a large share of the work.

    OMP_NUM_THREADS=1 python benchmarks/encoders.py --work FOLDER

keeps the fields and finished rounds in FOLDER, and the same command resumes. A round of 200 fields takes about 80 s.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from subcell_hf.inference.encoders.finding import Model, declare_channels, find_encoders
from subcell_hf.inference.engine.batches import Batch, Batcher, ReadPart
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.forward import BatchEmbedder
from subcell_hf.inference.engine.together import embed_together
from subcell_hf.inference.sources.blocks import SharedSource
from subcell_hf.inference.sources.recognition import input_channels, open_source
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.parallel.processes import Processes
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.storage.plain_files import read_json

SHAPE = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 384}
CELLS_PER_BATCH = 16
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


def forward_seconds(source: SharedSource, encoders: Mapping[str, Sequence[Model]]) -> tuple[dict[str, float], int]:
    """Processor time of the forward passes of each encoder over all cells, whose reading is not counted; the cells."""
    embedders, batchers = {}, {}
    for name, models in encoders.items():
        embedders[name] = BatchEmbedder(models, torch.device("cpu"), "fp32", CELLS_PER_BATCH)
        batchers[name] = Batcher(CELLS_PER_BATCH)
    seconds, cells = dict.fromkeys(encoders, 0.0), 0

    def embed(name: str, batch: Batch | ReadPart) -> None:
        if isinstance(batch, Batch):
            seconds[name] += seconds_of(lambda: embedders[name].embed(batch))

    choices = [tuple(model.variant for model in models) for models in encoders.values()]
    for field in source.names():
        blocks = source.read_each(field, choices)
        cells += len(blocks[0])
        for name, block in zip(encoders, blocks, strict=True):
            for batch in batchers[name].take(block):
                embed(name, batch)
    for name, batcher in batchers.items():
        for batch in batcher.finish(0):
            embed(name, batch)
    return seconds, cells


def measure_round(source: SharedSource, encoders: Mapping[str, Sequence[Model]], output: Path) -> dict[str, Any]:
    """Ours, one reading, and the forward passes of each encoder, in processor time."""
    settings = EmbedSettings(
        device="cpu",
        precision="fp32",
        engine_backend="torch",
        batch_size=CELLS_PER_BATCH,
        pictures=0,
        h5ad=False,
        progress=False,
    )
    shutil.rmtree(output, ignore_errors=True)  # of a round that was interrupted
    records: dict[str, dict[str, Any]] = {name: {} for name in encoders}
    ours = seconds_of(
        lambda: embed_together(source, encoders, output, settings, processes=Processes(), records=records)
    )
    first = [tuple(model.variant for model in next(iter(encoders.values())))]
    reading = seconds_of(lambda: [source.read_each(name, first) for name in source.names()])
    forward, cells = forward_seconds(source, encoders)
    return {"ours": ours, "reading": reading, "forward": forward, "cells": cells}


def main() -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=200)
    parser.add_argument("--size-px", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder that is kept; default: a temporary one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        kind = f"{options.fields} fields of {options.size_px} px, threads {options.threads}"
        images = folder / f"{options.fields} fields of {options.size_px} px"
        simulate_dataset(options.fields, 0, images, size_px=options.size_px, workers=2, progress=False)
        encoders = {
            name: declare_channels(find_encoders(f"{name}={text}"), lambda: input_channels(images))
            for name, text in save_models(folder).items()
        }
        source, _, _ = open_source(images, [model for own in encoders.values() for model in own])
        rounds = []
        for repeat in range(options.repeats):
            record = folder / f"{kind}, round {repeat}.json"
            if not record.is_file():
                measured = measure_round(source, encoders, folder / "run")
                record.write_text(json.dumps(measured))
            rounds.append(read_json(record, "Remove it."))
    forward = {name: min(one["forward"][name] for one in rounds) for name in encoders}
    ours, reading = (min(one[name] for one in rounds) for name in ("ours", "reading"))
    reference = reading + sum(forward.values())
    result = {
        "name": "encoders",
        "reference": "forward passes of each encoder over cells in memory, plus one reading of the fields",
        "fields": options.fields,
        "cells": rounds[0]["cells"],
        "threads": options.threads,
        "rounds": len(rounds),
        "ours_cpu_s": round(ours, 2),
        "reading_cpu_s": round(reading, 2),
        "forward_cpu_s": {name: round(seconds, 2) for name, seconds in forward.items()},
        "reference_cpu_s": round(reference, 2),
        "ratio": round(ours / reference, 3),
        "ratios_of_rounds": [round(one["ours"] / (one["reading"] + sum(one["forward"].values())), 3) for one in rounds],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
