"""Is one table of profiles better than another? Paired over the groups that both report."""

from typing import Any

import numpy as np
import pandas as pd

from subcell_hf.errors import InputError

_BOOTSTRAPS = 2000


def compare_groups(ours: pd.DataFrame, theirs: pd.DataFrame, name: str, seed: int = 0) -> dict[str, Any]:
    """Compare the mean average precision of two tables.

    Args:
        ours: As `score_groups` gives it.
        theirs: Likewise, of another table with the same groups.
        name: Of the other table.
        seed: Of the resampled groups.

    Returns:
        `name`, `groups` in common, `groups_left_out` that only one table scores, `ours`, `theirs`, `difference`,
        `difference_95` (groups resampled in pairs), `verdict` (`"better"`, `"worse"` or `"not better"`) and a
        `sentence` that says so.

    Raises:
        InputError: If no group is in both.
    """
    column = ours.columns[0]
    both = ours.merge(theirs, on=column, suffixes=("", "_other"), validate="one_to_one")
    if both.empty:
        raise InputError(f"{name} shares no group with the profiles; their {column} must name the same perturbations.")
    mine, other = both["mean_average_precision"], both["mean_average_precision_other"]
    differences = (mine - other).to_numpy()
    generator = np.random.default_rng(seed)
    means = differences[generator.integers(len(differences), size=(_BOOTSTRAPS, len(differences)))].mean(axis=1)
    low, high = (float(bound) for bound in np.quantile(means, [0.025, 0.975]))
    verdict = "better" if low > 0 else "worse" if high < 0 else "not better"
    left_out = sorted(set(ours[column]) ^ set(theirs[column]))
    words = {
        "better": "The profiles are better than",
        "worse": "The profiles are WORSE than",
        "not better": "The profiles are NOT shown to be better than",
    }
    return {
        "name": name,
        "groups": len(both),
        "groups_left_out": left_out,
        "ours": float(mine.mean()),
        "theirs": float(other.mean()),
        "difference": float(differences.mean()),
        "difference_95": [low, high],
        "verdict": verdict,
        "sentence": (
            f"{words[verdict]} {name}: mean average precision {mine.mean():.3f} against {other.mean():.3f} over "
            f"{len(both)} groups, difference {differences.mean():+.3f}, 95 % interval {low:+.3f} to {high:+.3f}."
            + (f" {len(left_out)} groups that only one of them scores are left out." if left_out else "")
        ),
    }
