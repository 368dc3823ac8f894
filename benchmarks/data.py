"""Reading training batches out of shards against upstream's way, in one process, on the same cells.

Upstream's way: an antibody is one zstd-compressed uint16 array [24, 448, 448, 5] (four channels and the mask); all of
it is decompressed, and 8 cells are used. Ours: 8 cells are read out of the shards. Both end in tensors of pixels and
masks. The cells are simulated in fields of 2048 px, the usual size of the Human Protein Atlas. Rounds alternate;
figures are medians. The last line is JSON.

    python benchmarks/data.py [--antibodies 6] [--rounds 7] [--bit-depth 8] [--crops FOLDER] [--libraries]
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import torch

from subcell_hf.cells.sources import ImageFields, crop_source
from subcell_hf.shards.batch_plan import BatchSettings
from subcell_hf.shards.codec import decode_sample
from subcell_hf.shards.jobs import CropSource, ListedCrops
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.shards.streaming import ShardLoader, training_loader
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.types import FieldCrops

CELLS_PER_ANTIBODY, CELLS_USED = 24, 8


@dataclass(frozen=True)
class TrimmedCrops:
    """The first 24 cells of each antibody that has as many, so that both sides hold the same cells."""

    crops: dict[str, FieldCrops]
    antibodies: dict[str, str]

    def fields(self) -> list[ListedCrops]:
        """Names and antibodies."""
        return [ListedCrops(name, {"antibody": self.antibodies[name]}) for name in self.crops]

    def read(self, name: str) -> FieldCrops:
        """The cells that are left of one field."""
        return self.crops[name]

    def fingerprint(self) -> str:
        """Shards are always written anew here."""
        return "trimmed"


def trim(source: CropSource, antibodies: int) -> TrimmedCrops:
    """Cut antibodies down to 24 cells; those with fewer are left out."""
    taken: dict[str, list[FieldCrops]] = {}
    for listed in source.fields():
        antibody = listed.metadata["antibody"]
        room = CELLS_PER_ANTIBODY - sum(len(part.cells) for part in taken.get(antibody, []))
        if room and (antibody in taken or len(taken) < 2 * antibodies):
            found = source.read(listed.name)
            part = FieldCrops(
                listed.name,
                found.pixels[:room],
                found.cell_masks[:room],
                found.channels,
                found.pixel_size_um,
                found.cells[:room],
            )
            taken.setdefault(antibody, []).append(part)
    full = [name for name, parts in taken.items() if sum(len(p.cells) for p in parts) == CELLS_PER_ANTIBODY]
    chosen = {part.field_of_view: (part, name) for name in full[:antibodies] for part in taken[name]}
    return TrimmedCrops({k: part for k, (part, _) in chosen.items()}, {k: name for k, (_, name) in chosen.items()})


def write_reference(crops: TrimmedCrops, folder: Path) -> list[Path]:
    """One compressed array per antibody, as upstream keeps them."""
    folder.mkdir()
    paths = []
    for antibody in sorted(set(crops.antibodies.values())):
        parts = [part for name, part in crops.crops.items() if crops.antibodies[name] == antibody]
        planes = [np.concatenate([part.pixels, part.cell_masks[:, None]], axis=1).astype(np.uint16) for part in parts]
        array = np.ascontiguousarray(np.concatenate(planes).transpose(0, 2, 3, 1))  # [24, height, width, 5]
        path = folder / f"{antibody}.zst"
        path.write_bytes(imagecodecs.zstd_encode(array.tobytes(), 3))
        paths.append(path)
    return paths


def read_reference(paths: list[Path], size_px: int, rng: np.random.Generator) -> int:
    """Decompress all 24 cells of each antibody, use 8."""
    for path in paths:
        array = np.frombuffer(imagecodecs.zstd_decode(path.read_bytes()), np.uint16)
        array = array.reshape(CELLS_PER_ANTIBODY, size_px, size_px, 5)
        used = array[rng.permutation(CELLS_PER_ANTIBODY)[:CELLS_USED]].transpose(0, 3, 1, 2)
        torch.from_numpy(np.ascontiguousarray(used[:, :4])), torch.from_numpy(used[:, 4] > 0)
    return len(paths) * CELLS_USED


def read_loader(loader: ShardLoader) -> int:
    """One epoch: 8 cells of each antibody."""
    return sum(len(batch["cell_ids"]) for batch in loader)


def read_webdataset(folder: Path, rng: np.random.Generator) -> int:
    """All samples one after the other, 8 of 24 of each antibody decoded."""
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    used = 0
    samples = iter(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    while cells := list(itertools.islice(samples, CELLS_PER_ANTIBODY)):
        decoded = [decode_sample(cells[number]) for number in rng.permutation(len(cells))[:CELLS_USED]]
        torch.from_numpy(np.stack([cell["pixels"] for cell in decoded]))
        torch.from_numpy(np.stack([cell["cell_mask"] for cell in decoded]))
        used += len(decoded)
    return used


def read_datasets(folder: Path, rng: np.random.Generator) -> int:
    """The same through the streaming webdataset builder of the datasets library."""
    import datasets

    stream = datasets.load_dataset(
        "webdataset", data_files=[str(path) for path in sorted(folder.glob("*.tar"))], split="train", streaming=True
    )
    used = 0
    samples: Iterator[dict[str, object]] = iter(stream)
    while cells := list(itertools.islice(samples, CELLS_PER_ANTIBODY)):
        for number in rng.permutation(len(cells))[:CELLS_USED]:
            cell = {k: v for k, v in cells[number].items() if not k.startswith("__url")}
            cell["json"] = json.dumps(cell["json"])
            decode_sample(cell)
            used += 1
    return used


def read_stateful(loader: ShardLoader) -> int:
    """The same plan and batches through torchdata's StatefulDataLoader, its state taken after every batch."""
    from torchdata.stateful_dataloader import StatefulDataLoader

    steps = [(0, step) for step in range(len(loader))]
    stateful = StatefulDataLoader(loader.dataset, batch_size=None, sampler=steps, collate_fn=lambda batch: batch)
    used = 0
    for batch in stateful:
        stateful.state_dict()
        used += len(batch["cell_ids"])
    return used


