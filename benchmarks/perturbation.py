"""Average precision of well profiles, beside copairs.

    python benchmarks/perturbation.py [--plates 4] [--compounds 300] [--width 1536] [--repeats 3]

Both score every treated well against the other wells of its compound and the treated wells of other compounds, from the
same float64 profiles. Both sides run in turn; figures are medians; copairs ranks similarities
in float32, so that now and then a pair that is closer than that changes places: the share of queries that agree is
printed.
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
import pandas as pd
from copairs.map import average_precision

from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask, retrieve_replicates


def simulate(plates: int, compounds: int, width: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """One well of every compound on every plate."""
    generator = np.random.default_rng(seed)
    effects = 0.3 * generator.normal(size=(compounds, width))
    profiles = np.concatenate([effects + generator.normal(size=effects.shape) for _ in range(plates)])
    metadata = pd.DataFrame(
        {
            "compound": [f"compound {number}" for _ in range(plates) for number in range(compounds)],
            "plate": [f"plate {number}" for number in range(plates) for _ in range(compounds)],
        }
    )
    return metadata, profiles


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plates", type=int, default=4, help="replicates of every compound")
    parser.add_argument("--compounds", type=int, default=300, help="compounds on every plate")
    parser.add_argument("--width", type=int, default=1536, help="features")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side")
    arguments = parser.parse_args()
    metadata, profiles = simulate(arguments.plates, arguments.compounds, arguments.width)
    groups, plates = (metadata[name].to_numpy(dtype=object) for name in ("compound", "plate"))
    task = RetrievalTask(groups, plates, np.zeros(len(groups), dtype=bool), "any-plate", "others")
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        own = retrieve_replicates(profiles, task)["average_precision"].to_numpy()
        middle = time.perf_counter()
        other = average_precision(metadata, profiles, ["compound"], [], [], ["compound"], progress_bar=False)
        theirs.append(time.perf_counter() - middle)
        ours.append(middle - start)
    agree = np.abs(own - other["average_precision"].to_numpy()) < 1e-9
    wells, seconds, reference = len(groups), statistics.median(ours), statistics.median(theirs)
    print(
        json.dumps(
            {
                "name": "perturbation",
                "ratio": round(reference / seconds, 2),
                "reference": "copairs.map.average_precision on the same profiles, in the same run",
                "figures": {
                    "wells_per_s": round(wells / seconds),
                    "reference_wells_per_s": round(wells / reference),
                    "wells": wells,
                    "width": arguments.width,
                    "share_of_equal_values": float(agree.mean()),
                },
                "device": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
