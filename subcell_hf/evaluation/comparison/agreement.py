"""How well a faster model agrees with the one that it replaces, on the same cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.settings import Setting

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Agreement:
    """Figures of one model against its reference.

    Attributes:
        cells: Number of cells.
        cosine: Mean over the cells of the cosine between both embeddings.
        smallest_cosine: Of the cell with the smallest.
        centred_cosine: The same after the reference's mean embedding is subtracted from both, so that only counts in
            what cells differ.
        smallest_centred_cosine: Of the cell with the smallest.
        same_top_location: Fraction of the cells with the same most probable location; None without a classifier.
        largest_probability_change: Of any location in any cell.
        average_precision: Location → `cells` that have it, and average precision by the `reference` and by the `other`
            model; empty where no locations are known.
    """

    cells: int
    cosine: float
    smallest_cosine: float
    centred_cosine: float
    smallest_centred_cosine: float
    same_top_location: float | None = None
    largest_probability_change: float | None = None
    average_precision: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def describe(self) -> str:
        """The figures in one sentence."""
        parts = [
            f"cosine {self.cosine:.5f} (smallest {self.smallest_cosine:.5f})",
            f"centred cosine {self.centred_cosine:.4f} (smallest {self.smallest_centred_cosine:.4f})",
        ]
        if self.same_top_location is not None:
            parts.append(f"same top location in {100 * self.same_top_location:.1f} % of the cells")
            parts.append(f"largest change of a probability {self.largest_probability_change:.3f}")
        if self.average_precision:
            means = [
                np.mean([found[name] for found in self.average_precision.values()]) for name in ("reference", "other")
            ]
            parts.append(f"mean average precision {means[0]:.3f} → {means[1]:.3f}")
        return f"{', '.join(parts)}, on {self.cells} cells"


@dataclass(frozen=True)
class AgreementLimits:
    """The least agreement that is accepted.

    Attributes:
        cosine: Least mean cosine to the float model's embedding.
        centred_cosine: The same after the mean embedding is subtracted from both.
        same_top_location: Least fraction of cells with the same most probable location.
    """

    cosine: Annotated[float, Setting("--min-cosine")] = 0.999
    centred_cosine: Annotated[float, Setting("--min-centred-cosine")] = 0.99
    same_top_location: Annotated[float, Setting("--min-same-top")] = 0.99

    def __post_init__(self) -> None:
        """Refuse limits that cannot be.

        Raises:
            InputError: Naming the limit.
        """
        for name in ("cosine", "centred_cosine", "same_top_location"):
            if not -1 <= getattr(self, name) <= 1:
                raise InputError(f"The limit {name} is {getattr(self, name)}, expected at most 1.")

    def find_unmet(self, agreement: Agreement) -> list[str]:
        """Name the figures that are below their limit, with the limit."""
        found = {name: getattr(agreement, name) for name in ("cosine", "centred_cosine", "same_top_location")}
        return [
            f"{name.replace('_', ' ')} {value:.6g} is below {getattr(self, name):.6g}"
            for name, value in found.items()
            if value is not None and not value >= getattr(self, name)
        ]


def measure_agreement(
    reference: Floats,
    other: Floats,
    reference_probabilities: Floats | None = None,
    other_probabilities: Floats | None = None,
    *,
    classes: Sequence[str] = (),
    targets: npt.NDArray[np.uint8] | None = None,
) -> Agreement:
    """Compare the outputs of two models on the same cells.

    Args:
        reference: Embeddings `[cells, width]` of the model that is replaced.
        other: Embeddings `[cells, width]` of the one that replaces it.
        reference_probabilities: `[cells, classes]`; None without a classifier.
        other_probabilities: `[cells, classes]`.
        classes: Names of the locations.
        targets: `[cells, classes]`, 1 where a cell has a location; None if unknown.

    Raises:
        InputError: If the shapes differ, or a value is not finite.
    """
    if reference.shape != other.shape or reference.ndim != 2 or not len(reference):
        raise InputError(f"Embeddings {reference.shape} and {other.shape} must be one [cells, width] shape.")
    if not (np.isfinite(reference).all() and np.isfinite(other).all()):
        raise InputError("Embeddings contain NaN or infinite values; expected finite numbers.")
    mean = reference.mean(axis=0)
    plain, centred = _cosines(reference, other), _cosines(reference - mean, other - mean)
    same = change = None
    precision: dict[str, dict[str, float]] = {}
    if reference_probabilities is not None and other_probabilities is not None:
        same = float((reference_probabilities.argmax(1) == other_probabilities.argmax(1)).mean())
        change = float(np.abs(reference_probabilities - other_probabilities).max())
        if targets is not None:
            precision = _precision(reference_probabilities, other_probabilities, classes, targets)
    return Agreement(
        cells=len(reference),
        cosine=float(plain.mean()),
        smallest_cosine=float(plain.min()),
        centred_cosine=float(centred.mean()),
        smallest_centred_cosine=float(centred.min()),
        same_top_location=same,
        largest_probability_change=change,
        average_precision=precision,
    )


def _cosines(left: Floats, right: Floats) -> Floats:
    """Of every row; 0 where a row has no direction."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products: Floats = (left * right).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return products


def _precision(
    reference: Floats, other: Floats, classes: Sequence[str], targets: npt.NDArray[np.uint8]
) -> dict[str, dict[str, float]]:
    from subcell_hf.evaluation.localization.ranking import score_classes

    scores = [score_classes(targets, probabilities) for probabilities in (reference, other)]
    return {
        name: {
            "cells": int(scores[0].positives[number]),
            "reference": float(scores[0].average_precision[number]),
            "other": float(scores[1].average_precision[number]),
        }
        for number, name in enumerate(classes)
        if np.isfinite(scores[0].average_precision[number])
    }
