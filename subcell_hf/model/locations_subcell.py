"""The classes that the published classifiers report, in their order; what a calibrated classifier says of a cell.

The island cannot read annotations/locations.tsv, which is where the rest of the package takes the classes from; a test
holds the two together.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CALIBRATED", "REPORTED_LOCATIONS", "measure_novelty", "novelty_p_values"]

CALIBRATED = ("location_sets", "novelty")
"""Entries of a configuration that `subcell calibrate` writes; they hold for this classifier alone."""

REPORTED_LOCATIONS = (
    "Actin filaments",
    "Aggresome",
    "Cell Junctions",
    "Centriolar satellite",
    "Centrosome",
    "Cytokinetic bridge",
    "Cytoplasmic bodies",
    "Cytosol",
    "Endoplasmic reticulum",
    "Endosomes",
    "Focal adhesion sites",
    "Golgi apparatus",
    "Intermediate filaments",
    "Lipid droplets",
    "Lysosomes",
    "Microtubules",
    "Midbody",
    "Mitochondria",
    "Mitotic chromosome",
    "Mitotic spindle",
    "Nuclear bodies",
    "Nuclear membrane",
    "Nuclear speckles",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nucleoli rim",
    "Nucleoplasm",
    "Peroxisomes",
    "Plasma membrane",
    "Vesicles",
    "Negative",
)


def measure_novelty(embeddings: npt.NDArray[Any], novelty: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Squared Mahalanobis distance to the reference cells.

    The covariance is that of probabilistic principal components (Tipping and Bishop 1999, doi 10.1111/1467-9868.00196):
    leading components with their variances, and one variance for all other directions.

    Args:
        embeddings: `[cells, width]`.
        novelty: `mean` `[width]` float32 and `components` `[components, width]` float16, little endian as base64,
            their `variances`, and `residual_variance`.

    Returns:
        `[cells]`.

    Raises:
        ValueError: If the embeddings have another width.
    """
    mean = np.frombuffer(base64.b64decode(novelty["mean"]), "<f4").astype(np.float64)
    components = np.frombuffer(base64.b64decode(novelty["components"]), "<f2").astype(np.float64)
    if embeddings.shape[1] != len(mean):
        raise ValueError(
            f"The embeddings have {embeddings.shape[1]} numbers, novelty is calibrated for {len(mean)}. Use the same "
            "proteins as in the calibration."
        )
    centred = embeddings - mean
    along = centred @ components.reshape(-1, len(mean)).T  # [cells, components]
    residual = float(novelty["residual_variance"])
    factors = 1 / np.asarray(novelty["variances"], np.float64) - 1 / residual
    distances: npt.NDArray[np.float64] = (centred**2).sum(axis=1) / residual + along**2 @ factors
    return distances


def novelty_p_values(embeddings: npt.NDArray[Any], novelty: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Conformal p-value of each cell: small if few calibration cells are as far from the reference cells.

    Args:
        embeddings: `[cells, width]`.
        novelty: See `measure_novelty`; and `distances`, ascending from 0, with the `p_values` from each to the next.

    Returns:
        `[cells]`.

    Raises:
        ValueError: If the embeddings have another width.
    """
    place = np.searchsorted(np.asarray(novelty["distances"]), measure_novelty(embeddings, novelty), side="right") - 1
    return np.asarray(novelty["p_values"], np.float32)[np.maximum(place, 0)]
