"""Ways of batch correction compared: what each removes of the plates, and what it keeps of the treatments.

Treatments and controls are divided into halves. Every way is fitted on one half and applied to the other, which is
scored; then the halves change places, so that every treatment is scored by corrections that never saw it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.normalization import (
    fit_sphering,
    normalize_plates,
    typical_variation_normalize,
)
from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask, retrieve_replicates, unit_vectors
from subcell_hf.evaluation.proteome_map.correction import Components, correct_batches

Features = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

METHODS = ("none", "robust z per plate", "sphering", "Harmony", "TVN")
"""Sphering and TVN are fitted on controls only; the robust z-score and Harmony on all wells of the fitting half."""

_COMPONENTS = 50
_NEIGHBOURS = 10
_SIMILAR = 5
_RESAMPLES = 2000


@dataclass(frozen=True)
class BatchComparison:
    """Scores of every way.

    Attributes:
        scores: `method`, `removal`, `conservation`, `score` (their mean), `gain`, `gain_low`, `gain_high` (difference
            of conservation from none, 95 % interval over treatments), `problem`; best first.
        sentence: Whether the best beats none.
    """

    scores: pd.DataFrame
    sentence: str


def compare_corrections(
    features: Features,
    plates: npt.NDArray[np.object_],
    treatments: npt.NDArray[np.object_],
    control: Mask,
    seed: int,
) -> BatchComparison | None:
    """Compare ways of batch correction on treatments that none of them was fitted on.

    Removal is 1 where the wells most similar to a well come from its plate no more often than wells are there, and 0
    where all do. Conservation is the mean average precision with which wells of a treatment retrieve those on other
    plates among wells of other treatments.

    Args:
        features: Profiles of wells before any correction, float64 [wells, features].
        plates: Plate of each well.
        treatments: Treatment of each well, None for controls and wells without one; positive controls have none.
        control: Which wells are sound negative controls.
        seed: Of the halves, of Harmony and of the resamples.

    Returns:
        The comparison, or None where no treatment is on two plates.
    """
    names = sorted({str(name) for name in treatments if name is not None})
    on = pd.Series(plates).groupby(treatments.astype(str)).nunique()
    if sum(int(on.get(name, 0)) > 1 for name in names) < 4:
        return None
    halves = _halves(plates, treatments, control, seed)
    rows, scored = [], {}
    for method in METHODS:
        removal, parts, problem = [], [], ""
        for fit, test in ((halves[0], halves[1]), (halves[1], halves[0])):
            try:
                corrected = _correct(method, features, plates, control, fit, seed)
            except InputError as error:
                problem = str(error)
                break
            removal.append(_removal(corrected[test], plates[test]))
            parts.append(_conservation(corrected[test], plates[test], treatments[test], control[test]))
        if not problem:
            scored[method] = pd.concat(parts).sort_index()
        kept = float("nan") if problem else float(scored[method].mean())
        taken = float("nan") if problem else float(np.mean(removal))
        rows.append({"method": method, "removal": taken, "conservation": kept, "score": (taken + kept) / 2})
        rows[-1] |= _gain(scored.get(method), scored.get("none"), seed) | {"problem": problem}
    table = pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return BatchComparison(table, _verdict(table))


def _halves(
    plates: npt.NDArray[np.object_], treatments: npt.NDArray[np.object_], control: Mask, seed: int
) -> tuple[Mask, Mask]:
    """Two halves of the treatments, each with half of the controls of every plate, bool [wells]."""
    generator = np.random.default_rng([seed, 3])
    names = sorted({str(name) for name in treatments if name is not None})
    chosen = {names[index] for index in generator.permutation(len(names))[: len(names) // 2]}
    first = np.array([name is not None and str(name) in chosen for name in treatments])
    second = np.array([name is not None and str(name) not in chosen for name in treatments])
    for plate in sorted(set(plates)):
        there = generator.permutation(np.flatnonzero(control & (plates == plate)))
        first[there[::2]] = True
        second[there[1::2]] = True
    return first, second


def _correct(
    method: str, features: Features, plates: npt.NDArray[np.object_], control: Mask, fit: Mask, seed: int
) -> Features:
    """All wells, corrected as fitted on some."""
    if method == "none":
        centred: Features = features - features[fit].mean(axis=0)
        return centred
    normalized, _ = normalize_plates(features, plates, fit, "robust")
    if method == "robust z per plate":
        return normalized
    if method == "sphering":
        return fit_sphering(normalized[fit & control], "ZCA-cor").transform(normalized)
    if method == "TVN":
        return typical_variation_normalize(normalized, plates, fit & control)
    return _harmony(normalized, plates, fit, seed)


def _harmony(features: Features, plates: npt.NDArray[np.object_], fit: Mask, seed: int) -> Features:
    """Harmony on the fitting wells; another well is moved as its most similar fitting wells on the same plate are."""
    centre = features[fit].mean(axis=0)
    _, directions = np.linalg.eigh((features[fit] - centre).T @ (features[fit] - centre))
    scores: Features = (features - centre) @ directions[:, ::-1][:, :_COMPONENTS]
    known = np.flatnonzero(fit)
    frame = pd.DataFrame({"plate": plates[fit].astype(str)})
    moved = correct_batches(Components(scores[fit], np.ones(1)), frame, ("plate",), seed).scores - scores[fit]
    corrected = scores.copy()
    corrected[known] += moved
    for plate in sorted(set(plates)):
        own = np.flatnonzero(plates[known] == plate)
        others = np.flatnonzero(~fit & (plates == plate))
        if not len(own) or not len(others):
            continue
        distances = np.linalg.norm(scores[others][:, None, :] - scores[known[own]][None, :, :], axis=2)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :_SIMILAR]
        corrected[others] += moved[own][nearest].mean(axis=1)
    return corrected


def _removal(features: Features, plates: npt.NDArray[np.object_]) -> float:
    """How little the most similar wells share the plate, 0 to 1."""
    vectors = unit_vectors(features)
    codes = pd.factorize(plates)[0]
    shares, expected = [], []
    for start in range(0, len(vectors), 512):
        rows = np.arange(start, min(start + 512, len(vectors)))
        similarity = vectors[rows] @ vectors.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-similarity, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
        shares.append((codes[nearest] == codes[rows, None]).mean(axis=1))
        expected.append((np.bincount(codes)[codes[rows]] - 1) / (len(codes) - 1))
    share, chance = float(np.concatenate(shares).mean()), float(np.concatenate(expected).mean())
    return 1 - max(share - chance, 0.0) / max(1 - chance, 1e-300)


def _conservation(
    features: Features, plates: npt.NDArray[np.object_], treatments: npt.NDArray[np.object_], control: Mask
) -> "pd.Series[float]":
    """Mean average precision of each treatment."""
    queries = retrieve_replicates(features, RetrievalTask(treatments, plates, control, "other-plates", "others"))
    return queries.dropna(subset=["average_precision"]).groupby("group")["average_precision"].mean()


def _gain(scores: "pd.Series[float] | None", none: "pd.Series[float] | None", seed: int) -> dict[str, float]:
    """Difference of conservation from none, paired by treatment, with a bootstrap interval."""
    if scores is None or none is None:
        return {"gain": float("nan"), "gain_low": float("nan"), "gain_high": float("nan")}
    difference = (scores - none).dropna().to_numpy()
    drawn = np.random.default_rng([seed, 4]).integers(len(difference), size=(_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    return {"gain": float(difference.mean()), "gain_low": float(low), "gain_high": float(high)}


def _verdict(scores: pd.DataFrame) -> str:
    best, none = scores.iloc[0], scores[scores["method"] == "none"].iloc[0]
    if best["method"] == "none":
        return "No batch correction scores better than none."
    interval = f"{best['gain']:+.3f}, 95 % interval {best['gain_low']:+.3f} to {best['gain_high']:+.3f}"
    removed = f"it removes {best['removal']:.0%} of the similarity within plates, none removes {none['removal']:.0%}"
    if best["gain_low"] > 0:
        return f"{best['method']} beats no correction on held-out treatments (conservation {interval}); {removed}."
    return (
        f"{best['method']} scores best, but is not shown to keep more of the treatments than no correction "
        f"(conservation {interval}); {removed}."
    )
