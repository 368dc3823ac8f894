"""Localization metrics with antibody-level intervals and a paired test, at the size of the whole Human Protein Atlas.

    python benchmarks/evaluation.py [--part localization] [--cells 1000000] [--width 1536]

Times, on a table of made-up cells: the metrics of two models (average precision, ROC-AUC, ranking metrics), 1000
bootstrap samples of the antibodies with their intervals, and a paired test of 1000 permutations. Reference: the same
metrics and samples the plain way, which scores the drawn cells anew with scikit-learn for every sample; timed for a few
samples, given for all. Prints one JSON line with `name`, `ratio` (reference time / ours), `reference` and `figures`.
"""

import argparse
import json
import resource
import time

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    average_precision_score,
    coverage_error,
    label_ranking_average_precision_score,
    roc_auc_score,
)

from subcell_hf.evaluation.localization.bootstrap import (
    bootstrap_weights,
    count_ranks,
    interval,
    paired_tests,
    resample_metrics,
)
from subcell_hf.evaluation.localization.probes import LinearProbe
from subcell_hf.evaluation.localization.ranking import summarize

CLASSES = 31


def make_cells(
    cells: int, width: int, antibodies: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Embeddings, targets and antibodies; embeddings are filled in pieces, so that nothing is held twice."""
    rng = np.random.default_rng(0)
    antibody = np.sort(rng.integers(0, antibodies, cells))
    antibody[:antibodies] = np.arange(antibodies)
    targets = (rng.random((antibodies, CLASSES)) < 0.08)[antibody].astype(np.uint8)
    directions = rng.normal(size=(CLASSES, width)).astype(np.float32)
    embeddings = np.empty((cells, width), np.float32)
    for start in range(0, cells, 16_384):
        part = slice(start, start + 16_384)
        embeddings[part] = rng.standard_normal((len(antibody[part]), width), np.float32)
        embeddings[part] += targets[part].astype(np.float32) @ directions
    return embeddings, targets, antibody


def plain_summary(targets: npt.NDArray[np.uint8], scores: npt.NDArray[np.float32]) -> None:
    """The same metrics with scikit-learn alone."""
    known = np.flatnonzero((targets.sum(axis=0) > 0) & (targets.sum(axis=0) < len(targets)))
    average_precision_score(targets[:, known], scores[:, known], average="macro")
    roc_auc_score(targets[:, known], scores[:, known], average="macro")
    average_precision_score(targets, scores, average="micro")
    label_ranking_average_precision_score(targets, scores)
    coverage_error(targets, scores)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["localization"], default="localization")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--antibodies", type=int, default=12_000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--plain-resamples", type=int, default=1, help="samples that the reference is timed for")
    arguments = parser.parse_args()
    embeddings, targets, antibody = make_cells(
        arguments.cells, arguments.width, min(arguments.antibodies, arguments.cells)
    )
    begun = time.perf_counter()
    train, test = np.flatnonzero(antibody % 5 < 3), slice(None)
    some = train[np.random.default_rng(0).permutation(len(train))[:20_000]]
    probe = LinearProbe(penalties=(1e-2,), iterations=30)
    first = probe.fit_predict(
        embeddings[some], targets[some], embeddings[some[:1]], targets[some[:1]], embeddings[test]
    )[0]
    probe_s = time.perf_counter() - begun
    second = np.clip(first + np.random.default_rng(1).normal(0, 0.02, first.shape), 0, 1).astype(np.float32)

    begun = time.perf_counter()
    exact = summarize(targets, first), summarize(targets, second)
    metrics_s = time.perf_counter() - begun
    counted = count_ranks(targets, first, antibody), count_ranks(targets, second, antibody)
    weights = bootstrap_weights(int(antibody.max()) + 1, arguments.resamples, np.random.default_rng(0))
    resampled = resample_metrics(counted[0], weights)
    intervals = {name: interval(exact[0][name], values) for name, values in resampled.items()}
    intervals_s = time.perf_counter() - begun
    tests = paired_tests(exact, counted, resamples=arguments.resamples, seed=0)
    ours_s = time.perf_counter() - begun
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # table included, reference not

    begun = time.perf_counter()
    rng = np.random.default_rng(0)
    for _ in range(arguments.plain_resamples):
        drawn = rng.integers(0, len(targets), len(targets))
        plain_summary(targets[drawn], first[drawn])
    plain_s = (time.perf_counter() - begun) / arguments.plain_resamples * arguments.resamples
    print(
        json.dumps(
            {
                "name": "localization metrics with intervals",
                "ratio": round(plain_s / intervals_s, 2),
                "reference": "scikit-learn on every bootstrap sample",
                "figures": {
                    "cells": arguments.cells,
                    "width": arguments.width,
                    "antibodies": int(antibody.max()) + 1,
                    "resamples": arguments.resamples,
                    "probe_s": round(probe_s, 1),
                    "metrics_of_two_models_s": round(metrics_s, 1),
                    "metrics_and_intervals_s": round(intervals_s, 1),
                    "with_paired_test_s": round(ours_s, 1),
                    "reference_s": round(plain_s, 1),
                    "macro_map": round(exact[0]["macro_map"], 4),
                    "macro_map_95": [round(end, 4) for end in intervals["macro_map"]],
                    "difference_95": [round(tests["macro_map"].low, 5), round(tests["macro_map"].high, 5)],
                    "peak_memory_gib": round(peak_gib, 2),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
