"""Quality of plates: controls that failed, how well controls separate, wells with too few cells, plates to repeat."""

import numpy as np
import numpy.typing as npt
import pandas as pd

Features = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_FAR = 3.0
_AT_LEAST = 1.4
_MANY = 0.2
_FEWEST = 4


def failed_controls(features: Features, control: Mask) -> Mask:
    """Negative controls that are unlike the others, bool [wells].

    A control fails whose distance from the median control is 1.4 times the median distance or more, and farther by
    three spreads of the nearer half on a log scale, which the failed ones do not widen.

    Args:
        features: Processed profiles, float64 [wells, features].
        control: Which wells are negative controls.
    """
    distances = np.linalg.norm(features - np.median(features[control], axis=0), axis=1)
    logs = np.log(np.maximum(distances, 1e-300))
    middle = float(np.median(logs[control]))
    spread = max(middle - float(np.quantile(logs[control], 0.16)), 1e-12)
    failed: Mask = control & (logs > middle + _FAR * spread) & (logs > middle + np.log(_AT_LEAST))
    return failed


def describe_plates(
    features: Features,
    plates: npt.NDArray[np.intp],
    names: npt.NDArray[np.object_],
    controls: tuple[Mask, Mask, Mask],
    counts: Features | None,
) -> pd.DataFrame:
    """One row per plate: controls, their separation, and whether to repeat the plate.

    Z' (Zhang et al. 1999) and the strictly standardised mean difference (Zhang 2007), both with medians and median
    absolute deviations, compare positive with negative controls along the direction that separates them on the other
    plates; with one plate, along that of each half of the controls for the other half.

    Args:
        features: Processed profiles, float64 [wells, features].
        plates: Number of each well's plate.
        names: Name of each well's plate.
        controls: Negative, failed negative and positive controls, bool [wells] each.
        counts: Number of cells of each well, if known.

    Returns:
        `plate`, `wells`, `controls`, `failed_controls`, `positive_controls`, `z_prime`, `ssmd`, `median_cells`,
        `repeat` (the reason, or empty).
    """
    negative, failed, positive = controls
    sound = negative & ~failed
    rows = []
    for plate in np.unique(plates):
        there = plates == plate
        z_prime, ssmd = _separation(features, plates, int(plate), sound, positive)
        reasons = []
        lost = int((there & failed).sum())
        if lost > _MANY * int((there & negative).sum()):
            reasons.append(f"{lost} of {int((there & negative).sum())} controls failed")
        if int((there & sound).sum()) < _FEWEST:
            reasons.append(f"fewer than {_FEWEST} sound controls")
        if np.isfinite(z_prime) and z_prime < 0:
            reasons.append(f"Z' is {z_prime:.2f}")
        if np.isfinite(ssmd) and ssmd <= 0:
            reasons.append("positive controls do not differ from negative ones as on the other plates")
        rows.append(
            {
                "plate": str(names[np.flatnonzero(there)[0]]),
                "wells": int(there.sum()),
                "controls": int((there & negative).sum()),
                "failed_controls": lost,
                "positive_controls": int((there & positive).sum()),
                "z_prime": z_prime,
                "ssmd": ssmd,
                "median_cells": float("nan") if counts is None else float(np.median(counts[there])),
                "repeat": "; ".join(reasons),
            }
        )
    return pd.DataFrame(rows)


def _separation(
    features: Features, plates: npt.NDArray[np.intp], plate: int, negative: Mask, positive: Mask
) -> tuple[float, float]:
    """Z' and SSMD of a plate; NaN with fewer than two controls of a kind."""
    there = plates == plate
    kinds = [np.flatnonzero(there & kind) for kind in (negative, positive)]
    if min(map(len, kinds)) < 2:
        return float("nan"), float("nan")
    if (positive & ~there).any() and (negative & ~there).any():
        direction = features[positive & ~there].mean(axis=0) - features[negative & ~there].mean(axis=0)
        low, high = (features[kind] @ direction for kind in kinds)
    else:
        halves = [[kind[::2], kind[1::2]] for kind in kinds]
        parts: list[list[Features]] = [[], []]
        for own, other in ((0, 1), (1, 0)):
            direction = features[halves[1][other]].mean(axis=0) - features[halves[0][other]].mean(axis=0)
            direction /= max(float(np.linalg.norm(direction)), 1e-300)
            for kind in (0, 1):
                parts[kind].append(features[halves[kind][own]] @ direction)
        low, high = (np.concatenate(part) for part in parts)
    spreads = [1.4826 * float(np.median(np.abs(values - np.median(values)))) for values in (low, high)]
    difference = float(np.median(high) - np.median(low))
    if difference == 0 or spreads[0] + spreads[1] == 0:
        return float("nan"), float("nan")
    z_prime = 1 - 3 * (spreads[0] + spreads[1]) / difference if difference > 0 else float("nan")
    return z_prime, difference / float(np.hypot(spreads[0], spreads[1]))
