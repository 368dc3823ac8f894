"""One model of any channels against a model for each set of channels, and what more channels cost.

Cells are simulated as in `learning.py`. The recipe `any_channels` is pretrained once on all channels with sampling, and
the quickstart's joint model for each set of channels, with the same steps and objectives (without the protein:
reconstruction and cell contrast, as in the steps of the former that do not show it). Both embed the same cells with the
channels of the set. Linear probe and nearest neighbours are scored on the locations of the test split's antibodies if
the set has the protein, the cell-line probe on every set; probes choose their penalty on the validation split, as in
`learning.py`. Intervals are of the difference over seeds (t, 95 %), with at least two of them.

Cost: processor time of a forward pass of 1 to 8 channels, and of 4 and 8 in passes of two, relative to one channel; the
ways take turns.

Trainings and scores that are there already in `--work` are not computed again. The last line is JSON.

    PYTHONPATH=. python benchmarks/channel_subsets.py --work FOLDER [--seeds 0 1 2] [--sets rybg bg …] [--cost-only]
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from benchmarks.embeddings import Floats
from benchmarks.learning import (
    RECIPE,
    TRAININGS_AT_ONCE,
    cell_line_probe,
    linear_probe,
    neighbour_probe,
    prepare_shards,
    pretrain,
)
from subcell_hf.augmentation.presets import load_preset
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.ontology import CHANNEL_STAINS, PROTEIN_CHANNEL
from subcell_hf.shards.reader import ShardReader
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.types import CropBatch

ANY_CHANNELS = RECIPE.with_name("any_channels.yaml")
LETTERS = {name[:1]: name for name in CHANNEL_STAINS}
SETS = ["".join(letters) for count in range(1, 5) for letters in combinations("rybg", count)]
"""Every set of channels, by the first letters of their names."""
WITHOUT_PROTEIN = ("--protein_contrast_weight", "0", "--probe_detached", "true")
SHARED = "separate"
MOST_CHANNELS, COST_PX = 8, 224


def channels_of(letters: str) -> list[str]:
    """Names of the channels of a set."""
    return [LETTERS[letter] for letter in letters]


@torch.no_grad()
def embed_set(model: SubCellModel, channels: Sequence[str], reader: ShardReader, rows: npt.NDArray[np.int64]) -> Floats:
    """Embeddings `[cells, width]` of cells of shards by these channels, each scaled separately, as in training."""
    stored = list(reader.index.crop_format.channels)
    views = replace(load_preset("validation").with_size(model.config.image_height_width[0]), scaling="channel")
    maker, found = ViewMaker(views), []
    model.eval()
    for start in range(0, len(rows), 128):
        pixels, masks = (torch.from_numpy(np.ascontiguousarray(a)) for a in reader.read(rows[start : start + 128]))
        crops = CropBatch(
            pixels=pixels, cell_masks=masks, antibodies=torch.zeros(len(pixels), dtype=torch.int64),
            locations=torch.zeros(len(pixels), 1),
        )  # fmt: skip
        view = maker(crops, stored, torch.Generator().manual_seed(0))["pixel_values"][:, 0]
        chosen = view[:, [stored.index(name) for name in channels]]
        found.append(model(chosen, channels=list(channels)).pooler_output.numpy())
    return np.concatenate(found)


def train(work: Path, sets: Sequence[str], seeds: Sequence[int], more: Sequence[str]) -> dict[tuple[str, int], Path]:
    """Pretrain the shared model and one for each set, for each seed.

    Returns:
        Name of the model (`separate` or the set) and seed → folder of the run.
    """
    jobs: dict[tuple[str, int], tuple[Path, list[str]]] = {}
    for seed in seeds:
        jobs[SHARED, seed] = (ANY_CHANNELS, [])
        for letters in sets:
            channels = channels_of(letters)
            off = () if PROTEIN_CHANNEL in channels else WITHOUT_PROTEIN
            jobs[letters, seed] = (RECIPE, ["--channels", *channels, *off])
    runs = {(name, seed): work / "runs" / f"{name}_{seed}" for name, seed in jobs}

    def run(job: tuple[str, int]) -> None:
        recipe, words = jobs[job]
        pretrain(runs[job], work / "shards", ["--seed", str(job[1]), *words, *more], recipe)

    with ThreadPoolExecutor(TRAININGS_AT_ONCE) as pool:
        list(pool.map(run, jobs))
    return runs


def score(run: Path, letters: str, reader: ShardReader, kept: Path) -> dict[str, float]:
    """Scores of a model on a set of channels, or those that an earlier call kept."""
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text())
        return found
    channels, table = channels_of(letters), reader.cells
    splits = [reader.split_rows(name) for name in ("train", "validation", "test")]
    model = SubCellModel.from_pretrained(run / "model")
    features = [embed_set(model, channels, reader, rows) for rows in splits]
    scores = {"cell_line": cell_line_probe(features, [table.cell_line[rows] for rows in splits])}
    if PROTEIN_CHANNEL in channels:
        locations = [table.location_sets[table.location_set[rows]].astype(np.float32) for rows in splits]
        scores |= {"linear": linear_probe(features, locations)[0], "neighbours": neighbour_probe(features, locations)}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(kept) as file:
        file.write(json.dumps(scores).encode())
    return scores


def compare(shared: Sequence[float], own: Sequence[float]) -> dict[str, float]:
    """Means over seeds, the difference, and its 95 % interval where there are several seeds."""
    differences = np.subtract(shared, own)
    found = {"separate": float(np.mean(shared)), "own model": float(np.mean(own)), "difference": differences.mean()}
    if len(differences) > 1:
        half = stats.t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
        found |= {"interval_low": found["difference"] - half, "interval_high": found["difference"] + half}
    return {name: round(float(value), 4) for name, value in found.items()}


@torch.inference_mode()
def measure_cost(rounds: int) -> dict[str, float]:
    """Processor time of a forward pass of a ViT of the size `tiny`, relative to that of one channel."""
    torch.manual_seed(0)
    names = [f"stain {number}" for number in range(MOST_CHANNELS - 1)] + [PROTEIN_CHANNEL]
    config = SubCellConfig.from_size("tiny", channels=names, channel_tokens="separate", image_size=COST_PX)
    model = SubCellModel(config).eval()
    ways = [(count, None) for count in range(1, MOST_CHANNELS + 1)] + [(4, 2), (MOST_CHANNELS, 2)]
    images = torch.rand(2, MOST_CHANNELS, COST_PX, COST_PX)
    times: dict[tuple[int, int | None], list[float]] = {way: [] for way in ways}
    for _ in range(1 + rounds):
        for count, limit in ways:
            model.config.channels_per_pass = limit
            started = time.process_time()
            model(images[:, -count:], channels=names[-count:])
            times[count, limit].append(time.process_time() - started)
    middle = {way: statistics.median(taken[1:]) for way, taken in times.items()}
    found = {}
    for (count, limit), taken in middle.items():
        name = f"{count} channels" if limit is None else f"{count} channels, {limit} per pass"
        found[name] = round(taken / middle[1, None], 2)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All of it.

    Returns:
        The benchmark's line.
    """
    figures: dict[str, Any] = {"cost_relative_to_one_channel": measure_cost(arguments.rounds)}
    if not arguments.cost_only:
        work, sets, seeds = arguments.work, arguments.sets, arguments.seeds
        reader = prepare_shards(work, arguments.fields, arguments.antibodies, arguments.workers)
        runs = train(work, sets, seeds, arguments.words.split())
        for letters in sets:
            found: dict[str, list[list[float]]] = {}
            for seed in seeds:
                pair = [
                    score(runs[name, seed], letters, reader, work / "scores" / f"{name}_{letters}_{seed}.json")
                    for name in (SHARED, letters)
                ]
                for name in pair[0]:
                    found.setdefault(name, []).append([one[name] for one in pair])
            figures[letters] = {name: compare(*zip(*pairs, strict=True)) for name, pairs in found.items()}
        figures["seeds"] = list(seeds)
    return {
        "name": "one model of any channels, and a model for each set",
        "ratio": figures["cost_relative_to_one_channel"]["4 channels"],
        "reference": "a forward pass of one channel; for scores, a joint model trained for the set",
        "figures": figures,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Make the cells, pretrain, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cells, trainings and scores; kept")
    parser.add_argument("--fields", type=int, default=480, help="simulated fields of view")
    parser.add_argument("--antibodies", type=int, default=240, help="simulated antibodies")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the pretrainings")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, metavar="SET", help="such as rybg or bg")
    parser.add_argument("--workers", type=int, default=2, help="processes that simulate, crop and measure")
    parser.add_argument("--words", default="", help="more arguments for every pretraining, as one text")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of the cost")
    parser.add_argument("--cost-only", action="store_true", help="measure the cost alone")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args(words)
    line = json.dumps(measure(arguments))
    if arguments.output:
        arguments.output.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
