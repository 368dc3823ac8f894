"""Retrieval: are profiles that should be alike nearer to each other than to others?

Average precision is computed from exact cosine similarities in float64, in blocks of queries. Profiles that are equally
similar tie: they count with the precision at the end of their tie, as in scikit-learn, so that a model that gives every
cell the same embedding scores at chance. (copairs ranks the positives of a tie first.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError

Mask = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]

POSITIVES = ("any-plate", "other-plates")
NEGATIVES = ("same-plate-controls", "controls", "same-plate-others", "other-plates-others", "others")

_DECIMALS = 12
"""Number of decimals to which similarities are compared, so that ties do not depend on the order of summation."""

_QUERIES_AT_ONCE = 512


@dataclass(frozen=True)
class Precisions:
    """How well each query retrieves its positives.

    Attributes:
        average_precision: float64 [queries]; NaN where a query has no positives.
        interpolated_average_precision: The same with the precision at each recall replaced by the highest precision at
            this or any higher recall, float64 [queries].
        positives: Number of positives, int64 [queries].
        candidates: Number of positives and negatives, int64 [queries].
    """

    average_precision: Scores
    interpolated_average_precision: Scores
    positives: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]


def unit_vectors(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Profiles scaled to length 1, float64 [profiles, features].

    Raises:
        InputError: If a profile is all zeros, which points nowhere.
    """
    lengths = np.linalg.norm(features, axis=1)
    if not lengths.all():
        zeros = np.flatnonzero(lengths == 0)
        raise InputError(
            f"{len(zeros)} profiles are all zeros (the first is row {zeros[0] + 1}) and have no cosine similarity. "
            "Remove them, or use another normalisation."
        )
    scaled: npt.NDArray[np.float64] = features / lengths[:, None]
    return scaled


