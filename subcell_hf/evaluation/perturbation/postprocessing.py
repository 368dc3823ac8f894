"""Post-processing of well profiles: which features, scaling per plate, sphering by controls, and how to choose."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.perturbation.normalization import (
    PLATE_METHODS,
    SPHERING_METHODS,
    fit_sphering,
    normalize_plates,
    typical_variation_normalize,
)
from subcell_hf.evaluation.perturbation.table import ProfileTable
from subcell_hf.settings import Setting

REFERENCES = ("all", "controls")

_SELECTION = ["variance_threshold", "correlation_threshold"]
_SHRINKAGES = (None, 0.01, 0.1)


@dataclass(frozen=True)
class PostProcessing:
    """What is done to well profiles before they are compared, in this order.

    Attributes:
        select_features: Remove features with low variance or high correlation, with pycytominer's defaults.
        normalization: Normalization per plate: none, standardize or robust.
        reference: Reference wells of the normalization: all or controls.
        sphering: Sphering by the controls: none, PCA, PCA-cor, ZCA, ZCA-cor or TVN.
        shrinkage: Shrinkage of covariances, 0 to 1; default: estimated (Ledoit and Wolf).
    """

    select_features: bool = False
    normalization: Annotated[str, Setting("--normalize")] = "robust"
    reference: str = "all"
    sphering: str = "none"
    shrinkage: float | None = None

    def __post_init__(self) -> None:
        """Refuse unknown names.

        Raises:
            InputError: If a choice is unknown.
        """
        for what, value, choices in (
            ("normalisation", self.normalization, PLATE_METHODS),
            ("reference", self.reference, REFERENCES),
            ("sphering", self.sphering, SPHERING_METHODS),
        ):
            if value not in choices:
                raise InputError(f"Unknown {what} {value!r}: choose one of {', '.join(choices)}.")


def post_process(
    table: ProfileTable, plates: npt.NDArray[np.object_], control: npt.NDArray[np.bool_], steps: PostProcessing
) -> ProfileTable:
    """Apply the steps.

    Args:
        table: Profiles of wells.
        plates: Plate of each profile.
        control: Which profiles are controls.
        steps: What to do.

    Returns:
        The same rows with the processed features; unchanged where nothing is to be done.

    Raises:
        InputError: If controls are needed and missing, or too few; see `normalize_plates` and `fit_sphering`.
    """
    if (steps.sphering != "none" or (steps.normalization != "none" and steps.reference == "controls")) and (
        not control.any()
    ):
        raise InputError("These steps require control profiles. Select them with --control COLUMN=VALUE.")
    if steps.select_features:
        table = _select_features(table)
    reference = control if steps.reference == "controls" else np.ones(len(table), dtype=bool)
    normalized, kept = normalize_plates(table.features, plates, reference, steps.normalization)
    table = table.with_features(normalized, [name for name, keep in zip(table.names, kept, strict=True) if keep])
    if steps.sphering == "none":
        return table
    if steps.sphering == "TVN":
        sphered = typical_variation_normalize(table.features, plates, control, steps.shrinkage)
    else:
        sphered = fit_sphering(table.features[control], steps.sphering, steps.shrinkage).transform(table.features)
    names = table.names
    if sphered.shape[1] != len(names) or not steps.sphering.startswith("ZCA"):
        names = tuple(f"component_{index + 1}" for index in range(sphered.shape[1]))
    return table.with_features(sphered, names)


def candidates(steps: PostProcessing) -> Iterator[PostProcessing]:
    """List the grid of post-processing steps: every normalization × sphering × shrinkage.

    Args:
        steps: Steps whose reference and feature selection are kept.

    Yields:
        Steps, the simplest first.
    """
    for normalization, sphering in itertools.product(PLATE_METHODS, SPHERING_METHODS):
        for shrinkage in _SHRINKAGES if sphering != "none" else (None,):
            yield PostProcessing(steps.select_features, normalization, steps.reference, sphering, shrinkage)


def describe(steps: PostProcessing) -> dict[str, object]:
    """The steps as plain data."""
    described = asdict(steps)
    if steps.sphering == "none":
        del described["shrinkage"]
    elif steps.shrinkage is None:
        described["shrinkage"] = "estimated"
    if steps.normalization == "none":
        del described["reference"]
    return described


def split_groups(groups: npt.NDArray[np.object_], share: float, seed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the groups on which steps are chosen, and of those that are reported; disjoint.

    Args:
        groups: Group of each profile, None for controls.
        share: Share of the groups to choose on, above 0 and below 1.
        seed: Same seed, same split, in whatever order the profiles come.

    Raises:
        InputError: If a side would be empty.
    """
    names = sorted({str(group) for group in groups if group is not None})
    chosen = round(len(names) * share)
    if not 0 < chosen < len(names):
        raise InputError(
            f"{counted(len(names), 'group')} cannot be divided into a fraction of {share} for the choice and others to "
            "report."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    choosing = frozenset(names[index] for index in order[:chosen])
    return choosing, frozenset(names) - choosing


def _select_features(table: ProfileTable) -> ProfileTable:
    """Features that vary and do not repeat others."""
    from pycytominer import feature_select

    frame = pd.DataFrame(table.features, columns=list(table.names))
    kept = set(feature_select(frame, features=list(table.names), operation=_SELECTION).columns)
    keep = np.array([name in kept for name in table.names])
    if not keep.any():
        raise InputError("Feature selection removes all features. Omit --select-features.")
    return table.with_features(table.features[:, keep], [name for name in table.names if name in kept])
