"""Hits of simulated screens beside what is true: false discoveries, power, EC50, toxic compounds, positions.

    python benchmarks/screen_truth.py [--screens 100] [--first 0] [--permutations 1000] [--correct-position]
                                      [--processes 2]

The reference is a t-test of each treatment's distance from the controls, with the same false discovery rate. Each
screen has 1,152 wells on three plates, see `subcell_hf.simulation.simulate_screen`. Screens are divided among
processes; each screen is the same whatever their number.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from subcell_hf.evaluation.screening import ScreenSettings, evaluate_screen, read_wells
from subcell_hf.simulation import write_screen


def judge(seed: int, settings: ScreenSettings) -> dict[str, Any]:
    """What one screen's hits have in common with its truth."""
    with tempfile.TemporaryDirectory() as folder:
        screen = write_screen(seed, folder)
        columns = ("treatment", "dose", "control_type", "mechanism")
        wells = read_wells([Path(folder) / "profiles.parquet"], [Path(folder) / "plate_map.csv"], columns)
    result = evaluate_screen(wells, settings)
    found = result.hits.merge(screen.truth, on="treatment", suffixes=("", "_true"))
    active, toxic = found["active_true"].to_numpy(bool), found["toxic_only"].to_numpy(bool)
    called, inactive = found["active"].to_numpy(bool), ~active & ~toxic
    curves = found[active & found["ec50"].notna()]
    covered = curves["ec50_low"].le(curves["ec50_true"]) & curves["ec50_high"].ge(curves["ec50_true"])
    intervals = found["effect_low"].le(0) & found["effect_high"].ge(0)
    before = {test.effect: test.p_value for test in result.positions}
    after = {test.effect: test.p_value for test in result.corrected_positions}
    failed = {f"{plate}/{well}" for plate, well in screen.failed_controls}
    return {
        "hits": int(called.sum()),
        "false": int((called & ~active).sum()),
        "false_discovery_rate": float((called & ~active).sum() / max(called.sum(), 1)),
        "found": int((called & active).sum()),
        "active": int(active.sum()),
        "toxic": int(toxic.sum()),
        "toxic_called": int((called & toxic).sum()),
        "toxic_differ": int((found["q_profile"].le(settings.level) & toxic).sum()),
        "inactive": int(inactive.sum()),
        "inactive_p_below_level": int((found["p_value"].le(settings.level) & inactive).sum()),
        "ec50_identified": len(curves),
        "ec50_covered": int(covered.sum()),
        "effect_covers_0": int((intervals & inactive).sum()),
        "edge_found": int(before["edge"] <= settings.level),
        "edge_left": int(after.get("edge", np.nan) <= settings.level) if after else None,
        "failed_controls": len(failed),
        "failed_controls_found": len(failed & set(result.summary["failed_controls"])),
        "sound_controls_called_failed": len(set(result.summary["failed_controls"]) - failed),
        "reference_false_discovery_rate": _reference(result.wells, screen.truth, settings.level),
    }


def _reference(wells: pd.DataFrame, truth: pd.DataFrame, level: float) -> float:
    """False discovery rate of t-tests of the distance from the controls."""
    control = wells.loc[wells["role"] == "control", "distance"]
    names = truth["treatment"]
    p_values = [stats.f_oneway(wells.loc[wells["treatment"] == name, "distance"], control).pvalue for name in names]
    called = stats.false_discovery_control(np.array(p_values)) <= level
    return float((called & ~truth["active"].to_numpy(bool)).sum() / max(called.sum(), 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screens", type=int, default=100, help="number of screens")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one")
    parser.add_argument("--permutations", type=int, default=1000, help="permutations for each p-value, at most")
    parser.add_argument("--correct-position", action="store_true", help="subtract effects of positions")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes at a time")
    arguments = parser.parse_args()
    settings = ScreenSettings(
        permutations=arguments.permutations, judge_batches=False, correct_position=arguments.correct_position
    )
    seeds = range(arguments.first, arguments.first + arguments.screens)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of processes that are started below
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        judged = pd.DataFrame(list(pool.map(functools.partial(judge, settings=settings), seeds)))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = judged.sum(numeric_only=True)
    error = float(judged["false_discovery_rate"].std() / max(len(judged), 1) ** 0.5)
    left = None if judged["edge_left"].isna().any() else float(judged["edge_left"].mean())
    print(
        json.dumps(
            {
                "name": "screen_truth",
                "figures": {
                    "screens": len(judged),
                    "false_discovery_rate": round(float(judged["false_discovery_rate"].mean()), 4),
                    "false_discovery_rate_standard_error": round(error, 4),
                    "power": round(float(total["found"] / total["active"]), 4),
                    "toxic_only_called_hits": round(float(total["toxic_called"] / total["toxic"]), 4),
                    "toxic_only_that_differ": round(float(total["toxic_differ"] / total["toxic"]), 4),
                    "inactive_p_below_0.05": round(float(total["inactive_p_below_level"] / total["inactive"]), 4),
                    "ec50_identified": int(total["ec50_identified"]),
                    "ec50_interval_coverage": round(float(total["ec50_covered"] / max(total["ec50_identified"], 1)), 4),
                    "effect_interval_covers_0_if_inactive": round(
                        float(total["effect_covers_0"] / total["inactive"]), 4
                    ),
                    "edge_effects_found": round(float(judged["edge_found"].mean()), 4),
                    "edge_effects_left": left,
                    "failed_controls_found": round(float(total["failed_controls_found"] / total["failed_controls"]), 4),
                    "sound_controls_called_failed_per_screen": round(
                        float(total["sound_controls_called_failed"] / len(judged)), 2
                    ),
                    "cpu_s_per_screen": round((used.ru_utime + used.ru_stime) / len(judged), 2),
                },
                "reference": "t-tests of the distance from the controls, same screens",
                "reference_false_discovery_rate": round(float(judged["reference_false_discovery_rate"].mean()), 4),
                "correct_position": arguments.correct_position,
                "permutations": arguments.permutations,
                "versions": {package: version(package) for package in ("subcell-hf", "numpy", "scipy")},
                "command": " ".join(["python", *sys.argv]),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "load": round(os.getloadavg()[0], 1),
                "device": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
