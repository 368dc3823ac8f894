"""The JUMP pilot as CHAMMI-75 scores encoders on it: which compounds are active, and do active ones share targets?

Source: Agrawal et al., ICLR 2026, and its code, CaicedoLab/CHAMMI-75 at b84a4ec, `benchmarks/JUMPCP`.
"""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.consensus_profiles import consensus_profiles
from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask, retrieve_mechanisms, retrieve_replicates
from subcell_hf.evaluation.perturbation.significance import SIGNIFICANCE_LEVEL, score_groups
from subcell_hf.evaluation.perturbation.table import ProfileTable

_BRIGHTFIELD = ("ZBF", "Brightfield")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActivityScores:
    """What `score_activity` found.

    Attributes:
        compounds: One row per compound, see `score_groups`.
        targets: One row per target of active compounds; None if no two of these share one.
        scores: Name → value.
        unpaired: Treated wells that have no replicate.
    """

    compounds: pd.DataFrame
    targets: pd.DataFrame | None
    scores: dict[str, float]
    unpaired: int


def sphere_by_controls(wells: ProfileTable, control: npt.NDArray[np.bool_], epsilon: float) -> ProfileTable:
    """Sphere all plates together by their controls with pycytominer (ZCA-cor), as is published for embeddings.

    Args:
        wells: Profiles of wells.
        control: Which wells are negative controls, bool [wells].
        epsilon: Is added to every singular value.

    Raises:
        InputError: If a feature is constant among the controls, or they span too little.
    """
    from pycytominer import normalize

    frame = pd.DataFrame(wells.features, columns=list(wells.names)).assign(control=control)
    try:
        sphered = normalize(
            frame,
            features=list(wells.names),
            meta_features=["control"],
            samples="control",
            method="spherize",
            spherize_method="ZCA-cor",
            spherize_epsilon=epsilon,
        )
    except ValueError as error:
        raise InputError(f"The profiles cannot be sphered by their {control.sum()} controls: {error}") from error
    return wells.with_features(sphered[list(wells.names)].to_numpy(np.float64))


def without_brightfield(wells: ProfileTable) -> ProfileTable:
    """CellProfiler's profiles without the features of brightfield images, as is published.

    Args:
        wells: Profiles of wells.
    """
    keep = np.array([not any(word in name for word in _BRIGHTFIELD) for name in wells.names])
    return wells.with_features(wells.features[:, keep], np.array(wells.names)[keep].tolist())


def score_activity(
    wells: ProfileTable, task: RetrievalTask, group: str, target: str, *, null_sizes: tuple[int, int], seed: int
) -> ActivityScores:
    """Score the compounds, and the targets of those that are active.

    Args:
        wells: Profiles of wells, ready to be compared; cosine similarity.
        task: Their compounds, plates and controls.
        group: Column of the compound.
        target: Column of its targets, separated by `|`.
        null_sizes: Random rankings for each p-value of compounds, and of targets.
        seed: Of these rankings.

    Raises:
        InputError: If no compound has replicates, or a column is missing.
    """
    queries = retrieve_replicates(wells.features, task)
    compounds = score_groups(queries, group, null_size=null_sizes[0], seed=seed)
    active = compounds["corrected_p_value"] < SIGNIFICANCE_LEVEL
    precision = compounds["mean_average_precision"]
    scores = {
        "active fraction": float(active.mean()),
        "activity mean average precision, 0 if not active": float(precision.where(active, 0).mean()),
        "activity mean average precision": float(precision.mean()),
    }
    treated = wells.select(~task.control)
    known = frozenset[str]().union(*_targets(treated, target))
    if not known:
        raise InputError(f"The column {target!r} names no target. Give the table of the compounds' targets, too.")
    chosen = treated.select(np.isin(treated.column(group).astype(str), compounds[group][active].astype(str)))
    targets = _score_targets(chosen, group, target, null_sizes[1], seed) if len(chosen) else None
    consistent, found = np.zeros(0, dtype=bool), 0.0
    if targets is not None:
        consistent = (targets["corrected_p_value"] < SIGNIFICANCE_LEVEL).to_numpy()
        found = float(targets["mean_average_precision"][consistent].sum())
    scores |= {
        "consistent fraction of scored targets": float(consistent.mean()) if len(consistent) else 0.0,
        "consistent fraction of all targets": float(consistent.sum()) / len(known),
        "consistency mean average precision, 0 if not consistent": found / len(known),
    }
    return ActivityScores(compounds, targets, scores, int(queries["average_precision"].isna().sum()))


def _score_targets(wells: ProfileTable, group: str, target: str, null_size: int, seed: int) -> pd.DataFrame | None:
    """Scores of the targets of some compounds; None if no two of them share one."""
    consensus = consensus_profiles(wells, group, "median")
    try:
        queries = retrieve_mechanisms(consensus.features, _targets(consensus, target))
    except InputError as error:
        _logger.info("No target is scored: %s", error)
        return None
    return score_groups(queries, target, null_size=null_size, seed=seed)


def _targets(wells: ProfileTable, column: str) -> list[frozenset[str]]:
    values = wells.column(column)
    return [frozenset(str(value).split("|")) if value is not None else frozenset() for value in values]
