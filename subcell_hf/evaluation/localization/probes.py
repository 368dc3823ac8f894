"""Simple classifiers on frozen embeddings: what an embedding holds that needs no deep head to be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.neighbors import NearestNeighbors

from subcell_hf.errors import InputError

Array = npt.NDArray[np.float32]
Targets = npt.NDArray[np.uint8]

BLOCK_CELLS = 8192
"""Test cells that are standardized at a time."""

TRAINING_CELLS = 50_000
"""Maximum number of training cells of a probe, chosen at random; more hardly change the result."""


class Predictor(Protocol):
    """A classifier that is trained on embeddings and predicts test cells; `name` is how reports call it."""

    @property
    def name(self) -> str: ...

    def fit_predict(
        self,
        train_embeddings: Array,
        train_targets: Targets,
        validation_embeddings: Array,
        validation_targets: Targets,
        test_embeddings: Array,
    ) -> Array:
        """Train on one split, choose on the second, predict the third.

        Args:
            train_embeddings: `[cells, width]`.
            train_targets: `[cells, classes]`, 0 or 1.
            validation_embeddings: `[cells, width]`.
            validation_targets: `[cells, classes]`.
            test_embeddings: `[cells, width]`.

        Returns:
            Probabilities `[seeds, cells, classes]` float32; several seeds are reported as mean and standard deviation,
            and their mean probability is what levels, intervals and figures are made of.
        """
        ...


@dataclass(frozen=True)
class Scaling:
    """Standardization fitted on training cells; a constant column becomes 0."""

    mean: Array
    factor: Array

    @classmethod
    def of(cls, embeddings: Array) -> "Scaling":
        """Fit."""
        spread = embeddings.std(axis=0, dtype=np.float64)
        mean = embeddings.mean(axis=0, dtype=np.float64)
        constant = spread <= 1e-7 * (np.abs(mean) + 1e-30)
        factor = np.where(constant, 0, 1 / np.where(constant, 1, spread))
        return cls(mean.astype(np.float32), factor.astype(np.float32))

    def __call__(self, embeddings: Array) -> Array:
        """Apply."""
        return (embeddings - self.mean) * self.factor


def choose_cells(count: int, limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Rows of at most `limit` of `count` cells, in order."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False))


def log_loss(targets: Targets, probabilities: Array) -> float:
    """Mean binary cross-entropy over cells and classes."""
    likely = np.where(targets > 0, probabilities, 1 - probabilities).astype(np.float64)
    return float(-np.log(np.maximum(likely, 1e-7)).mean())


@dataclass
class LinearProbe:
    """Logistic regression of every class on the standardized embedding.

    All classes are fitted together (their losses are independent, so the optimum is that of one at a time), from the
    strongest penalty to weaker ones until the log loss on the validation cells gets worse; the best is taken.

    Attributes:
        penalties: Weights λ of the squared norm of a class's coefficients in mean log loss + λ/2 · ‖w‖².
        seed: Of the choice among too many training cells.
        iterations: Of L-BFGS for each penalty, at most.
        tolerance: L-BFGS stops where the loss changes by a smaller part of itself.
        chosen_penalty: The one that was taken last, None before fitting.
        name: Name of the classifier in reports.
    """

    penalties: Sequence[float] = (1.0, 1e-1, 1e-2, 1e-3)
    seed: int = 0
    iterations: int = 100
    tolerance: float = 1e-6
    name: str = "linear"
    chosen_penalty: float | None = None

    def fit_predict(
        self,
        train_embeddings: Array,
        train_targets: Targets,
        validation_embeddings: Array,
        validation_targets: Targets,
        test_embeddings: Array,
    ) -> Array:
        """See `Predictor`."""
        rows = choose_cells(len(train_embeddings), TRAINING_CELLS, self.seed)
        scaling = Scaling.of(train_embeddings[rows])
        train, validation = scaling(train_embeddings[rows]), scaling(validation_embeddings)
        weights = np.zeros((train.shape[1] + 1, train_targets.shape[1]))
        best, chosen = np.inf, weights
        for penalty in sorted(self.penalties, reverse=True):
            weights = self._fit(train, train_targets[rows], penalty, weights)
            loss = log_loss(validation_targets, _probabilities(validation, weights))
            if loss >= best:
                break
            best, chosen, self.chosen_penalty = loss, weights, penalty
        # In blocks: standardized as a whole, a million cells would be held twice more.
        blocks = range(0, len(test_embeddings), BLOCK_CELLS)
        parts = [_probabilities(scaling(test_embeddings[start : start + BLOCK_CELLS]), chosen) for start in blocks]
        return np.concatenate(parts)[None]

    def _fit(
        self, train: Array, targets: Targets, penalty: float, start: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Coefficients `[width + 1, classes]`, the intercepts last; only they are free of the penalty."""
        truth = targets.astype(np.float32)

        def loss(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            weights = flat.reshape(start.shape)
            logits = train @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)
            # log(1 + exp(-margin)) by numpy's fast functions; scipy's log_expit took a quarter of a fit.
            margin = np.where(truth > 0, logits, -logits)
            surprise = np.log(1 + np.exp(-np.abs(margin))) - np.minimum(margin, 0)
            value = surprise.sum(dtype=np.float64) / len(train)
            error = (expit(logits) - truth) / len(train)
            gradient = np.vstack([train.T @ error + penalty * weights[:-1], error.sum(axis=0, dtype=np.float64)])
            return value + penalty / 2 * float((weights[:-1] ** 2).sum()), gradient.ravel().astype(np.float64)

        options = {"maxiter": self.iterations, "ftol": self.tolerance, "gtol": 1e-7}
        fitted = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        result: npt.NDArray[np.float64] = fitted.x.reshape(start.shape)
        return result


