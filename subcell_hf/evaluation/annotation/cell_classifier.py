"""A classifier of cells on frozen embeddings that is trained in less than a second, and an estimate of how good it is.

Logistic regression on principal components of the standardized embeddings, which are computed once per table. Both
are linear, so that the result is one linear layer on the embedding. The estimate is made on cells of fields, or of
antibodies, that the classifier was not trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.bootstrap import bootstrap_weights, interval
from subcell_hf.evaluation.localization.probes import BLOCK_CELLS, Scaling, choose_cells

Array = npt.NDArray[np.float32]
Names = npt.NDArray[np.str_]

COMPONENTS = 64
_FITTED_CELLS = 20_000
FOLDS = 5
FEWEST_RANDOM = 30
"""So many randomly chosen cells give an estimate without the others."""
_LEVEL = 0.95


@dataclass(frozen=True)
class Components:
    """Principal components of standardized embeddings.

    Attributes:
        scaling: Standardization.
        axes: `[width, components]` float32; the first component of the fitted cells has a spread of 1.
    """

    scaling: Scaling
    axes: Array

    @classmethod
    def of(cls, embeddings: Array, components: int = COMPONENTS, seed: int = 0) -> "Components":
        """Fit to the cells of a table, or 20,000 of them.

        Args:
            embeddings: `[cells, width]`.
            components: Number of components at most.
            seed: Of the choice among more cells, and of the decomposition.
        """
        from sklearn.decomposition import PCA

        chosen = embeddings[choose_cells(len(embeddings), _FITTED_CELLS, seed)]
        scaling = Scaling.of(chosen)
        count = min(components, *chosen.shape)
        fitted = PCA(count, svd_solver="randomized", random_state=seed).fit(scaling(chosen))
        spread = max(float(np.sqrt(fitted.explained_variance_[0])), 1e-12)
        return cls(scaling, np.ascontiguousarray(fitted.components_.T / spread, np.float32))

    def __call__(self, embeddings: Array) -> Array:
        """`[cells, width]` → `[cells, components]`, in blocks, as a large table would be held twice otherwise."""
        blocks = range(0, len(embeddings), BLOCK_CELLS)
        parts = [self.scaling(embeddings[start : start + BLOCK_CELLS]) @ self.axes for start in blocks]
        return np.concatenate(parts) if parts else np.zeros((0, self.axes.shape[1]), np.float32)


@dataclass(frozen=True)
class CellClassifier:
    """Probabilities of classes from components of embeddings.

    Attributes:
        classes: Names of the classes, in order.
        weights: `[components, classes]` float64.
        bias: `[classes]` float64.
    """

    classes: tuple[str, ...]
    weights: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    def probabilities(self, features: Array) -> Array:
        """`[cells, components]` → `[cells, classes]` float32, rows sum to 1."""
        logits = features @ self.weights.astype(np.float32) + self.bias.astype(np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

    def linear_layer(self, components: Components) -> tuple[Array, Array]:
        """The same as a linear layer on the embedding itself: weight `[classes, width]` and bias `[classes]`."""
        scaled = components.axes.astype(np.float64) * components.scaling.factor[:, None].astype(np.float64)
        weight = (scaled @ self.weights).T
        bias = self.bias - weight @ components.scaling.mean.astype(np.float64)
        return weight.astype(np.float32), bias.astype(np.float32)


def train_classifier(features: Array, labels: Names, strength: float = 1.0) -> CellClassifier:
    """Logistic regression; every class has the same total weight, so that a rare one is not overruled.

    Args:
        features: `[cells, components]`.
        labels: `[cells]`, names of classes.
        strength: Inverse of the penalty on the squared weights.

    Raises:
        InputError: If there are fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression

    classes = tuple(map(str, np.unique(labels)))
    if len(classes) < 2:
        raise InputError(f"All labelled cells are {classes}, expected at least two classes. Label cells of another.")
    fitted = LogisticRegression(C=strength, class_weight="balanced", max_iter=500, random_state=0).fit(features, labels)
    weights, bias = fitted.coef_.T, fitted.intercept_
    if len(classes) == 2:  # scikit-learn keeps the difference of the two alone
        weights, bias = np.hstack([np.zeros_like(weights), weights]), np.concatenate([[0.0], bias])
    return CellClassifier(classes, weights, bias)


@dataclass(frozen=True)
class HeldOutEstimate:
    """How well cells are classified that lie in groups without labels in training.

    Attributes:
        value: Balanced accuracy: the mean over classes of the share of their cells that are classified correctly.
        low: Lower end of its 95 % interval, from a bootstrap of groups; it is never narrower than that of a share of as
            many independent cells.
        high: Upper end.
        accuracy: Share of cells that are classified correctly.
        cells: Cells that it was measured on.
        groups: Groups that they lie in.
        grouped_by: Column of the groups.
        chosen_at_random: Whether the cells were shown at random, so that they represent the table. Cells that were
            shown for being uncertain are harder than most.
        recall: Class → share of its cells that are classified correctly.
        support: Class → its cells.
        folds: Number of parts of the groups, each predicted by a classifier of the others.
        not_estimated: Classes whose cells all lie in groups that are held out together, so that no classifier of other
            groups can predict them.
    """

    value: float
    low: float
    high: float
    accuracy: float
    cells: int
    groups: int
    grouped_by: str
    chosen_at_random: bool
    recall: Mapping[str, float] = field(default_factory=dict)
    support: Mapping[str, int] = field(default_factory=dict)
    folds: int = FOLDS
    not_estimated: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledFeatures:
    """What a classifier is trained on.

    Attributes:
        features: `[cells, components]`.
        labels: `[cells]`, names of classes.
        groups: `[cells]`, names of fields or antibodies.
        grouped_by: What the groups are.
        is_random: `[cells]` bool, whether a cell was shown at random.
    """

    features: Array
    labels: Names
    groups: Names
    grouped_by: str
    is_random: npt.NDArray[np.bool_]


