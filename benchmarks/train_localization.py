"""Ten location classifiers on frozen embeddings: all at once against one after the other.

    python benchmarks/train_localization.py [--device cuda] [--cells 20000] [--epochs 3] [--members 10]

The reference trains one seed after the other as the published recipe is plainly written with torch: a DataLoader that
collates single cells, an nn.Sequential, torch's AdamW, and scikit-learn's average precision after every epoch. (The
specification of the published script says what it computes, not how it loads.) Ours is `train_ensemble`, in fp32 and,
with --all, in bf16; `one_after_the_other` is ours, a seed at a time; `products_alone` are the matrix products that any
of them has to do in fp32, and nothing else: the least time there is. Same cells, same number of epochs; early stopping
is off.
Prints one JSON line; ratio is the reference's time to that of ours in fp32.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subcell_hf.model.objectives_subcell import sigmoid_focal_loss
from subcell_hf.training.localization.localization import LabelledEmbeddings, LocalizationSettings, train_ensemble

WIDTH, CLASSES = 1536, 31


def make_cells(cells: int, seed: int) -> LabelledEmbeddings:
    """Embeddings from which locations can be learnt."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((WIDTH, CLASSES)).astype(np.float32)
    embeddings = generator.standard_normal((cells, WIDTH), np.float32)
    targets = (embeddings @ directions > 1.5 * WIDTH**0.5).astype(np.float32)
    return LabelledEmbeddings(embeddings, targets)


def train_as_published(
    train: LabelledEmbeddings, validation: LabelledEmbeddings, settings: LocalizationSettings, device: torch.device
) -> float:
    """One seed after the other; returns the mean of their last scores."""
    scores = []
    held_out = torch.from_numpy(validation.embeddings).to(device)
    for seed in settings.seeds:
        torch.manual_seed(seed)
        mlp = nn.Sequential(
            nn.Linear(WIDTH, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(256, CLASSES),
        ).to(device)  # fmt: skip
        optimizer = torch.optim.AdamW(mlp.parameters(), lr=settings.learning_rate)
        data = TensorDataset(torch.from_numpy(train.embeddings), torch.from_numpy(train.targets))
        for _ in range(settings.max_epochs):
            mlp.train()
            for embeddings, targets in DataLoader(data, settings.cells_per_batch, shuffle=True):
                optimizer.zero_grad()
                loss = sigmoid_focal_loss(mlp(embeddings.to(device)), targets.to(device))
                loss.backward()
                optimizer.step()
                loss.item()
            mlp.eval()
            with torch.no_grad():
                predicted = mlp(held_out).sigmoid().cpu().numpy()
            score = average_precision_score(validation.targets, predicted, average="macro")
        scores.append(score)
    return float(np.mean(scores))


def multiply_only(cells: int, settings: LocalizationSettings, device: torch.device) -> None:
    """The products of every layer, forward and backward, for all members, batches and epochs; nothing else."""
    sizes = (WIDTH, *settings.hidden_sizes, CLASSES)
    for _ in range(len(settings.seeds) * settings.max_epochs):
        for batch in torch.arange(cells).split(settings.cells_per_batch):
            for number, (inputs, outputs) in enumerate(pairwise(sizes)):
                features = torch.zeros(len(batch), inputs, device=device)
                weight, gradient = (torch.zeros(*shape, outputs, device=device) for shape in ((inputs,), (len(batch),)))
                features @ weight, features.T @ gradient
                if number:  # no gradient is wanted by the embeddings
                    gradient @ weight.T


def main() -> None:
    """Measure every way once, after a warm-up."""
    device = torch.device(arguments.device)
    train, validation = make_cells(arguments.cells, 0), make_cells(max(arguments.cells // 7, 64), 1)
    settings = LocalizationSettings(
        max_epochs=arguments.epochs, seeds=tuple(range(arguments.members)), patience_epochs=10**6,
        cells_per_batch=arguments.cells_per_batch,
    )  # fmt: skip
    few = LabelledEmbeddings(train.embeddings[:256], train.targets[:256])
    train_ensemble(few, few, replace(settings, max_epochs=1), device=device, progress=False)
    seconds, scores = {}, {}
    started = time.perf_counter()
    scores["reference"] = train_as_published(train, validation, settings, device)
    seconds["reference"] = time.perf_counter() - started
    for name in ("fp32", "bf16", "one_after_the_other", "products_alone")[: None if arguments.all else 1]:
        started = time.perf_counter()
        if name == "products_alone":
            multiply_only(arguments.cells, settings, device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name] = time.perf_counter() - started
            continue
        if name == "one_after_the_other":
            runs = [replace(settings, seeds=(seed,)) for seed in settings.seeds]
        else:
            runs = [replace(settings, precision=name)]
        trained = [train_ensemble(train, validation, run, device=device, progress=False) for run in runs]
        seconds[name] = time.perf_counter() - started
        scores[name] = float(np.mean([history[-1] for ensemble in trained for history in ensemble.history]))
    figures = {
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "times_as_fast": {name: round(seconds["reference"] / value, 2) for name, value in seconds.items()},
        "macro_map": {name: round(value, 4) for name, value in scores.items()},
        "cells": arguments.cells,
        "members": arguments.members,
        "epochs": arguments.epochs,
        "cells_per_batch": arguments.cells_per_batch,
    }
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        json.dumps(
            {
                "name": "train_localization",
                "ratio": figures["times_as_fast"]["fp32"],
                "reference": "one seed after the other: DataLoader of single cells, nn.Sequential, AdamW, scikit-learn",
                "figures": figures,
                "machine": f"{machine}, {torch.get_num_threads()} threads",
                "versions": {"torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--cells", type=int, default=20_000, help="cells to learn from")
    parser.add_argument("--members", type=int, default=10, help="seeds")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of every seed")
    parser.add_argument("--cells-per-batch", type=int, default=8192, help="cells of a batch")
    parser.add_argument(
        "--all", action="store_true", help="also measure bf16, ours one seed after the other, and products"
    )
    arguments = parser.parse_args()
    main()
