"""Mean average precision of groups against copairs' null (Kalinin et al. 2024, doi 10.1101/2024.04.01.587631)."""

import tempfile

import pandas as pd

from subcell_hf.storage.full_disk import naming_full_disk

SIGNIFICANCE_LEVEL = 0.05

_COLUMNS = (
    "mean_average_precision",
    "mean_normalized_average_precision",
    "p_value",
    "corrected_p_value",
    "interpolated_average_precision",
    "nearest_neighbour_accuracy",
    "queries",
)


def score_groups(queries: pd.DataFrame, name: str, *, null_size: int, seed: int) -> pd.DataFrame:
    """Mean over the queries of each group, with p-values by permutation and q-values by Benjamini and Hochberg.

    Args:
        queries: As `retrieve_replicates` gives it; queries without average precision are left out.
        name: Name of the first column, the group.
        null_size: Random rankings per number of positives and candidates.
        seed: Same seed, same p-values.

    Returns:
        One row per group, sorted by its name: `mean_average_precision`, `mean_normalized_average_precision` (0 at
        chance, 1 at best), `p_value`, `corrected_p_value`, then upstream's own measures and the number of queries.
    """
    from copairs.map import mean_average_precision
    from copairs.map.normalization import normalize_ap

    scored = queries[queries["average_precision"].notna()].reset_index(drop=True)
    positives = scored["n_pos_pairs"].to_numpy()
    scored["normalized_average_precision"] = normalize_ap(
        scored["average_precision"].to_numpy(), positives, scored["n_total_pairs"].to_numpy() - positives
    )
    # copairs keeps null distributions in the user's home and reads them again whatever the seed of each was.
    with tempfile.TemporaryDirectory() as cache, naming_full_disk(cache):
        tested = mean_average_precision(
            scored,
            sameby=["group"],
            null_size=null_size,
            threshold=SIGNIFICANCE_LEVEL,
            seed=seed,
            progress_bar=False,
            max_workers=2,
            cache_dir=cache,
        )
    grouped = scored.groupby("group", sort=True)
    own = grouped[["interpolated_average_precision", "nearest_neighbour_accuracy"]].mean()
    own["queries"] = grouped.size()
    groups = tested.set_index("group").drop(columns=["indices"], errors="ignore").join(own).sort_index()
    return groups[list(_COLUMNS)].rename_axis(name).reset_index()
