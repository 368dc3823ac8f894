"""Baselines that any model must beat: classical features of the crops, and principal components of their pixels.

Both come as embedding tables over the cells of shards or crops, so that they go through every benchmark as a model
does. Recent work found large microscopy models no better than such baselines (arXiv 2603.13377).
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.decomposition import PCA
from tqdm import tqdm

from subcell_hf.cells.cell_features import check_crops, measure_cells
from subcell_hf.cells.folder import TABLE_FILE, read_crop_table, read_crops_json, read_field_crops
from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.localization.probes import Scaling
from subcell_hf.images.folder_contents import CROPS_FILE
from subcell_hf.parallel.worker_pool import WorkerPool
from subcell_hf.settings import Setting
from subcell_hf.shards.cell_table import CELL_COLUMNS, read_cell_records
from subcell_hf.shards.reader import ShardReader
from subcell_hf.storage.full_disk import naming_full_disk
from subcell_hf.tables.files import EmbeddingTable

FEATURES, PIXELS = "features", "pixels"
"""Names of the two baselines."""

_CELLS_PER_TASK = 32
_PLACE_COLUMNS = {"file", "index", *CELL_COLUMNS} - {
    "cell_id", "antibody", "gene", "field_of_view", "cell_line", "locations",
}  # fmt: skip
"""Columns with the location of a cell's bytes, which tables of embeddings do not contain."""