def estimate_held_out(
    labelled: LabelledFeatures, *, strength: float = 1.0, resamples: int = 500, seed: int = 0
) -> HeldOutEstimate | None:
    """Predict each labelled cell by a classifier of cells of other groups.

    Args:
        labelled: Cells with labels.
        strength: As for `train_classifier`.
        resamples: Bootstrap samples of the groups.
        seed: Of the folds and of the bootstrap.

    Returns:
        The estimate; None where there are too few labels or groups for one.
    """
    predicted = _predict_other_groups(labelled, strength, seed)
    known = predicted != ""
    counted = known & labelled.is_random
    at_random = counted.sum() >= FEWEST_RANDOM and len(np.unique(labelled.labels[counted])) > 1
    rows = np.flatnonzero(counted if at_random else known)
    if len(rows) == 0 or len(np.unique(labelled.labels[rows])) < 2:
        return None
    groups, numbers = np.unique(labelled.groups[rows], return_inverse=True)
    classes, kinds = np.unique(labelled.labels[rows], return_inverse=True)
    if len(groups) < 3:
        return None
    right = predicted[rows] == labelled.labels[rows]
    shape = (len(groups), len(classes))
    totals, rights = np.zeros(shape), np.zeros(shape)
    np.add.at(totals, (numbers, kinds), 1)
    np.add.at(rights, (numbers, kinds), right)
    weights = bootstrap_weights(len(groups), resamples, np.random.default_rng(seed))
    value = float(_balanced(rights.sum(axis=0)[None], totals.sum(axis=0)[None])[0])
    low, high = interval(value, _balanced(weights @ rights, weights @ totals), _LEVEL)
    # Where no cell, or every cell, is wrong, all resamples are alike; chance alone leaves this interval.
    least, most = wilson_interval(value, len(classes) ** 2 / float((1 / totals.sum(axis=0)).sum()))
    low, high = min(low, least), max(high, most)
    recall = rights.sum(axis=0) / totals.sum(axis=0)
    return HeldOutEstimate(
        value,
        max(0.0, low),
        min(1.0, high),
        float(right.mean()),
        len(rows),
        len(groups),
        labelled.grouped_by,
        bool(at_random),
        dict(zip(map(str, classes), map(float, recall), strict=True)),
        dict(zip(map(str, classes), map(int, totals.sum(axis=0)), strict=True)),
        not_estimated=tuple(sorted({*map(str, labelled.labels)} - {*map(str, labelled.labels[known])})),
    )


def wilson_interval(share: float, count: float) -> tuple[float, float]:
    """95 % interval of a share.

    Args:
        share: Observed, from 0 to 1.
        count: Number of independent observations.

    Returns:
        Lower and upper end.

    Source:
        Wilson, J. Am. Stat. Assoc. 22 (1927), 209.
    """
    squared = 1.959964**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = (squared * (share * (1 - share) / count + squared / (4 * count**2))) ** 0.5 / (1 + squared / count)
    return middle - half, middle + half


def _balanced(rights: npt.NDArray[Any], totals: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mean recall over the classes that are there, of each row."""
    there = totals > 0
    shares = np.where(there, rights / np.maximum(totals, 1), 0)
    return np.asarray(shares.sum(axis=1) / np.maximum(there.sum(axis=1), 1), np.float64)


def _predict_other_groups(labelled: LabelledFeatures, strength: float, seed: int) -> Names:
    """The predicted class of each cell; empty where other groups have fewer than two classes, or not the cell's."""
    predicted = np.full(len(labelled.labels), "", dtype=object)
    groups, numbers = np.unique(labelled.groups, return_inverse=True)
    fold_of = np.random.default_rng(seed).permutation(len(groups)) % FOLDS
    for fold in range(min(FOLDS, len(groups))):
        held_out = fold_of[numbers] == fold
        if held_out.any() and len(np.unique(labelled.labels[~held_out])) > 1:
            fitted = train_classifier(labelled.features[~held_out], labelled.labels[~held_out], strength)
            best = fitted.probabilities(labelled.features[held_out]).argmax(axis=1)
            predicted[held_out] = np.array(fitted.classes, dtype=object)[best]
            predicted[held_out & ~np.isin(labelled.labels, fitted.classes)] = ""
    return predicted.astype(str)


def group_cells(columns: Mapping[str, Sequence[str]], by: str) -> tuple[str, Names]:
    """The column whose values are held out together, and the value of each cell.

    Args:
        columns: Metadata of the cells, `field_of_view` at least.
        by: `"antibody"`, `"field"`, or `"auto"`: the antibody where every cell has one and there are several.

    Raises:
        InputError: If the column is missing, or unknown.
    """
    names = {"field": "field_of_view", "antibody": "antibody"}
    if by not in (*names, "auto"):
        raise InputError(f"Labels are grouped by {by!r}, expected auto, {' or '.join(names)}.")
    antibodies = np.asarray(columns.get("antibody", ()), dtype=str)
    has_antibodies = len(antibodies) > 0 and bool((antibodies != "").all())
    if by == "antibody" and not has_antibodies:
        raise InputError("Labels are grouped by antibody, and not every cell has one. Group them by field.")
    chosen = "antibody" if by == "antibody" or (by == "auto" and len({*antibodies}) > 2 and has_antibodies) else "field"
    return names[chosen], np.asarray(columns[names[chosen]], dtype=str)
