"""One antibody per gene: the most reliable one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError

RELIABILITIES = ("Enhanced", "Supported", "Approved", "Uncertain")
"""Reliability grades of the Human Protein Atlas, best first; all other values come last."""

CHOICES = ("cells", "consistency")


def choose_antibodies(
    fields: pd.DataFrame, embeddings: npt.NDArray[np.float32], *, by: str = "cells", reliability: str = "reliability"
) -> pd.DataFrame:
    """Rank the antibodies of each gene.

    The better grade of reliability comes first where the table has one, then the antibody with more cells or with more
    consistent fields of view, then the other of the two, then the name.

    Args:
        fields: As `FieldMeans.fields`.
        embeddings: float32 [fields, width].
        by: `"cells"` or `"consistency"`: the mean cosine, after subtraction of the mean of all fields, between the
            fields of an antibody and their own mean.
        reliability: Column of grades.

    Returns:
        One row per antibody, genes in order: `gene`, `antibody`, `fields`, `cells`, `consistency` (NaN for a single
        field), `reliability` (empty where unknown), `chosen`.

    Raises:
        InputError: If the choice is unknown, or an antibody has several grades or genes.
    """
    if by not in CHOICES:
        raise InputError(f"Unknown choice of antibodies {by!r}: choose one of {', '.join(CHOICES)}.")
    grouped = fields.groupby(["gene", "antibody"], sort=True)
    table = grouped.agg(fields=("cells", "size"), cells=("cells", "sum")).reset_index()
    genes = table.groupby("antibody")["gene"].nunique()
    if (genes > 1).any():
        name = genes.index[genes > 1][0]
        raise InputError(
            f"Antibody {name!r} is assigned to {genes[name]} genes, expected one. Correct the column gene."
        )
    codes = grouped.ngroup().to_numpy()
    table["consistency"] = _consistency(embeddings, codes, len(table))
    table["reliability"] = _grades(fields, codes, reliability, table["antibody"].tolist())
    grade = table["reliability"].map({name: rank for rank, name in enumerate(RELIABILITIES)})
    keys = pd.DataFrame(
        {
            "gene": table["gene"],
            "grade": grade.fillna(len(RELIABILITIES)),
            "cells": -table["cells"],
            "consistency": -table["consistency"].fillna(-1.0),
            "antibody": table["antibody"],
        }
    )
    first, second = CHOICES if by == "cells" else CHOICES[::-1]
    best = keys.sort_values(["gene", "grade", first, second, "antibody"]).drop_duplicates("gene").index
    table["chosen"] = table.index.isin(best)
    return table


def _consistency(
    embeddings: npt.NDArray[np.float32], codes: npt.NDArray[np.intp], count: int
) -> npt.NDArray[np.float64]:
    """Mean cosine of fields with the mean direction of their antibody's fields; NaN for single ones."""
    centred = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    centred /= np.where(lengths > 0, lengths, 1)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(count))
    sums = np.add.reduceat(centred[order], starts, axis=0)
    sizes = np.bincount(codes, minlength=count)
    # The mean cosine of unit vectors with the direction of their sum is the length of the sum over their number.
    consistency: npt.NDArray[np.float64] = np.linalg.norm(sums, axis=1).astype(np.float64) / sizes
    return np.where(sizes > 1, consistency, np.nan)


def _grades(fields: pd.DataFrame, codes: npt.NDArray[np.intp], column: str, antibodies: Sequence[str]) -> list[str]:
    """Grade of each antibody."""
    if column not in fields.columns:
        return [""] * len(antibodies)
    grades = fields.groupby(codes)[column].agg(lambda values: sorted(set(values) - {""}))
    for antibody, found in zip(antibodies, grades, strict=True):
        if len(found) > 1:
            raise InputError(f"Antibody {antibody!r} has several values of {column!r}: {', '.join(found)}.")
    return [found[0] if found else "" for found in grades]