def _probabilities(scaled: Array, weights: npt.NDArray[np.float64]) -> Array:
    logits = scaled @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)
    probabilities: Array = expit(logits).astype(np.float32)
    return probabilities


@dataclass
class NeighbourProbe:
    """How often the nearest training cells have a class, by cosine of standardized embeddings.

    The number of neighbours with the best log loss on the validation cells is taken. A share of k neighbours is drawn
    towards the class's share in training as if by one more neighbour, so that no probability is 0 or 1.

    Attributes:
        counts: Numbers of neighbours to choose from.
        seed: Of the choice among too many training cells.
        training_cells: Neighbours are sought among no more cells than these.
        chosen_count: The one that was taken last, None before fitting.
        name: Name of the classifier in reports.
    """

    counts: Sequence[int] = (5, 20, 50)
    seed: int = 0
    training_cells: int = TRAINING_CELLS
    name: str = "neighbours"
    chosen_count: int | None = None

    def fit_predict(
        self,
        train_embeddings: Array,
        train_targets: Targets,
        validation_embeddings: Array,
        validation_targets: Targets,
        test_embeddings: Array,
    ) -> Array:
        """See `Predictor`."""
        rows = choose_cells(len(train_embeddings), self.training_cells, self.seed)
        scaling = Scaling.of(train_embeddings[rows])
        targets = train_targets[rows].astype(np.float32)
        most = min(max(self.counts), len(rows))
        search = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(_directions(scaling(train_embeddings[rows])))
        found = search.kneighbors(_directions(scaling(validation_embeddings)), return_distance=False)
        losses = {
            count: log_loss(validation_targets, _vote(found[:, :count], targets))
            for count in sorted({min(count, most) for count in self.counts})
        }
        self.chosen_count = min(losses, key=lambda count: losses[count])
        parts = [
            search.kneighbors(_directions(scaling(test_embeddings[start : start + BLOCK_CELLS])), return_distance=False)
            for start in range(0, len(test_embeddings), BLOCK_CELLS)
        ]
        return _vote(np.concatenate(parts)[:, : self.chosen_count], targets)[None]


def _directions(scaled: Array) -> Array:
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    directions: Array = scaled / np.maximum(length, 1e-12)
    return directions


def _vote(neighbours: npt.NDArray[np.int64], targets: Array) -> Array:
    count, share = neighbours.shape[1], targets.mean(axis=0)
    votes = np.empty((len(neighbours), targets.shape[1]), np.float32)
    for start in range(0, len(neighbours), BLOCK_CELLS):
        votes[start : start + BLOCK_CELLS] = targets[neighbours[start : start + BLOCK_CELLS]].sum(axis=1)
    shares: Array = (votes + share) / np.float32(count + 1)
    return shares


@dataclass
class TableProbabilities:
    """The probabilities in the table itself, from a head that was trained elsewhere.

    Attributes:
        probabilities: `[test cells, classes]`.
        name: Name of the classifier in reports.
    """

    probabilities: Array
    name: str = "classifier"

    def fit_predict(
        self,
        train_embeddings: Array,
        train_targets: Targets,
        validation_embeddings: Array,
        validation_targets: Targets,
        test_embeddings: Array,
    ) -> Array:
        """See `Predictor`; nothing is trained."""
        if len(test_embeddings) != len(self.probabilities):
            raise InputError(f"{len(self.probabilities)} probabilities for {len(test_embeddings)} test cells.")
        return self.probabilities[None]
