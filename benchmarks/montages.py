"""Real cells with known locations: 90 of ten images of the Human Protein Atlas, classified by frozen features."""

import csv
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.embeddings import Floats, embed
from subcell_hf.cells.cell_features import measure_cells
from subcell_hf.model.modeling_subcell import SubCellModel

MONTAGE_CHANNELS = ("red", "yellow", "blue", "green")
TILE_PX = 512


def read_montages(folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], list[str], list[str]]:
    """Pixels `[cells, 4, 512, 512]`, masks, locations and images of the real cells, nine of each image."""
    pixels, labels, images = [], [], []
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        planes = [
            np.asarray(imagecodecs.jpeg_decode((folder / f"{row['Id']}_{name}.jpg").read_bytes()))
            for name in MONTAGE_CHANNELS
        ]
        for top in range(0, 3 * TILE_PX, TILE_PX):
            for left in range(0, 3 * TILE_PX, TILE_PX):
                pixels.append(np.stack([plane[top : top + TILE_PX, left : left + TILE_PX] for plane in planes]))
                labels.append(row["location"])
                images.append(row["Id"])
    stacked = np.stack(pixels)
    # Their background was set to 0; JPEG leaves a little around it.
    return stacked, (stacked > 8).any(axis=1), labels, images


def score_montages(
    folder: Path, models: dict[str, SubCellModel], scaling: str, edge_px: int = TILE_PX
) -> dict[str, dict[str, float]]:
    """Share of the real cells that are classified right, leaving one image out at a time.

    Args:
        folder: With the montages and `labels.csv`.
        models: Name → model.
        scaling: Of its image processor.
        edge_px: Edge of the square in the middle of each cell's tile that everything sees; a multiple of 16.
    """
    pixels, masks, labels, images = read_montages(folder)
    middle = slice((TILE_PX - edge_px) // 2, (TILE_PX + edge_px) // 2)
    pixels, masks = pixels[:, :, middle, middle], masks[:, middle, middle]
    tiny = _shrink(pixels * masks[:, None], 16)
    features: dict[str, Floats] = {
        "features": measure_cells(_shrink(pixels, 4) / 255, masks[:, ::4, ::4], MONTAGE_CHANNELS)[0],
        "pixels": tiny.reshape(len(tiny), -1) / 255,
    }
    features |= {name: embed(model, scaling, pixels, masks) for name, model in models.items()}
    return {name: _leave_one_image_out(values, labels, images, name == "pixels") for name, values in features.items()}


def _shrink(pixels: npt.NDArray[np.uint8], factor: int) -> Floats:
    """Means of squares of `factor` pixels."""
    cells, channels, height, width = pixels.shape
    blocks = pixels.reshape(cells, channels, height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(3, 5), dtype=np.float32)


def _leave_one_image_out(values: Floats, labels: list[str], images: list[str], reduce: bool) -> dict[str, float]:
    truth, image_of = np.array(labels), np.array(images)
    right = {"linear": 0, "nearest neighbours": 0}
    for image in dict.fromkeys(images):
        left_out = image_of == image
        first: list[Any] = [PCA(32, random_state=0)] if reduce else []
        for name, last in (
            ("linear", LogisticRegression(C=0.1, max_iter=1000)),
            ("nearest neighbours", KNeighborsClassifier(5)),
        ):
            probe = make_pipeline(*first, StandardScaler(), last).fit(values[~left_out], truth[~left_out])
            right[name] += int((probe.predict(values[left_out]) == truth[left_out]).sum())
    return {name: round(count / len(truth), 3) for name, count in right.items()}
