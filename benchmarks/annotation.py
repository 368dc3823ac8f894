"""Labels that a classifier of cells needs: cells chosen by `subcell annotate` against cells chosen at random.

Classical features of simulated cells, each with one of several locations, and of the 90 real cells of `--montages`. In
each of 50 seeds half of the fields (of the real cells, one of the two images of each location) is the pool, and the
other half is the test. Labels are given in batches, the classifier is trained as on the page, and scored by balanced
accuracy on the test cells. The full score is that of all labels of the pool. Given are the labels after which a run
first reaches 95 % of it, as mean over seeds, with a 95 % interval from a bootstrap of seeds, which all divide the same
cells: it says nothing of other cells. `ratio` is random labels per chosen label on the simulated cells, by the default
strategy `mixed`. The reference is `random`.

    PYTHONPATH=. python benchmarks/annotation.py [--montages ../shared/data/hpa_montages] [--figure FILE]
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.montages import MONTAGE_CHANNELS, read_montages
from subcell_hf.cells.cell_features import measure_cells
from subcell_hf.evaluation.annotation import Components, Pool, propose_cells, train_classifier
from subcell_hf.simulation import SimulationSettings, plan_fields, simulate_planned_field

STRATEGIES = ("random", "mixed", "uncertain")
_WINDOW_PX = 256
_SHRINK = 2


@dataclass(frozen=True)
class Cells:
    """Cells to sort.

    Attributes:
        features: `[cells, features]`.
        labels: `[cells]`.
        groups: `[cells]`, field or image.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]


