"""`python -m tests.fuzz --seed 0 --cases 2000`: damaged inputs of every kind through the package's readers."""

import argparse
import logging
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path

# Before anything of torch or the Hub is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}

from tests.fuzz.kinds import KINDS
from tests.fuzz.runner import Case, Kind, Outcome, run_cases, write_sound


def plan(kinds: list[Kind], seed: int, count: int) -> list[Case]:
    """Numbers of cases by the kinds' shares, mixed, at least one of each."""
    total = sum(kind.share for kind in kinds)
    cases = [Case(kind.name, seed, n) for kind in kinds for n in range(math.ceil(count * kind.share / total))]
    return sorted(cases, key=lambda case: case.number)


def table(kinds: list[Kind], outcomes: list[Outcome]) -> str:
    """One line for each kind."""
    lines = [f"{'kind':<14}{'cases':>7}{'accepted':>10}{'refused':>9}{'faults':>8}{'slowest s':>11}{'peak MiB':>10}"]
    for name in (*(kind.name for kind in kinds), "all"):
        of = [outcome for outcome in outcomes if name in (outcome.case.kind, "all")]
        if of:
            ends = [outcome.end for outcome in of]
            counts = [ends.count(end) for end in ("accepted", "refused", "fault")]
            slowest, peak = max(o.seconds for o in of), max(o.peak_bytes for o in of) / 2**20
            lines.append(
                f"{name:<14}{len(of):>7}{counts[0]:>10}{counts[1]:>9}{counts[2]:>8}{slowest:>11.2f}{peak:>10.0f}"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the cases, print the table; 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000, help="Cases of all kinds together.")
    parser.add_argument("--kind", action="append", help="Only this kind; repeat for several.")
    parser.add_argument("--case", type=int, help="Only the case of this number, of one --kind.")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--faults", type=Path, default=Path("build/fuzz"), help="Where inputs that fail are kept.")
    parser.add_argument("--show", action="store_true", help="Print how every case ended.")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    kinds = [kind for kind in KINDS if not asked.kind or kind.name in asked.kind]
    cases = plan(kinds, asked.seed, asked.cases)
    if asked.case is not None:
        cases = [Case(kind.name, asked.seed, asked.case) for kind in kinds]
    with tempfile.TemporaryDirectory(prefix="subcell-fuzz-") as work:
        os.environ["SUBCELL_FUZZ_CANARY"] = str(Path(work, "canary-was-run"))
        write_sound(kinds, Path(work))
        outcomes = []
        for outcome in run_cases(cases, kinds, Path(work), asked.faults, asked.workers):
            outcomes.append(outcome)
            if outcome.end == "fault" or asked.show:
                print(f"{outcome.end} {outcome.case} ({outcome.damage}): {outcome.message}", flush=True)
    print(table(kinds, outcomes))
    faults = [outcome for outcome in outcomes if outcome.end == "fault"]
    if faults:
        one = faults[0].case
        print(
            f"{len(faults)} faults, kept in {asked.faults}. Repeat one alone: python -m tests.fuzz --seed {one.seed} "
            f"--kind {one.kind} --case {one.number}"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