def average_precisions(similarity: Scores, positives: Mask, negatives: Mask) -> Precisions:
    """Average precision of each query.

    Naively, for a query: over its positives p, the mean of (positives at least as similar as p) / (candidates at least
    as similar as p), candidates being positives and negatives.

    Args:
        similarity: float64 [queries, profiles].
        positives: Which profiles should come first, bool [queries, profiles].
        negatives: Which should not; profiles that are neither do not count.
    """
    candidates = positives | negatives
    scores = np.where(candidates, np.round(similarity, _DECIMALS), -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    relevant = np.take_along_axis(positives, order, axis=1)
    counted = np.take_along_axis(candidates, order, axis=1)
    ends = _ends_of_ties(ranked)
    found = np.take_along_axis(np.cumsum(relevant, axis=1), ends, axis=1)
    seen = np.take_along_axis(np.cumsum(counted, axis=1), ends, axis=1)
    precision = found / np.maximum(seen, 1)
    best_from_here = np.maximum.accumulate(np.where(counted, precision, 0.0)[:, ::-1], axis=1)[:, ::-1]
    total = positives.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a query without positives
        return Precisions(
            average_precision=np.where(relevant, precision, 0.0).sum(axis=1) / total,
            interpolated_average_precision=np.where(relevant, best_from_here, 0.0).sum(axis=1) / total,
            positives=total.astype(np.int64),
            candidates=candidates.sum(axis=1).astype(np.int64),
        )


@dataclass(frozen=True)
class RetrievalTask:
    """Who queries, and what counts as found.

    Attributes:
        groups: Group of each profile (text), or None, such as for controls.
        plates: Plate of each profile.
        control: Which profiles are controls; they are never queries or positives.
        positives: One of `POSITIVES`.
        negatives: One of `NEGATIVES`; "others" are treated profiles of other groups.
    """

    groups: npt.NDArray[np.object_]
    plates: npt.NDArray[np.object_]
    control: Mask
    positives: str = "any-plate"
    negatives: str = "same-plate-controls"

    def queries(self) -> npt.NDArray[np.intp]:
        """Rows of the treated profiles.

        Raises:
            InputError: If the task is none.
        """
        if self.positives not in POSITIVES:
            raise InputError(f"Unknown positives {self.positives!r}: choose one of {', '.join(POSITIVES)}.")
        if self.negatives not in NEGATIVES:
            raise InputError(f"Unknown negatives {self.negatives!r}: choose one of {', '.join(NEGATIVES)}.")
        if self.negatives.endswith("controls") and not self.control.any():
            raise InputError(
                f"No profile is a control, but the negatives are {self.negatives}. Select controls with "
                "--control COLUMN=VALUE, or choose --negatives others."
            )
        treated = np.array([group is not None for group in self.groups]) & ~self.control
        if not treated.any():
            raise InputError("No profile belongs to a group: every one is a control or has no value there.")
        return np.flatnonzero(treated)

    def masks(self, rows: npt.NDArray[np.intp]) -> tuple[Mask, Mask]:
        """Positives and negatives of some queries, bool [queries, profiles] each."""
        groups, _ = pd.factorize(self.groups)
        plates, _ = pd.factorize(self.plates)
        treated = (groups >= 0) & ~self.control
        same_group = groups[rows, None] == groups[None, :]
        same_plate = plates[rows, None] == plates[None, :]
        positives = same_group & treated
        positives[np.arange(len(rows)), rows] = False
        if self.positives == "other-plates":
            positives &= ~same_plate
        negatives = np.broadcast_to(self.control, same_group.shape)
        if not self.negatives.endswith("controls"):
            negatives = treated & ~same_group
        if self.negatives.startswith("same-plate"):
            negatives = negatives & same_plate
        elif self.negatives.startswith("other-plates"):
            negatives = negatives & ~same_plate
        return positives, negatives


def retrieve_replicates(features: npt.NDArray[np.float64], task: RetrievalTask) -> pd.DataFrame:
    """Score every treated profile by how well it retrieves the others of its group.

    Args:
        features: float64 [profiles, features].
        task: What counts as found.

    Returns:
        One row per query: `row`, `group`, `plate`, `average_precision`, `interpolated_average_precision`,
        `n_pos_pairs`, `n_total_pairs`, `nearest_neighbour_accuracy` (is the most similar treated profile of another
        plate of the same group? NaN where no other plate has one of its group).

    Raises:
        InputError: If the task is none, a profile is all zeros, or no query has a positive and a negative.
    """
    rows = task.queries()
    vectors = unit_vectors(features)
    treated = np.zeros(len(vectors), dtype=bool)
    treated[rows] = True
    blocks = [
        _score_block(vectors, task, treated, rows[start : start + _QUERIES_AT_ONCE])
        for start in range(0, len(rows), _QUERIES_AT_ONCE)
    ]
    scored = pd.concat(blocks, ignore_index=True)
    if not scored["average_precision"].notna().any():
        raise InputError(
            "No query has both a positive and a negative: every group has a single profile, or no negatives "
            f"({task.negatives}) are on its plate."
        )
    return scored


def _score_block(
    vectors: npt.NDArray[np.float64], task: RetrievalTask, treated: Mask, rows: npt.NDArray[np.intp]
) -> pd.DataFrame:
    """Some queries."""
    similarity = vectors[rows] @ vectors.T
    positives, negatives = task.masks(rows)
    precisions = average_precisions(similarity, positives, negatives)
    usable = (precisions.positives > 0) & (precisions.candidates > precisions.positives)
    groups, _ = pd.factorize(task.groups)
    plates, _ = pd.factorize(task.plates)
    elsewhere = treated & (plates[rows, None] != plates[None, :])
    same_group = groups[rows, None] == groups[None, :]
    return pd.DataFrame(
        {
            "row": rows,
            "group": task.groups[rows],
            "plate": task.plates[rows],
            "average_precision": np.where(usable, precisions.average_precision, np.nan),
            "interpolated_average_precision": np.where(usable, precisions.interpolated_average_precision, np.nan),
            "n_pos_pairs": precisions.positives,
            "n_total_pairs": precisions.candidates,
            "nearest_neighbour_accuracy": nearest_neighbour_hits(similarity, same_group, elsewhere),
        }
    )


def nearest_neighbour_hits(similarity: Scores, right: Mask, candidates: Mask) -> Scores:
    """Score each query by its nearest candidate.

    NaN where no candidate is right, so that nothing could have been found.

    Args:
        similarity: [queries, profiles].
        right: bool [queries, profiles]: what is correct to find.
        candidates: bool [queries, profiles]: what may be found.

    Returns:
        float64 [queries]: share of correct profiles among the most similar candidates, of which there are several if
        they tie.
    """
    scores = np.where(candidates, np.round(similarity, _DECIMALS), -np.inf)
    nearest = candidates & (scores == scores.max(axis=1, keepdims=True, initial=-np.inf))
    hits = (nearest & right).sum(axis=1) / np.maximum(nearest.sum(axis=1), 1)
    return np.where((candidates & right).any(axis=1), hits, np.nan)


def retrieve_mechanisms(
    features: npt.NDArray[np.float64], mechanisms: list[frozenset[str]], progress: Callable[[int], None] | None = None
) -> pd.DataFrame:
    """Score consensus profiles by how well they retrieve others with the same mechanism.

    A perturbation with several mechanisms is a query for each of them: positives are the others that have this
    mechanism, negatives those that share none with it.

    Args:
        features: One profile per perturbation, float64 [perturbations, features].
        mechanisms: Mechanisms of each perturbation; those without any take no part.
        progress: Called with the number of mechanisms scored.

    Returns:
        One row per perturbation and mechanism: `row`, `group` (the mechanism) and the columns of
        `retrieve_replicates` but for the plate.

    Raises:
        InputError: If no mechanism has two perturbations and negatives.
    """
    rows = np.array([row for row, names in enumerate(mechanisms) if names], dtype=np.intp)
    if len(rows) < 2:
        raise InputError(f"{len(rows)} perturbations have a mechanism of action; at least two are needed.")
    names = sorted(set().union(*mechanisms))
    has = np.array([[name in mechanisms[row] for name in names] for row in rows])
    shares = (has.astype(np.float32) @ has.T.astype(np.float32)) > 0
    vectors = unit_vectors(features[rows])
    similarity = vectors @ vectors.T
    others = ~np.eye(len(rows), dtype=bool)
    hits = nearest_neighbour_hits(similarity, shares, others)
    parts = []
    for number, name in enumerate(names):
        queries = np.flatnonzero(has[:, number])
        positives = has[:, number][None, :] & others[queries]
        scored = average_precisions(similarity[queries], positives, ~shares[queries])
        usable = (scored.positives > 0) & (scored.candidates > scored.positives)
        part = pd.DataFrame(
            {
                "row": rows[queries],
                "group": name,
                "average_precision": scored.average_precision,
                "interpolated_average_precision": scored.interpolated_average_precision,
                "n_pos_pairs": scored.positives,
                "n_total_pairs": scored.candidates,
                "nearest_neighbour_accuracy": hits[queries],
            }
        )
        parts.append(part[usable])
        if progress:
            progress(number + 1)
    scored_all = pd.concat(parts, ignore_index=True)
    if scored_all.empty:
        raise InputError(
            "No mechanism can be scored: one needs at least two perturbations, and others that do not share it."
        )
    return scored_all


def _ends_of_ties(ranked: Scores) -> npt.NDArray[np.intp]:
    """For each place of a descending list the last place with the same score, [queries, profiles]."""
    width = ranked.shape[1]
    last = np.ones(ranked.shape, dtype=bool)
    last[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    ends = np.where(last, np.arange(width), width)
    return np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
