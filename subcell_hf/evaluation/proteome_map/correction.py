"""Principal components of fields of view, and their correction for plate and microscope."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Components:
    """Fields of view in fewer dimensions.

    Attributes:
        scores: float64 [fields, components].
        explained: Share of the variance along each component, float64 [components].
        corrected: Columns that were corrected for.
        notes: What was not corrected for, and why.
    """

    scores: npt.NDArray[np.float64]
    explained: npt.NDArray[np.float64]
    corrected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def principal_components(
    embeddings: npt.NDArray[np.float32], weights: npt.NDArray[np.float64], count: int
) -> Components:
    """Weighted principal components, exactly and with signs that do not depend on the machine.

    Args:
        embeddings: float32 [fields, width].
        weights: Cells behind each field, float64 [fields].
        count: Components to keep, at most as many as there are.

    Raises:
        InputError: If the count is not positive or the fields are all the same.
    """
    if count < 1:
        raise InputError(f"At least one principal component is needed, got {count}.")
    share = weights / weights.sum()
    mean = share @ embeddings
    covariance = np.zeros((embeddings.shape[1],) * 2)
    for start in range(0, len(embeddings), 8192):
        centred = (embeddings[start : start + 8192] - mean) * np.sqrt(share[start : start + 8192, None])
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    count = min(count, len(embeddings) - 1, int((values > values[0] * 1e-12).sum()))
    if values[0] <= 0 or count < 1:
        raise InputError("All fields of view have the same embedding; there is nothing to map.")
    vectors = vectors[:, :count]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])
    scores = (embeddings @ vectors.astype(np.float32)).astype(np.float64) - mean @ vectors
    return Components(scores, values[:count] / values.sum())


def correct_batches(components: Components, fields: pd.DataFrame, columns: Sequence[str], seed: int) -> Components:
    """Remove what depends on plate or microscope rather than on the protein, with Harmony (Korsunsky et al. 2019).

    Args:
        components: Of the fields.
        fields: Their metadata.
        columns: What to correct for; a column with a single value needs no correction, which is noted.
        seed: Of Harmony's clustering; the same seed gives the same numbers for any number of threads.

    Raises:
        InputError: If a column is missing.
    """
    missing = [column for column in columns if column not in fields.columns]
    if missing:
        raise InputError(
            f"There is no column {missing[0]!r} to correct for. Omit it, or give --correct none for no correction."
        )
    notes = [f"{column} has a single value: not corrected for" for column in columns if fields[column].nunique() < 2]
    varying = [column for column in columns if fields[column].nunique() > 1]
    batches = fields[varying].astype(str).replace("", UNKNOWN)
    notes += [
        f"{counted(int((batches[name] == UNKNOWN).sum()), 'field has', 'fields have')} no {name}: treated as one batch"
        for name in varying
        if (batches[name] == UNKNOWN).any()
    ]
    if not varying:
        return Components(components.scores, components.explained, (), tuple(notes))
    import harmonypy

    # As many clusters as Harmony takes by itself, which is none for a handful of fields.
    clusters = int(np.clip(round(len(fields) / 30), 1, 100))
    result = harmonypy.run_harmony(
        components.scores.astype(np.float32), batches, varying, nclust=clusters, random_state=seed, verbose=False
    )
    corrected = np.asarray(result.Z_corr, dtype=np.float64)
    if corrected.shape != components.scores.shape:  # harmonypy before version 2 gives components × fields
        corrected = corrected.T
    return Components(np.ascontiguousarray(corrected), components.explained, tuple(varying), tuple(notes))


def batch_share(scores: npt.NDArray[np.float64], genes: npt.NDArray[np.object_], batches: pd.Series) -> float:
    """Share of the variance within genes that a batch explains, in [0, 1]: 0 where batches make no difference.

    Genes seen in one batch only say nothing of it and are left out; NaN where there are no others.

    Args:
        scores: float64 [fields, components].
        genes: Gene of each field.
        batches: Batch of each field.
    """
    frame = pd.DataFrame({"gene": genes, "batch": batches.to_numpy()})
    several = frame.groupby("gene")["batch"].transform("nunique").to_numpy() > 1
    if not several.any():
        return float("nan")
    frame, rows = frame[several], scores[several]
    within = rows - _group_means(rows, frame["gene"])
    explained = _group_means(within, frame["batch"])
    return float((explained**2).sum() / max(float((within**2).sum()), 1e-300))


def _group_means(rows: npt.NDArray[np.float64], groups: pd.Series) -> npt.NDArray[np.float64]:
    """Mean of each row's group, float64 [rows, columns]."""
    codes, names = pd.factorize(groups)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, codes, rows)
    means: npt.NDArray[np.float64] = (sums / np.bincount(codes)[:, None])[codes]
    return means