def cells_per_second(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Median of alternating rounds, after one to warm up."""
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, read in ways.items():
            start = time.perf_counter()
            cells = read()
            if number:
                seen[name].append(cells / (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in seen.items()}


def main() -> None:
    """Make the cells, write both forms, read both, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--antibodies", type=int, default=6, help="antibodies of 24 cells")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each way")
    parser.add_argument("--bit-depth", type=int, default=8, help="8 or 16, of the simulated images")
    parser.add_argument("--crops", type=Path, help="folder of crops to use instead of simulated ones")
    parser.add_argument("--libraries", action="store_true", help="read the shards with other libraries too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.crops is None:
            fields = 2 * arguments.antibodies
            simulate_dataset(
                fields,
                0,
                folder / "images",
                antibodies=arguments.antibodies,
                size_px=2048,
                bit_depth=arguments.bit_depth,
                workers=os.cpu_count() or 1,
                progress=False,
            )
            source: CropSource = ImageFields(folder / "images")
        else:
            source = crop_source(arguments.crops)
        print(json.dumps(measure(source, folder, arguments)))


def measure(source: CropSource, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Write and read both forms.

    Returns:
        The benchmark's line.
    """
    crops = trim(source, arguments.antibodies)
    cells = sum(len(part.cells) for part in crops.crops.values())
    paths = write_reference(crops, folder / "reference")
    start = time.perf_counter()
    index = write_shards(crops, folder / "shards", ShardSettings(split_by=None), progress=False).index
    written_per_s = cells / (time.perf_counter() - start)
    reader = ShardReader(folder / "shards")
    settings = BatchSettings(antibodies_per_batch=min(4, len(index.antibodies)))
    loader = training_loader(reader, settings, split=None, rank=0, world_size=1)
    rng = np.random.default_rng(0)
    ways: dict[str, Callable[[], int]] = {
        "ours": lambda: read_loader(loader),
        "reference": lambda: read_reference(paths, index.crop_format.crop_size_px, rng),
    }
    if arguments.libraries:
        ways["webdataset"] = lambda: read_webdataset(folder / "shards", rng)
        ways["datasets"] = lambda: read_datasets(folder / "shards", rng)
        ways["StatefulDataLoader"] = lambda: read_stateful(loader)
    speeds = cells_per_second(ways, arguments.rounds)
    size_bytes = sum(shard.bytes for shard in index.shards)
    reference_bytes = sum(path.stat().st_size for path in paths)
    return {
        "name": "reading training batches from shards",
        "ratio": round(speeds["ours"] / speeds["reference"], 2),
        "reference": "one zstd-compressed uint16 array [24, 448, 448, 5] per antibody, 8 of 24 cells used",
        "figures": {
            "cells_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
            "bytes_per_cell": {"ours": size_bytes // cells, "reference": reference_bytes // cells},
            "bytes_ratio": round(size_bytes / reference_bytes, 3),
            "written_cells_per_s": round(written_per_s, 1),
            "cells": cells,
            "dtype": index.crop_format.dtype,
            "crop_size_px": index.crop_format.crop_size_px,
            "cpus": os.cpu_count(),
        },
    }


if __name__ == "__main__":
    main()