def simulated_cells(fields: int, antibodies: int, classes: int) -> Cells:
    """Features of simulated cells with one location each, of the most frequent ones."""
    settings = SimulationSettings(antibodies=antibodies)
    features, labels, groups = [], [], []
    for planned in plan_fields(fields, antibodies=antibodies):
        if len(planned.antibody.locations) != 1:
            continue
        field = simulate_planned_field(planned, settings)
        mask = field.label_mask
        if mask is None:
            continue
        pixels = np.pad(field.pixels, ((0, 0), (_WINDOW_PX, _WINDOW_PX), (_WINDOW_PX, _WINDOW_PX))) / 65535
        mask = np.pad(mask, _WINDOW_PX)
        crops, inside = [], []
        for label in np.unique(mask[mask > 0]):
            middle = [int(places.mean()) - _WINDOW_PX // 2 for places in np.nonzero(mask == label)]
            window = tuple(slice(start, start + _WINDOW_PX, _SHRINK) for start in middle)
            crops.append(pixels[:, *window])
            inside.append(mask[window] == label)
        measured = measure_cells(np.stack(crops).astype(np.float32), np.stack(inside), field.channels)[0]
        features.append(measured)
        labels += [planned.antibody.locations[0]] * len(measured)
        groups += [field.name] * len(measured)
    names, counts = np.unique(labels, return_counts=True)
    kept = np.isin(labels, names[np.argsort(-counts, kind="stable")[:classes]])
    return Cells(np.concatenate(features)[kept], np.array(labels)[kept], np.array(groups)[kept])


def real_cells(folder: Path) -> Cells:
    """Features of 90 cells of the Human Protein Atlas."""
    pixels, masks, labels, images = read_montages(folder)
    cells, channels, height, width = pixels.shape
    small = pixels.reshape(cells, channels, height // 4, 4, width // 4, 4).mean(axis=(3, 5), dtype=np.float32)
    features = measure_cells(small / 255, masks[:, ::4, ::4], MONTAGE_CHANNELS)[0]
    return Cells(features, np.array(labels), np.array(images))


def split_groups(cells: Cells, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which cells are the pool: half of the groups of each label."""
    pool: list[str] = []
    for label in np.unique(cells.labels):
        own = np.unique(cells.groups[cells.labels == label])
        pool += rng.permutation(own)[: (len(own) + 1) // 2].tolist()
    return np.isin(cells.groups, pool)


def balanced_accuracy(truth: npt.NDArray[np.str_], predicted: npt.NDArray[np.str_]) -> float:
    """Mean over classes of the share of cells that are right."""
    return float(np.mean([(predicted[truth == name] == name).mean() for name in np.unique(truth)]))


def learn(cells: Cells, strategy: str, batch: int, most: int, seed: int, strength: float) -> dict[str, list[float]]:
    """One run: number of labels and score after each batch, and the score of all labels of the pool."""
    rng = np.random.default_rng(seed)
    pool = split_groups(cells, rng)
    features = Components.of(cells.features[pool])(cells.features)
    truth = cells.labels[~pool]

    def score(rows: Sequence[int]) -> tuple[float, Any]:
        if len({*cells.labels[rows].tolist()}) < 2:
            return 1 / len(np.unique(truth)), None
        fitted = train_classifier(features[rows], cells.labels[rows], strength)
        best = fitted.probabilities(features[~pool]).argmax(axis=1)
        return balanced_accuracy(truth, np.array(fitted.classes)[best]), fitted

    full, _ = score(np.flatnonzero(pool).tolist())
    labelled: list[int] = []
    counts, scores, spent = [], [], []
    fitted = None
    while len(labelled) < min(most, int(pool.sum())):
        begun = time.process_time()
        left = np.setdiff1d(np.flatnonzero(pool), labelled)
        probabilities = None if fitted is None else fitted.probabilities(features)
        class_counts = [] if fitted is None else [int((cells.labels[labelled] == n).sum()) for n in fitted.classes]
        choice = Pool(features, left, np.array(labelled, dtype=np.int64), probabilities, class_counts)
        labelled += [one.row for one in propose_cells(choice, strategy, batch, rng)]
        value, fitted = score(labelled)
        counts.append(len(labelled))
        scores.append(value)
        spent.append(time.process_time() - begun)
    return {"labels": counts, "scores": scores, "full": [full], "seconds": spent}


def labels_needed(run: dict[str, list[float]], share: float = 0.95) -> float:
    """Labels after which a run first reaches a share of the full score; the most that were given where it never did."""
    reached = [
        count for count, value in zip(run["labels"], run["scores"], strict=True) if value >= share * run["full"][0]
    ]
    return reached[0] if reached else run["labels"][-1]


def summarise(values: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean over seeds and its interval."""
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return {"mean": round(float(values.mean()), 1), "low": round(float(low), 1), "high": round(float(high), 1)}


def measure(cells: Cells, batch: int, most: int, seeds: int, strength: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures, and the runs for the figure."""
    runs = {
        strategy: [learn(cells, strategy, batch, most, seed, strength) for seed in range(seeds)]
        for strategy in STRATEGIES
    }
    needed = {strategy: np.array([labels_needed(run) for run in own], float) for strategy, own in runs.items()}
    drawn = np.random.default_rng(0).integers(0, seeds, (2000, seeds))
    ratios = {}
    for strategy in STRATEGIES[1:]:
        low, high = np.quantile(
            needed["random"][drawn].mean(axis=1) / needed[strategy][drawn].mean(axis=1), [0.025, 0.975]
        )
        mean = float(needed["random"].mean() / needed[strategy].mean())
        ratios[strategy] = {"mean": round(mean, 2), "low": round(float(low), 2), "high": round(float(high), 2)}
    figures = {
        "cells": len(cells.labels),
        "classes": len(np.unique(cells.labels)),
        "full_score": round(float(np.mean([run["full"][0] for run in runs["random"]])), 3),
        "labels_needed": {strategy: summarise(values) for strategy, values in needed.items()},
        "random_labels_per_chosen_one": ratios,
        "never_reached": {
            strategy: sum(max(run["scores"]) < 0.95 * run["full"][0] for run in own) for strategy, own in runs.items()
        },
        "retrain_and_propose_s": round(max(max(run["seconds"]) for own in runs.values() for run in own), 3),
    }
    return figures, runs


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Score by number of labels, mean and range of the middle half of the seeds."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(results), figsize=(4.6 * len(results), 3.4), squeeze=False)
    for panel, (name, runs) in zip(panels[0], results.items(), strict=True):
        for strategy, colour in zip(STRATEGIES, ("#8d949e", "#0072B2", "#D55E00"), strict=True):
            shortest = min(len(run["labels"]) for run in runs[strategy])
            counts = runs[strategy][0]["labels"][:shortest]
            scores = np.array([run["scores"][:shortest] for run in runs[strategy]])
            panel.plot(counts, scores.mean(axis=0), color=colour, label=strategy)
            panel.fill_between(counts, *np.quantile(scores, [0.25, 0.75], axis=0), color=colour, alpha=0.15, lw=0)
        full = np.mean([run["full"][0] for run in runs["random"]])
        panel.axhline(0.95 * full, color="black", lw=0.8, ls="--", label="95 % of all labels")
        panel.set(title=name, xlabel="labels", ylabel="balanced accuracy, other fields")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=64)
    parser.add_argument("--antibodies", type=int, default=32)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--batch", type=int, default=5, help="Simulated cells that are labelled between trainings.")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--montages", type=Path, help="Folder of real cells.")
    parser.add_argument("--cache", type=Path, help="File of the simulated cells' features, so that they are kept.")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    if options.cache and options.cache.is_file():
        with np.load(options.cache) as kept:
            simulated = Cells(kept["features"], kept["labels"], kept["groups"])
    else:
        simulated = simulated_cells(options.fields, options.antibodies, options.classes)
        if options.cache:
            np.savez(options.cache, features=simulated.features, labels=simulated.labels, groups=simulated.groups)
    inputs = {"simulated cells": (simulated, options.batch, 240)}
    if options.montages:
        inputs["real cells (HPA)"] = (real_cells(options.montages), 3, 45)
    figures, results = {}, {}
    for name, (cells, batch, most) in inputs.items():
        figures[name], results[name] = measure(cells, batch, most, options.seeds, options.strength)
    if options.figure:
        draw(results, options.figure)
    ratio = figures["simulated cells"]["random_labels_per_chosen_one"]["mixed"]["mean"]
    reference = "cells chosen at random: labels for 95 % of the score of all labels"
    print(json.dumps({"name": "annotation", "ratio": ratio, "reference": reference, "figures": figures}))


if __name__ == "__main__":
    main()
