"""From simulated cells to real ones: with and without domain randomisation, with and without unlabelled real cells.

The recipe `small` is trained on plain simulated fields and on fields of the same seed whose acquisition is randomised
(`subcell simulate --domain-randomization`). Each model is also trained a little further, without any label, on cells of
the two whole fields in DATA/hpa_fields: two views of a cell are made similar, and different from those of other cells.

The 90 cells of DATA/hpa_montages (ten images, five locations), which no model is trained on, are classified by a linear
probe and by 5 nearest neighbours on the frozen embeddings, which learn from the cells of the other nine images; once
more on embeddings averaged over eight orientations, as by `subcell embed --orientations 8`. Scores are accuracy
and macro mAP, with 95 % intervals that resample images, the same ones for both tables of a difference. The same probes
score untrained models, intensity and texture features of the same crops, and those of the protein alone.

Trainings that are there already in `--work` are not run again. The last line is JSON.

    PYTHONPATH=. python benchmarks/sim_to_real.py --work FOLDER [--data ../shared/data] [--seeds 0 1]
        [--words "--max_steps 540 --use_cpu true --bf16 true"]
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.embeddings import Floats, embed
from benchmarks.learning import prepare_shards, pretrain, untrained_model
from benchmarks.learning_small import CROP_PX, OUTPUT_PX, RESAMPLES, SMALL, TableScores, average, describe
from benchmarks.montages import MONTAGE_CHANNELS, crop_tiles, predict_left_out, read_montages
from recipes.real_fields import FIELDS, HPA_PIXEL_SIZE_UM
from subcell_hf.cells.cell_features import measure_cells
from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import crop_source
from subcell_hf.evaluation.localization.bootstrap import Weights, bootstrap_weights, count_ranks, resample_metrics
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.ontology import PROTEIN_CHANNEL
from subcell_hf.shards.sharding import ShardSettings, write_shards

DOMAINS = {"plain": False, "randomised": True}
CONTINUED = "continued on real cells"
TURNED = "eight orientations"
CONTINUATION = (
    *("--cell_contrast_positives", "cell", "--protein_contrast_weight", "0"),
    *("--train_split", "all", "--validation_split", "none", "--eval_strategy", "no"),
    *("--antibodies_per_batch", "2", "--cells_per_antibody", "16", "--learning_rate", "2e-4", "--warmup_epochs", "0"),
)
"""What differs from `small`: two fields have two antibodies, so that only cells can be told from each other."""


def prepare_real(data: Path, work: Path) -> Path:
    """Crop the cells of the two whole fields and shard them; locations are left out.

    Returns:
        Folder of the shards.
    """
    work.mkdir(parents=True, exist_ok=True)
    metadata = work / "metadata.csv"
    with metadata.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["field_of_view", "antibody", "gene", "cell_line"])
        writer.writerows([name, antibody, gene, line] for name, (antibody, gene, line, _) in FIELDS.items())
    reading = ReadingOptions(pixel_size_um=HPA_PIXEL_SIZE_UM, metadata=metadata)
    settings = CropSettings(crop_px=CROP_PX, output_px=OUTPUT_PX)
    crop_fields(data / "hpa_fields", work / "crops", settings=settings, reading=reading, progress=False)
    write_shards(crop_source(work / "crops"), work / "shards", ShardSettings(split_by=None), progress=False)
    return work / "shards"


class RealCells:
    """The montages' cells, as crops of the size that the models see, and what scores a table of their features."""

    def __init__(self, folder: Path) -> None:
        pixels, masks, self.labels, self.images = read_montages(folder)
        self.pixels, self.masks = crop_tiles(pixels, masks, CROP_PX, OUTPUT_PX)
        self.truth: npt.NDArray[np.intp] = np.unique(self.labels, return_inverse=True)[1]
        self.image: npt.NDArray[np.intp] = np.unique(self.images, return_inverse=True)[1]
        self.weights: Weights = bootstrap_weights(int(self.image.max()) + 1, RESAMPLES, np.random.default_rng(0))

    def score(self, features: Floats) -> TableScores:
        """Accuracy and macro mAP of both probes on `[cells, width]`, and of every resample of the images."""
        targets = np.eye(int(self.truth.max()) + 1, dtype=np.uint8)[self.truth]
        weights = np.concatenate([np.ones((1, self.weights.shape[1]), np.float32), self.weights])
        found: dict[str, npt.NDArray[np.floating]] = {}
        for probe, likely in predict_left_out(features, self.labels, self.images).items():
            right = likely.argmax(axis=1) == self.truth
            hits, cells = (np.bincount(self.image, weights=part) for part in (right, np.ones(len(right))))
            found[f"{probe}, accuracy"] = (weights @ hits) / (weights @ cells)
            counted = count_ranks(targets, likely, self.image)
            found[f"{probe}, macro mAP"] = resample_metrics(counted, weights)["macro_map"]
        return TableScores(
            {name: float(values[0]) for name, values in found.items()},
            {name: values[1:].astype(np.float64) for name, values in found.items()},
        )

    def embed(self, model: SubCellModel, scaling: str, orientations: int = 1) -> Floats:
        """Embeddings `[cells, width]`, of so many orientations' mean."""
        return embed(model, scaling, self.pixels, self.masks, orientations=orientations)


