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
from subcell_hf.cells.resampling import resample_windows, sample_positions
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
        edge_px: Edge of the square in the middle of each cell's tile that everything sees; a multiple of 4.
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
    """Means of squares of `factor` pixels; what is left at the lower and right border does not count."""
    cells, channels = pixels.shape[:2]
    height, width = (length // factor * factor for length in pixels.shape[2:])
    blocks = pixels[:, :, :height, :width].reshape(cells, channels, height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(3, 5), dtype=np.float32)


def crop_tiles(
    pixels: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_], crop_px: int, output_px: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """The middle of tiles `[cells, channels, 512, 512]`, resized as `subcell crops` does it."""
    start, scale = (TILE_PX - crop_px) / 2, crop_px / output_px
    crops = np.concatenate([resample_windows(tile, [(start, start)], scale, output_px) for tile in pixels])
    places = np.rint(sample_positions(start, scale, output_px)).astype(np.intp)
    return crops, masks[:, places[:, None], places]


def predict_left_out(values: Floats, labels: list[str], images: list[str], reduce: bool = False) -> dict[str, Floats]:
    """Probabilities of the locations where probes learn from the cells of all other images.

    Args:
        values: `[cells, width]`.
        labels: Location of each cell.
        images: Image of each cell.
        reduce: Whether to take 32 principal components first.

    Returns:
        Name of the probe → `[cells, locations]`, locations in alphabetical order.
    """
    truth, image_of = np.array(labels), np.array(images)
    classes = np.unique(truth)
    found = {name: np.zeros((len(truth), len(classes)), np.float32) for name in ("linear", "nearest neighbours")}
    for image in dict.fromkeys(images):
        left_out = image_of == image
        first: list[Any] = [PCA(32, random_state=0)] if reduce else []
        for name, last in (
            ("linear", LogisticRegression(C=0.1, max_iter=1000)),
            ("nearest neighbours", KNeighborsClassifier(5)),
        ):
            probe = make_pipeline(*first, StandardScaler(), last).fit(values[~left_out], truth[~left_out])
            known = np.searchsorted(classes, probe.classes_)
            found[name][np.ix_(left_out, known)] = probe.predict_proba(values[left_out])
    return found


def _leave_one_image_out(values: Floats, labels: list[str], images: list[str], reduce: bool) -> dict[str, float]:
    truth = np.unique(labels, return_inverse=True)[1]
    likely = predict_left_out(values, labels, images, reduce)
    return {name: round(float((one.argmax(axis=1) == truth).mean()), 3) for name, one in likely.items()}
