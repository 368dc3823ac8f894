"""Threads that wait for each other, on a machine that others use too: what `import subcell_hf` sets, and libgomp's own.

    python benchmarks/sharing.py [--threads 2] [--steps 6] [--rounds 3] [--spins 300000 1000 0]

The work is a training step of the quickstart's model (views, forward and backward pass, 160 cells of noise), as many
steps as one quickstart does in a few seconds, and a layer of the published ViT-B at 448 px. It is done in a process
alone, beside a process that keeps one core busy, and in two processes side by side; once for every number of turns that
a waiting thread of libgomp makes before it leaves its core (`GOMP_SPINCOUNT`): 300,000 are its own, 1,000 are set by
`import subcell_hf`, 0 is what `OMP_WAIT_POLICY=PASSIVE` means. Every round measures all of them in turn. Figures are
medians of steps, the worse process of two; over the rounds the best counts, for other work on the machine only adds.

Prints one JSON line; ratio is how much longer a step takes in two processes side by side with libgomp's own waiting.
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

WITHOUT, OURS = "300000", "1000"
PLACES = ("alone", "busy_neighbour", "side_by_side")
BUSY = "while True: pass"


def work(steps: int) -> None:
    """In a process of its own: print milliseconds of a step and of a layer, and processor time per wall time."""
    import subcell_hf.model  # before torch, as every command does  # isort: skip
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

    started, used = time.perf_counter(), time.process_time()
    found = {"step_ms": _median_ms(step, steps), "layer_ms": _median_ms(forward, 4 * steps)}
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


def measure(place: str, spins: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of a place, of the slower process where there are two."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"GOMP_SPINCOUNT": spins, "OMP_NUM_THREADS": str(arguments.threads)}
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
            for spins in arguments.spins:
                rounds.setdefault((place, spins), []).append(measure(place, spins, arguments))
                print(place, spins, rounds[place, spins][-1], file=sys.stderr)
    best = {key: min(found, key=lambda figures: figures["step_ms"]) for key, found in rounds.items()}
    figures = {
        spins: {
            **{
                place: {name: round(value, 2) for name, value in best[place, spins].items() if name != "torch"}
                for place in PLACES
            },
            "side_by_side": round(best["side_by_side", spins]["step_ms"] / best["alone", spins]["step_ms"], 2),
        }
        for spins in arguments.spins
    }
    shared = [best["side_by_side", spins]["step_ms"] for spins in (WITHOUT, OURS)]
    result = {
        "name": "sharing",
        "ratio": round(shared[0] / shared[1], 2),
        "reference": "libgomp's own waiting, 300,000 turns",
        "figures": figures,
        "threads": arguments.threads,
        "load": os.getloadavg()[0],
        "versions": {"torch": best["alone", OURS]["torch"]},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--steps", type=int, default=6, help="training steps of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured")
    parser.add_argument(
        "--spins", nargs="+", default=[WITHOUT, OURS, "0"], help=f"GOMP_SPINCOUNT to compare, {WITHOUT} and {OURS} too"
    )
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.steps)
    else:
        main(options)