def train_all(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """Kind of training → folder of each seed's."""
    work, words = arguments.work, arguments.words.split()
    begin = ["--init_checkpoint", str(arguments.begin)] if arguments.begin else []
    real = prepare_real(arguments.data, work / "real")
    kinds: dict[str, list[Path]] = {}
    for domain, randomised in DOMAINS.items():
        prepare_shards(
            work / domain, arguments.fields, arguments.antibodies, arguments.workers, arguments.fields_seed,
            (CROP_PX, OUTPUT_PX), randomised,
        )  # fmt: skip
        kinds[domain] = [work / domain / "runs" / f"seed_{seed}" for seed in arguments.seeds]
        kinds[f"{domain}, {CONTINUED}"] = [folder.with_name(f"{folder.name}_real") for folder in kinds[domain]]
        for seed, folder, further in zip(arguments.seeds, kinds[domain], kinds[f"{domain}, {CONTINUED}"], strict=True):
            pretrain(folder, work / domain / "shards", ["--seed", str(seed), *words, *begin], SMALL)
            more = ["--seed", str(seed), *words, "--init_checkpoint", str(folder / "model"), *CONTINUATION]
            pretrain(further, real, [*more, "--max_steps", str(arguments.real_steps)], SMALL)
    return kinds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, score.

    Returns:
        The benchmark's line.
    """
    cells = RealCells(arguments.data / "hpa_montages")
    kinds = train_all(arguments)
    seeds: dict[str, list[TableScores]] = {}
    for kind, folders in kinds.items():
        scaling = SubCellImageProcessor.from_pretrained(folders[0] / "model").normalize
        models = [SubCellModel.from_pretrained(folder / "model") for folder in folders]
        seeds[kind] = [cells.score(cells.embed(model, scaling)) for model in models]
        turned = [cells.score(cells.embed(model, scaling, orientations=8)) for model in models]
        seeds[f"{kind}, {TURNED}"] = turned
    if arguments.begin:
        seeds["begin"] = [cells.score(cells.embed(SubCellModel.from_pretrained(arguments.begin), scaling))]
    untrained = [untrained_model(kinds["plain"][0] / "model", seed) for seed in arguments.seeds]
    seeds["untrained"] = [cells.score(cells.embed(model, scaling)) for model in untrained]
    features, names = measure_cells(cells.pixels, cells.masks, MONTAGE_CHANNELS)
    of_protein = [column for column, name in enumerate(names) if name.startswith(f"{PROTEIN_CHANNEL}_")]
    seeds["features"] = [cells.score(features)]
    seeds["features of the protein"] = [cells.score(features[:, of_protein])]
    means = {name: average(own) for name, own in seeds.items()}
    pairs = [("randomised", "plain")]
    pairs += [(f"{domain}, {CONTINUED}", domain) for domain in DOMAINS]
    pairs += [(domain, "begin") for domain in DOMAINS if arguments.begin]
    ways = [way for kind in kinds for way in (kind, f"{kind}, {TURNED}")]
    pairs += [(way, table) for way in ways for table in ("features", "features of the protein")]
    linear = {name: table.exact["linear, macro mAP"] for name, table in means.items()}
    best = max(linear[name] for name in ("features", "features of the protein"))
    return {
        "name": "locations of real cells by models of simulated ones",
        "ratio": round(max(linear[kind] for kind in kinds) / best, 3),
        "reference": "the better of two sets of intensity and texture features of the same crops; linear, macro mAP",
        "figures": {
            "mean": {name: describe(table, None) for name, table in means.items()},
            "seeds": {name: [describe(table, None) for table in seeds[name]] for name in (*ways, "untrained")},
            "differences": {
                f"{one} less {other}": describe(means[one], means[other])["difference"] for one, other in pairs
            },
            "feature_counts": {"features": len(names), "features of the protein": len(of_protein)},
            "words": arguments.words,
            "real_steps": arguments.real_steps,
        },
    }


def main(words: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for cells and trainings; kept")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="hpa_fields and hpa_montages")
    parser.add_argument("--fields", type=int, default=960, help="simulated fields of view of each kind")
    parser.add_argument("--antibodies", type=int, default=480, help="simulated antibodies")
    parser.add_argument("--fields-seed", type=int, default=2, help="seed of the simulated cells")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the trainings")
    parser.add_argument("--real-steps", type=int, default=60, help="steps of the continuation on real cells")
    parser.add_argument("--begin", type=Path, help="model whose weights every training begins with, for a shorter run")
    parser.add_argument("--words", default="", help="more arguments for every training, as one text")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate and crop")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args(words)
    line = json.dumps(measure(arguments))
    if arguments.output:
        arguments.output.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
