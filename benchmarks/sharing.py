"""Threads that wait for each other, on a machine that others use too: with what `import subcell_hf` sets, and without.

    python benchmarks/sharing.py [--threads 2] [--steps 6] [--rounds 3] [--ways without ours passive]

The work is a training step of the quickstart's model (views, forward and backward pass, 160 cells of noise), a layer of
the published ViT-B at 448 px, and an iteration of a linear probe in numpy. It is done in a process alone, beside a
process that keeps one core busy, and in two processes side by side; once for every way of waiting, which are named by
the variables of libgomp and OpenBLAS (see subcell_hf/parallel/cores.py): `without` has their own values, `ours` those
that `import subcell_hf` sets, `passive` the shortest. Every round measures all of them in turn. Figures are medians of
steps, those of the slower process of two; over the rounds the best counts, for other work on the machine only adds.

Prints one JSON line; ratio is how much longer a step takes in two processes side by side without our values.
`side_by_side` is how much longer a step takes beside its like than alone: 2 would be an even share of the cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

WAYS = {
    "without": {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"},
    "ours": {"GOMP_SPINCOUNT": "1000", "OPENBLAS_THREAD_TIMEOUT": "18"},
    "passive": {"GOMP_SPINCOUNT": "0", "OPENBLAS_THREAD_TIMEOUT": "4"},
}
PLACES = ("alone", "busy_neighbour", "side_by_side")
BUSY = "while True: pass"


def work(steps: int) -> None:
    """In a process of its own: print milliseconds of a step and of a layer, and processor time per wall time."""
    import subcell_hf.model  # before torch, as every command does  # isort: skip
    import numpy as np
    import torch
    from torch import nn

    from subcell_hf.augmentation.views import ViewMaker
    from subcell_hf.training.pretraining.arguments import parse_arguments
    from subcell_hf.training.pretraining.resolution import build_config
    from subcell_hf.types import CropBatch

    config = build_config(parse_arguments(["quickstart"]))
    config.num_labels = 20
    torch.manual_seed(0)
    model = subcell_hf.model.SubCellForPreTraining(config).train()
    cells, size = 160, config.image_height_width[0]
    crops = CropBatch(
        pixels=torch.randint(0, 255, (cells, 4, size, size), dtype=torch.uint8),
        cell_masks=torch.ones(cells, size, size, dtype=torch.bool),
        antibodies=torch.arange(cells) // 4,
        locations=torch.zeros(cells, 20),
    )
    maker = ViewMaker({"size_px": size, "scaling": "channel", "views": [GENTLE, GENTLE]})
    layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, norm_first=True).eval()
    tokens = torch.randn(1, 785, 768)

    def step() -> None:
        model.zero_grad()
        views = maker(crops, config.channels, torch.Generator().manual_seed(0))
        model(**views).loss.backward()

    def forward() -> None:
        with torch.no_grad():
            layer(tokens)

    random = np.random.default_rng(0)
    embeddings, weights = random.random((2300, 256), np.float32), random.random((256, 20), np.float32)

    def probe() -> None:
        embeddings.T @ (1 / (1 + np.exp(-(embeddings @ weights))))

    started, used = time.perf_counter(), time.process_time()
    found = {"step_ms": _median_ms(step, steps), "layer_ms": _median_ms(forward, 4 * steps)}
    found["probe_ms"] = _median_ms(probe, 40 * steps)
    found["processor_per_wall"] = (time.process_time() - used) / (time.perf_counter() - started)
    print(json.dumps({"torch": torch.__version__, **found}))


GENTLE = {
    "transforms": [
        {"name": "affine", "rotation_deg": [-90, 90]},
        {"name": "brightness_contrast", "probability": 0.8},
        {"name": "gaussian_noise", "probability": 0.3},
    ]
}


def _median_ms(run: Callable[[], None], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def measure(place: str, way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of a place, of the slower process where there are two."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= WAYS[way] | {"OMP_NUM_THREADS": str(arguments.threads)}
    command = [sys.executable, __file__, "--work", "--steps", str(arguments.steps)]
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY])] if place == "busy_neighbour" else []
    try:
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for _ in range(2 if place == "side_by_side" else 1)
        ]
        outputs = [process.communicate()[0] for process in started]
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    found: list[dict[str, Any]] = [json.loads(output.splitlines()[-1]) for output in outputs]
    return max(found, key=lambda figures: figures["step_ms"])


def main(arguments: argparse.Namespace) -> None:
    """Measure round by round and print."""
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for place in PLACES:
            for way in arguments.ways:
                rounds.setdefault((place, way), []).append(measure(place, way, arguments))
                print(place, way, rounds[place, way][-1], file=sys.stderr)
    best = {key: min(found, key=lambda figures: figures["step_ms"]) for key, found in rounds.items()}
    figures = {
        way: {
            **{
                place: {name: round(value, 2) for name, value in best[place, way].items() if name != "torch"}
                for place in PLACES
            },
            "side_by_side": round(best["side_by_side", way]["step_ms"] / best["alone", way]["step_ms"], 2),
        }
        for way in arguments.ways
    }
    shared = [best["side_by_side", way]["step_ms"] for way in ("without", "ours")]
    result = {
        "name": "sharing",
        "ratio": round(shared[0] / shared[1], 2),
        "reference": "the waiting of libgomp and OpenBLAS themselves",
        "figures": figures,
        "threads": arguments.threads,
        "load": os.getloadavg()[0],
        "versions": {"torch": best["alone", "ours"]["torch"]},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--steps", type=int, default=6, help="training steps of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="`without` and `ours` are needed")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.steps)
    else:
        main(options)
