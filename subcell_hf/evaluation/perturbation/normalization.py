"""Normalisation of profiles: per plate, and against the variation of control wells.

Sphering follows Kessy et al. 2016 (arXiv:1512.00809), typical variation normalisation Ando et al. 2017
(bioRxiv 161422). Covariances are shrunk towards a multiple of the identity as by Ledoit and Wolf, so that few or
duplicated controls give a defined result.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError

Features = npt.NDArray[np.float64]

PLATE_METHODS = ("none", "standardize", "robust")
"""Per plate: nothing; mean 0 and standard deviation 1; median 0 and scaled median absolute deviation 1."""

SPHERING_METHODS = ("none", "PCA", "PCA-cor", "ZCA", "ZCA-cor", "TVN")

MIN_CONTROLS = 3
"""Minimum number of different control profiles for estimating a covariance."""

_NORMAL_CONSISTENCY = 1.4826
"""Median absolute deviation of a normal distribution × this = its standard deviation."""


def normalize_plates(
    features: Features, plates: npt.NDArray[np.object_], reference: npt.NDArray[np.bool_], method: str
) -> tuple[Features, npt.NDArray[np.bool_]]:
    """Centre and scale each plate by its reference profiles.

    Args:
        features: float64 [profiles, features].
        plates: Plate of each profile.
        reference: Which profiles give centre and scale: all of them, or the controls.
        method: One of `PLATE_METHODS`.

    Returns:
        The normalised features, and which features are kept [features]: those without any spread among the reference
        of some plate have no scale there and are left out everywhere.

    Raises:
        InputError: If the method is unknown or a plate has fewer than two different reference profiles.
    """
    if method not in PLATE_METHODS:
        raise InputError(f"Unknown normalisation {method!r}: choose one of {', '.join(PLATE_METHODS)}.")
    if method == "none":
        return features, np.ones(features.shape[1], dtype=bool)
    normalized = np.empty_like(features)
    kept = np.ones(features.shape[1], dtype=bool)
    for plate in sorted(set(plates)):
        rows = plates == plate
        sample = features[rows & reference]
        if len(np.unique(sample, axis=0)) < 2:
            raise InputError(
                f"Plate {plate!r} has {len(sample)} reference profiles, fewer than two of them different: no scale can "
                "be taken from them. Normalise by all wells of a plate (--reference all), or leave the plate out."
            )
        centre, scale = _centre_and_scale(sample, method)
        kept &= scale > 1e-12 * np.maximum(np.abs(centre), 1e-300)
        normalized[rows] = (features[rows] - centre) / np.where(scale > 0, scale, 1.0)
    if not kept.any():
        raise InputError(f"No feature varies among the reference profiles of every plate: {method} leaves nothing.")
    return normalized[:, kept], kept


@dataclass(frozen=True)
class Sphering:
    """A linear map that makes the controls' variation round.

    Attributes:
        centre: float64 [features].
        scale: float64 [features]; ones unless the correlation is sphered.
        directions: Orthonormal columns that span the controls, float64 [features, rank].
        variances: Shrunk variance along each direction, float64 [rank].
        outside_variance: Shrunk variance along every other direction; 0 where the controls span everything.
        rotate_back: ZCA, which stays in the coordinates of the features, instead of PCA.
    """

    centre: Features
    scale: Features
    directions: Features
    variances: Features
    outside_variance: float
    rotate_back: bool

    def transform(self, features: Features) -> Features:
        """Sphere profiles, float64 [profiles, features] → [profiles, features], or [profiles, rank] for PCA."""
        standardized = (features - self.centre) / self.scale
        scores = standardized @ self.directions
        sphered = scores / np.sqrt(self.variances)
        if not self.rotate_back:
            return sphered
        back = sphered @ self.directions.T
        if self.outside_variance > 0:
            back += (standardized - scores @ self.directions.T) / np.sqrt(self.outside_variance)
        return back


def fit_sphering(controls: Features, method: str, shrinkage: float | None = None) -> Sphering:
    """Estimate how controls vary.

    Args:
        controls: float64 [controls, features].
        method: `"PCA"`, `"PCA-cor"`, `"ZCA"` or `"ZCA-cor"`. PCA keeps the directions in which controls vary; with as
            many controls as features it is ZCA but for a rotation. `-cor` standardises features first.
        shrinkage: Weight in [0, 1] of a multiple of the identity in the covariance; None: as Ledoit and Wolf (2004)
            estimate it from the controls.

    Raises:
        InputError: If there are fewer than `MIN_CONTROLS` different controls, or no shrinkage where one is needed.
    """
    different = len(np.unique(controls, axis=0))
    if different < MIN_CONTROLS:
        raise InputError(
            f"Sphering needs at least {MIN_CONTROLS} different control profiles, got {different} among "
            f"{len(controls)}. Use --sphering none, or add controls."
        )
    if shrinkage is not None and not 0 <= shrinkage <= 1:
        raise InputError(f"Shrinkage must lie between 0 and 1, got {shrinkage}.")
    centre = controls.mean(axis=0)
    scale = controls.std(axis=0) if method.endswith("-cor") else np.ones_like(centre)
    constant = int((scale == 0).sum())
    if constant:
        raise InputError(
            f"{constant} of {len(scale)} features are constant among the controls, so that {method} has no scale for "
            "them. Normalise plates by the controls first, select features, or use PCA or ZCA."
        )
    standardized = (controls - centre) / scale
    if shrinkage is None:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(standardized, assume_centered=True))
    return _sphere(standardized, centre, scale, shrinkage, rotate_back=method.startswith("ZCA"))


def typical_variation_normalize(
    features: Features,
    plates: npt.NDArray[np.object_],
    control: npt.NDArray[np.bool_],
    shrinkage: float | None = None,
) -> Features:
    """Typical variation normalisation: sphere by all controls, then align the controls of each plate with all.

    Args:
        features: float64 [profiles, features].
        plates: Plate of each profile.
        control: Which profiles are controls.
        shrinkage: As in `fit_sphering`, for the covariance of all controls and of those of each plate.

    Returns:
        float64 [profiles, rank]. Controls of every plate have mean 0, and, unless shrunk, covariance 1.

    Raises:
        InputError: If a plate, or all together, has fewer than `MIN_CONTROLS` different controls.
    """
    sphered = fit_sphering(features[control], "PCA-cor", shrinkage).transform(features)
    aligned = np.empty_like(sphered)
    target = _covariance_root(sphered[control], shrinkage, power=0.5)
    for plate in sorted(set(plates)):
        rows = plates == plate
        own = sphered[rows & control]
        different = len(np.unique(own, axis=0))
        if different < MIN_CONTROLS:
            raise InputError(
                f"Plate {plate!r} has {different} different controls; typical variation normalisation needs "
                f"{MIN_CONTROLS} on every plate. Use another sphering, or leave the plate out."
            )
        # Plates rarely have as many controls as there are directions: theirs is always shrunk.
        whitening = _covariance_root(own, shrinkage if shrinkage else None, power=-0.5)
        aligned[rows] = (sphered[rows] - own.mean(axis=0)) @ whitening @ target
    return aligned


def _centre_and_scale(sample: Features, method: str) -> tuple[Features, Features]:
    """Of each feature; ignoring rounding, a feature that is constant has scale 0."""
    if method == "standardize":
        return sample.mean(axis=0), np.where(np.ptp(sample, axis=0) == 0, 0.0, sample.std(axis=0))
    centre = np.median(sample, axis=0)
    return centre, np.median(np.abs(sample - centre), axis=0) * _NORMAL_CONSISTENCY


def _sphere(standardized: Features, centre: Features, scale: Features, shrinkage: float, rotate_back: bool) -> Sphering:
    """The sphering of centred controls."""
    count, width = standardized.shape
    _, singular, rows = np.linalg.svd(standardized, full_matrices=False)
    rank = int((singular > singular[0] * max(count, width) * np.finfo(np.float64).eps).sum())
    variances = singular[:rank] ** 2 / (count - 1)
    mean_variance = float(variances.sum()) / width
    outside = shrinkage * mean_variance if rank < width else 0.0
    if rotate_back and rank < width and outside == 0:
        raise InputError(
            f"{count} controls span {rank} of {width} features, so that ZCA is not defined without shrinkage. "
            "Use a shrinkage above 0 (default: estimated), PCA, or fewer features."
        )
    return Sphering(
        centre=centre,
        scale=scale,
        directions=np.ascontiguousarray(rows[:rank].T),
        variances=(1 - shrinkage) * variances + shrinkage * mean_variance,
        outside_variance=outside,
        rotate_back=rotate_back,
    )


def _covariance_root(sample: Features, shrinkage: float | None, power: float) -> Features:
    """A power of the shrunk covariance, float64 [features, features]."""
    centred = sample - sample.mean(axis=0)
    if shrinkage is None:
        from sklearn.covariance import ledoit_wolf_shrinkage

        shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    covariance = centred.T @ centred / (len(sample) - 1)
    mean_variance = float(np.trace(covariance)) / len(covariance)
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(len(covariance)))
    floor = values[-1] * len(values) * np.finfo(np.float64).eps
    root: Features = (vectors * np.maximum(values, floor) ** power) @ vectors.T
    return root