@dataclass(frozen=True)
class BaselineSettings:
    """How the baselines are made.

    Attributes:
        pixel_edge: Size in pixels to which channels are downsampled before the principal components.
        components: Maximum number of principal components of the pixels.
        fitting_cells: Maximum number of training cells to fit the principal components on, chosen at random.
        seed: Random seed; the same seed gives identical output.
    """

    pixel_edge: Annotated[int, Setting(minimum=1)] = 32
    components: Annotated[int, Setting(minimum=1)] = 128
    fitting_cells: Annotated[int, Setting(minimum=1)] = 20_000
    seed: Annotated[int, Setting(minimum=0)] = 0

    def __post_init__(self) -> None:
        for name in ("pixel_edge", "components", "fitting_cells"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1.")


class _Crops(Protocol):
    """Crops on a disk or elsewhere, in pieces that processes read on their own."""

    cells: pd.DataFrame
    channels: tuple[str, ...]
    pieces: list[npt.NDArray[np.int64]]

    def read(self, piece: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]: ...


class _ShardCrops:
    def __init__(self, url: str) -> None:
        self._reader = ShardReader(url)
        index = self._reader.index
        self.channels = index.crop_format.channels
        self.cells = _metadata(read_cell_records(self._reader.url).to_pandas())
        splits = {antibody: split for split, antibodies in index.splits.items() for antibody in antibodies}
        if splits:
            self.cells = self.cells.rename(columns={"split": "metadata_split"})
            self.cells["split"] = [splits.get(antibody, "") for antibody in self.cells["antibody"]]
        rows = np.arange(len(self.cells))
        self.pieces = [rows[start : start + _CELLS_PER_TASK] for start in range(0, len(rows), _CELLS_PER_TASK)]

    def read(self, piece: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        return self._reader.read(piece)


class _FolderCrops:
    def __init__(self, url: str) -> None:
        self._folder = Path(url)
        self._facts = read_crops_json(self._folder)
        self._table = read_crop_table(self._folder)
        self.channels = tuple(self._facts["channels"])
        self.cells = _metadata(self._table)
        self.pieces = [rows for _, rows in sorted(self._table.groupby("file", sort=True).indices.items())]

    def read(self, piece: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        crops = read_field_crops(self._folder, self._table.iloc[piece].to_dict("records"), self._facts)
        return crops.pixels, crops.cell_masks


def make_baselines(
    source: str | Path, settings: BaselineSettings | None = None, *, workers: int = 1, progress: bool = True
) -> dict[str, EmbeddingTable]:
    """Measure every cell of shards or crops.

    Args:
        source: Folder or URL of shards, or folder of crops.
        settings: Sizes and seed; None for the defaults.
        workers: Processes; 1 works in this one. The tables do not depend on it.
        progress: Whether to show a progress bar on stderr.

    Returns:
        `features` and `pixels`: tables over the same cells in the same order, with the metadata of the source and, from
        shards, a column `split`. Features are standardized, so that any classifier can read them, and principal
        components fitted, on the cells of the split `train`, or on all where there is none; `provenance` says which.

    Raises:
        InputError: If the source is no folder of shards or crops, or a cell cannot be read or measured.
        OSError: If the source cannot be read.
    """
    settings = settings or BaselineSettings()
    crops = _open_crops(str(source))
    if not len(crops.cells):
        raise InputError(f"{source} contains no cells.")
    tasks = [(piece, settings.pixel_edge) for piece in crops.pieces]
    measured = _measure_all(str(source), crops, tasks, workers)
    shown = tqdm(measured, total=len(tasks), unit="piece", disable=not progress)
    return assemble_baselines(shown, crops.cells, crops.channels, settings)


def assemble_baselines(
    measured: Iterable["Measured"], cells: pd.DataFrame, channels: Sequence[str], settings: BaselineSettings
) -> dict[str, EmbeddingTable]:
    """Make the tables of what was measured.

    Args:
        measured: Piece by piece, in any order.
        cells: Metadata of the tables' cells; with a column `split`, fitting keeps to `train`.
        channels: What was measured.
        settings: As it was measured with.

    Returns:
        See `make_baselines`.

    Raises:
        InputError: If a cell was not measured, or pieces differ in what was.
    """
    features = np.empty((len(cells), 0), np.float32)
    names: tuple[str, ...] = ()
    lacking = np.ones(len(cells), np.bool_)
    # Shrunken pixels of a million cells are gigabytes: they wait on the disk until the components are fitted.
    with tempfile.TemporaryDirectory() as folder:
        shrunken: npt.NDArray[np.float16] = np.empty((0, 0), np.float16)
        for rows, values, names, pixels in measured:
            if lacking.all():
                features = np.empty((len(cells), len(names)), np.float32)
                shrunken = _map_file(Path(folder) / "pixels", (len(cells), pixels.shape[1]))
            if values.shape[1] != features.shape[1] or pixels.shape[1] != shrunken.shape[1]:
                raise InputError(f"Cells differ in their channels; expected {', '.join(channels)} in every one.")
            features[rows], shrunken[rows], lacking[rows] = values, pixels, False
        if lacking.any():
            first = cells["cell_id"].iloc[int(np.argmax(lacking))]
            raise InputError(
                f"Missing in the images: {int(lacking.sum())} of {counted(len(cells), 'cell')}, first {first!r}"
            )
        fitted_on, components = _principal_components(shrunken, cells, settings)
        del shrunken
    rows, which = _training_rows(cells)
    made: dict[str, tuple[npt.NDArray[np.float32], dict[str, Any]]] = {
        FEATURES: (Scaling.of(features[rows])(features), {"features": list(names), "standardized_on": which}),
        PIXELS: (components, {"pixel_edge": settings.pixel_edge, "fitted_on": fitted_on, "seed": settings.seed}),
    }
    return {
        name: EmbeddingTable(cells, values, provenance={"baseline": name, "channels": list(channels), **facts})
        for name, (values, facts) in made.items()
    }


def _open_crops(url: str) -> _Crops:
    if (Path(url) / CROPS_FILE).is_file() or (Path(url) / TABLE_FILE).is_file():
        return _FolderCrops(url)
    return _ShardCrops(url)


def _metadata(table: pd.DataFrame) -> pd.DataFrame:
    """What is known of the cells, without where their bytes lie; missing texts are empty."""
    kept = table.drop(columns=[name for name in table.columns if name in _PLACE_COLUMNS]).reset_index(drop=True)
    texts = [name for name in kept.columns if not pd.api.types.is_numeric_dtype(kept[name])]
    return kept.assign(**{name: kept[name].fillna("").astype(str) for name in texts})


Task = tuple[npt.NDArray[np.int64], int]
Measured = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], tuple[str, ...], npt.NDArray[np.float16]]
"""Rows of cells in their table, features, names of these, shrunken pixels."""

_opened: dict[str, _Crops] = {}
"""Crops opened by this worker process, by URL."""


def _measure_all(url: str, crops: _Crops, tasks: Sequence[Task], workers: int) -> Iterator[Measured]:
    """Measure all pieces, in order."""
    if workers == 1:
        yield from (_measure_piece(crops, task) for task in tasks)
        return
    with WorkerPool(workers, _open_in_worker, (url,)) as pool:
        yield from pool.map(_measure_in_worker, [url] * len(tasks), tasks)


def _open_in_worker(url: str) -> None:
    _opened[url] = _open_crops(url)


def _measure_in_worker(url: str, task: Task) -> Measured:
    return _measure_piece(_opened[url], task)


def _measure_piece(crops: _Crops, task: Task) -> Measured:
    piece, edge = task
    pixels, cell_masks = crops.read(piece)
    values, names = measure_cells(pixels, cell_masks, crops.channels)
    return piece, values, names, shrink_pixels(pixels, cell_masks, edge)


def shrink_pixels(
    pixels: npt.NDArray[np.generic], cell_masks: npt.NDArray[np.bool_], edge: int
) -> npt.NDArray[np.float16]:
    """Mask, scale and shrink crops, as the published models see them.

    Args:
        pixels: `[cells, channels, height, width]`.
        cell_masks: `[cells, height, width]` bool, True inside; all else becomes 0.
        edge: Edge of the result in pixels.

    Returns:
        `[cells, channels · edge · edge]` float16 in [0, 1]: one minimum and maximum for all channels of a cell, then
        the mean over blocks; where the crop's edge is no multiple, blocks differ by a pixel in size.

    Raises:
        InputError: If shapes do not fit, or the crops are smaller than `edge`.
    """
    check_crops(pixels, cell_masks, [str(number) for number in range(pixels.shape[1])])
    height, width = pixels.shape[2:]
    if min(height, width) < edge:
        raise InputError(
            f"Crops of {height} x {width} px cannot be downsampled to {edge} px. Choose a smaller pixel_edge."
        )
    masked = pixels.astype(np.float32) * cell_masks[:, None]
    low, high = (bound(masked, axis=(1, 2, 3), keepdims=True) for bound in (np.min, np.max))
    scaled = (masked - low) / (high - low + 1e-6)
    rows, columns = ((np.arange(edge) * size) // edge for size in (height, width))
    summed = np.add.reduceat(np.add.reduceat(scaled, rows, axis=2), columns, axis=3)
    areas = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return (summed / areas).reshape(len(pixels), -1).astype(np.float16)


def _training_rows(cells: pd.DataFrame) -> tuple[npt.NDArray[np.int64], str]:
    """Rows of the split `train`, or all where there is none, and which in words."""
    training = np.flatnonzero(cells["split"] == "train") if "split" in cells else np.empty(0, np.int64)
    return (training, "split train") if len(training) else (np.arange(len(cells)), "all cells")


def _map_file(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float16]:
    """Zeros in a new file; its room is taken at once, for a process that fills a mapped file on a full disk is killed.

    Raises:
        OSError: If the disk, or the folder for temporary files, has no room for it.
    """
    size = max(1, int(np.prod(shape)) * np.dtype(np.float16).itemsize)
    with naming_full_disk(path), path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    return np.memmap(path, np.float16, "r+", shape=shape)


def _principal_components(
    shrunken: npt.NDArray[np.float16], cells: pd.DataFrame, settings: BaselineSettings
) -> tuple[str, npt.NDArray[np.float32]]:
    """Fit on training cells and transform all. Returns what it was fitted on, in words, and `[cells, components]`."""
    rows, what = _training_rows(cells)
    if len(rows) > settings.fitting_cells:
        rows = np.sort(np.random.default_rng(settings.seed).choice(rows, settings.fitting_cells, replace=False))
    count = min(settings.components, len(rows), shrunken.shape[1])
    solver = PCA(count, svd_solver="randomized", random_state=settings.seed)
    solver.fit(shrunken[rows].astype(np.float32))
    blocks = [
        solver.transform(shrunken[start : start + 4096].astype(np.float32)) for start in range(0, len(shrunken), 4096)
    ]
    return f"{len(rows)} cells of {what}", np.concatenate(blocks).astype(np.float32)
