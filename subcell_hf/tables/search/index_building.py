"""Building an index: resumable, and checked against exact search on a sample. See `index_files`."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from subcell_hf.progress import progress_bar
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import LOCK_FILE, claim_folder
from subcell_hf.storage.records import describe_files, find_damage, read_record, write_record
from subcell_hf.tables.search.exact import NearestCells, directions_of
from subcell_hf.tables.search.index import IndexFacts, SearchIndex, file_of, index_folder
from subcell_hf.tables.search.index_files import (
    AXES_FILE,
    INDEX_FILE,
    PLAN_FILE,
    Axes,
    Effort,
    IndexPart,
    import_faiss,
    open_parts,
    search_parts,
)
from subcell_hf.tables.search.stored_cells import Floats, Mask, SearchedCells

TARGET_RECALL = 0.995
"""Share of the ten most similar cells of the sample for which a search compares enough lists."""

_FORMAT = 1
_CELLS_PER_PART = 131_072
_SAMPLE_CELLS, _SAMPLE_K = 200, 10
_COMPONENTS, _MOST_LISTS = 128, 4096
_TRAINING_CELLS, _TRAINING_CELLS_PER_LIST = 65_536, 64
_OVERSAMPLING = (10, 30, 100, 300)

_logger = logging.getLogger(__name__)


def build_index(cells: SearchedCells) -> IndexFacts:
    """Build the index of a table, resume an interrupted build, or find that it is complete.

    Args:
        cells: A table that is a Parquet file.

    Returns:
        What is known of the index.

    Raises:
        InputError: If the table is no such file or is damaged, faiss is not installed, or another process builds it.
        OSError: If a file cannot be written.
    """
    import_faiss()
    path = file_of(cells)
    folder = index_folder(path)
    with claim_folder(folder):
        plan = {"format": _FORMAT, "table": _describe_table(path, cells)}
        record = read_record(folder / INDEX_FILE)
        if record is not None and record["table"] == plan["table"] and not find_damage(folder, record["files"]):
            return SearchIndex(cells).facts
        (folder / INDEX_FILE).unlink(missing_ok=True)
        if read_record(folder / PLAN_FILE) != plan:
            for item in folder.iterdir():
                if item.name != LOCK_FILE:
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            write_record(folder / PLAN_FILE, plan)
        axes = _find_axes(cells, folder)
        names, sample, exact = _write_parts(cells, folder, axes)
        effort, recall = _choose_effort(open_parts(folder, names), axes, sample, exact)
        files = describe_files(folder, [folder / AXES_FILE, *(folder / n for name in names for n in _files_of(name))])
        content = {**plan, "parts": names, "files": files, "effort": asdict(effort), "recall": recall}
        write_record(folder / INDEX_FILE, {**content, "mtime_ns": path.stat().st_mtime_ns})
        facts = SearchIndex(cells).facts
    note = _logger.info if recall >= TARGET_RECALL else _logger.warning
    note(
        "%s indexes %s cells in %s lists, of which a search compares %s; it finds %.1f %% of the 10 most similar cells "
        "of %s sample cells. It has %.2f GB.",
        folder, f"{facts.cells:,}", facts.lists, effort.lists, 100 * recall, len(sample), facts.size_bytes / 1e9,
    )  # fmt: skip
    return facts


def _describe_table(path: Path, cells: SearchedCells) -> dict[str, Any]:
    """What an index is built from; the same for a copy of the table."""
    models = [f"{m.get('name')} {m.get('weights_sha256')}" for m in cells.provenance.get("models", ())]
    file = describe_files(path.parent, [path])[path.name]
    return {**file, "rows": cells.count, "width": cells.width, "models": models}


def _files_of(name: str) -> tuple[str, str]:
    return f"{name}.faiss", f"{name}.npy"


def _find_axes(cells: SearchedCells, folder: Path) -> Axes:
    """Components and centroids of cells drawn at random; the same table gives the same ones."""
    path = folder / AXES_FILE
    lists = int(np.clip(2 ** round(np.log2(np.sqrt(cells.count))), 1, _MOST_LISTS))
    if path.is_file():
        with np.load(path) as known:
            return Axes(known["components"], known["centroids"])
    most = max(_TRAINING_CELLS, lists * _TRAINING_CELLS_PER_LIST)
    drawn = np.concatenate(list(_draw(cells, most, seed=0).values()))
    # Without a mean, so that products of components are those of directions, up to what is left out.
    _, vectors = np.linalg.eigh(drawn.T @ drawn)
    components = np.ascontiguousarray(vectors[:, ::-1][:, :_COMPONENTS].T, np.float32)
    options = {"min_points_per_centroid": 1, "max_points_per_centroid": _TRAINING_CELLS_PER_LIST}
    kmeans = import_faiss().Kmeans(len(components), lists, niter=10, spherical=True, seed=1, **options)
    kmeans.train(np.ascontiguousarray(drawn @ components.T))
    axes = Axes(components, np.ascontiguousarray(kmeans.centroids, np.float32))
    with write_atomically(path) as file:
        np.savez(file, components=axes.components, centroids=axes.centroids)
    return axes


def _draw(cells: SearchedCells, most: int, seed: int) -> dict[int, Floats]:
    """Directions of some cells drawn at random, `[cells, width]` by the row of the first cell of their block."""
    drawn = np.zeros(cells.count, np.bool_)
    drawn[np.random.default_rng(seed).choice(cells.count, min(most, cells.count), replace=False)] = True
    blocks = cells.embeddings(drawn)
    return {start: directions_of(block[drawn[start : start + len(block)]]) for start, block in blocks}


def _write_parts(cells: SearchedCells, folder: Path, axes: Axes) -> tuple[list[str], Floats, NearestCells]:
    """Write what is missing; returns the parts, and the sample with its exact most similar cells."""
    sample = np.concatenate(list(_draw(cells, _SAMPLE_CELLS, seed=2).values()))
    nearest = NearestCells(sample, _SAMPLE_K + 1)
    wanted, missing, names = np.zeros(cells.count, np.bool_), list[tuple[str, slice]](), list[str]()
    for number, start in enumerate(range(0, cells.count, _CELLS_PER_PART)):
        name, rows = f"part-{number:05d}", slice(start, min(start + _CELLS_PER_PART, cells.count))
        names.append(name)
        done = read_record(folder / f"{name}.json")
        if done is None or find_damage(folder, done["files"]):
            missing.append((name, rows))
            wanted[rows] = True
        else:
            nearest.merge(np.array(done["rows"]), np.array(done["similarities"], np.float32))
    blocks = _pieces(cells, wanted)
    with progress_bar(len(missing), "parts", "index") as bar:
        for name, rows in missing:
            found = _write_part(blocks, folder, name, axes, sample, rows)
            nearest.merge(found.rows, found.similarities)
            bar.update()
    return names, sample, nearest


def _pieces(cells: SearchedCells, wanted: Mask) -> Iterator[tuple[int, Floats]]:
    """Directions of the wanted cells in order, cut where parts end."""
    for start, block in cells.embeddings(wanted):
        end = start + len(block)
        cuts = [start, *range((start // _CELLS_PER_PART + 1) * _CELLS_PER_PART, end, _CELLS_PER_PART), end]
        for first, last in pairwise(cuts):
            if wanted[first]:
                yield first, directions_of(block[first - start : last - start])


def _write_part(
    blocks: Iterator[tuple[int, Floats]], folder: Path, name: str, axes: Axes, sample: Floats, rows: slice
) -> NearestCells:
    """Write the next cells as one part, with the exact most similar cells of the sample among them."""
    faiss = import_faiss()
    lists, width = axes.centroids.shape
    kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    part = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(width), width, lists, kind, metric, False)
    part.is_trained = True  # half precision has nothing to train, and the centroids are kept apart
    directions = np.empty((rows.stop - rows.start, sample.shape[1]), np.float16)
    nearest = NearestCells(sample, _SAMPLE_K + 1)
    done = rows.start
    while done < rows.stop:
        start, block = next(blocks)
        directions[start - rows.start : start - rows.start + len(block)] = block
        kept = np.flatnonzero(block.any(axis=1))  # a cell without a direction is similar to none
        numbers, values = (start + kept).astype(np.int64), np.ascontiguousarray(block[kept] @ axes.components.T)
        place = (values @ axes.centroids.T).argmax(axis=1).astype(np.int64)
        part.add_core(len(kept), *(faiss.swig_ptr(array) for array in (values, numbers, place)))
        nearest.add(start, block)
        done = start + len(block)
    with write_atomically(folder / f"{name}.faiss") as file:
        faiss.write_index(part, faiss.PyCallbackIOWriter(file.write))
    with write_atomically(folder / f"{name}.npy") as file:
        np.save(file, directions)
    content = {
        "files": describe_files(folder, [folder / file for file in _files_of(name)]),
        "rows": nearest.rows.tolist(),
        "similarities": nearest.similarities.astype(float).tolist(),
    }
    write_record(folder / f"{name}.json", content)
    return nearest


def _choose_effort(parts: list[IndexPart], axes: Axes, sample: Floats, exact: NearestCells) -> tuple[Effort, float]:
    """What is enough to find most of the cells that are most similar to the sample, and the share that it finds.

    First how many cells to compare by all numbers, if all lists are compared; then the fewest lists, doubled from one.
    """
    most = len(axes.centroids)
    effort, recall = Effort(most, _OVERSAMPLING[-1]), 0.0
    for oversampling in _OVERSAMPLING:
        effort = Effort(most, oversampling)
        recall = _recall(parts, axes, sample, exact, effort)
        if recall >= TARGET_RECALL:
            break
    lists = 1
    while lists < most:
        fewer = Effort(lists, effort.oversampling)
        found = _recall(parts, axes, sample, exact, fewer)
        if found >= min(TARGET_RECALL, recall):
            return fewer, found
        lists *= 2
    return effort, recall


def _recall(parts: list[IndexPart], axes: Axes, sample: Floats, exact: NearestCells, effort: Effort) -> float:
    """Share of the cells most similar to the sample that a search finds; those that rounding exchanges count."""
    rounding = 2**-9 / sample.shape[1] ** 0.5  # of a cosine in half precision, some four standard deviations
    found = asked = 0
    for known, direction in zip(exact.similarities, sample, strict=True):
        near = search_parts(parts, axes, direction, len(known), None, effort).similarities[0]
        found += int((near[1:] >= known[-1] - rounding).sum())  # the first one is the cell itself
        asked += len(known) - 1
    return found / asked if asked else 1.0
