"""Any cell of a folder of shards, by one range read, wherever the folder lies."""

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import fsspec.core
import numpy as np
import numpy.typing as npt
from fsspec.implementations.local import LocalFileSystem

from subcell_hf.errors import InputError, StoreError
from subcell_hf.shards.cell_table import CellTable
from subcell_hf.shards.codec import decode_mask, decode_pixels
from subcell_hf.shards.index import CELLS_FILE, INDEX_FILE, ShardIndex
from subcell_hf.storage.downloads.persistence import read_persistently

MAX_GAP_BYTES = 64 * 1024
MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""Over a network, neighbouring cells are fetched together up to this size, if no more than the gap is between them."""

REMOTE_THREADS = 8


class Span(NamedTuple):
    """A run of bytes of one shard."""

    shard: int
    start: int
    end: int


class ShardReader:
    """Reads cells by their row in the table of cells; keeps no pixels, so memory does not grow with what was read.

    It can be sent to other processes; each opens its own connection.

    Args:
        url: Folder that `subcell shards` wrote: a local path, `hf://datasets/<owner>/<name>[@revision][/folder]`,
            `http(s)://…`, or any other URL that fsspec knows (`s3://…`, `gcs://…`); `simplecache::<url>` keeps a local
            copy of each shard that is read.
        compare_files: Whether the tar files of a local folder are compared with the index, by name and size.

    Attributes:
        url: As given.
        index: What `index.json` says.
        cells: One row per cell.

    Raises:
        InputError: If the index, the table of cells or the list of files is not as it must be.
        OSError: If the folder cannot be read.
        UnreachableError: If a server does not answer.
        UnreachableError: If a network is at fault.
    """

    def __init__(self, url: str | Path, *, compare_files: bool = True) -> None:
        self.url = str(url).rstrip("/")
        if self.url.startswith("pipe:") or "::pipe:" in self.url:
            raise InputError(f"{self.url}: commands are never run. Give a folder or a URL such as hf://datasets/….")
        self._connection: tuple[int, Any, str] | None = None
        self.index = ShardIndex.from_json(self._read_file(INDEX_FILE), f"{self.url}/{INDEX_FILE}")
        self.cells = CellTable.from_parquet(self._read_file(CELLS_FILE), self.index, f"{self.url}/{CELLS_FILE}")
        filesystem, root = self._filesystem()
        if compare_files and isinstance(filesystem, LocalFileSystem):
            problems = file_problems(Path(root), self.index)
            if problems:
                raise InputError(
                    f"{self.url} does not agree with its {INDEX_FILE}: {'; '.join(problems[:10])}. Copy the folder "
                    "again, or take out files that do not belong there."
                )

    def __getstate__(self) -> dict[str, Any]:
        """Connections stay in the process that opened them."""
        return {**vars(self), "_connection": None}

    def split_rows(self, split: str | None) -> npt.NDArray[np.int64]:
        """Rows of the cells of one split, or all, in the order of the shards.

        Args:
            split: Name of a split of the index; None for every cell.

        Returns:
            `[cells]` int64.

        Raises:
            InputError: If there is no such split, or it is empty.
        """
        if split is None:
            return np.arange(len(self.cells))
        if split not in self.index.splits:
            known = ", ".join(self.index.splits) or "none"
            raise InputError(f"{self.url} has no split {split!r}; it has {known}. Make splits with `subcell splits`.")
        names = set(self.index.splits[split])
        chosen = np.array([name in names for name in self.index.antibodies])
        rows = np.flatnonzero(chosen[self.cells.antibody])
        if not len(rows):
            raise InputError(f"The split {split!r} of {self.url} has no cells. Make others with `subcell splits`.")
        return rows

    def read(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Read and decode cells.

        Args:
            rows: `[cells]`, rows of the table of cells, in any order, repeats allowed.

        Returns:
            Pixels `[cells, channels, height, width]` of the shards' dtype and masks `[cells, height, width]` bool.

        Raises:
            InputError: If a cell's bytes are not those that were written; `StoreError` where no cell can be read.
            OSError: If a shard cannot be read.
            UnreachableError: If a server does not answer.
            UnreachableError: If a network is at fault.
        """
        form = self.index.crop_format
        pixels = np.empty((len(rows), *form.shape), form.dtype)
        cell_masks = np.empty((len(rows), *form.shape[1:]), np.bool_)
        starts, lengths = self.cells.offset[rows], self.cells.span_bytes[rows]
        spans = [Span(*map(int, span)) for span in zip(self.cells.shard[rows], starts, starts + lengths, strict=True)]
        filesystem, _ = self._filesystem()
        if isinstance(filesystem, LocalFileSystem):
            for position, span in enumerate(spans):
                self._decode(int(rows[position]), self._fetch(span), pixels[position], cell_masks[position])
            return pixels, cell_masks
        merged = merge_spans(spans)
        for request, content in zip(merged, self._fetch_all(list(merged)), strict=True):
            if len(content) > request.end - request.start:
                raise StoreError(
                    f"{self.url} does not answer range requests: got {len(content)} bytes of a shard, expected "
                    f"{request.end - request.start}. Read it as simplecache::{self.url}, or copy the folder to a disk."
                )
            for position in merged[request]:
                start = spans[position].start - request.start
                found = content[start : spans[position].end - request.start]
                self._decode(int(rows[position]), found, pixels[position], cell_masks[position])
        return pixels, cell_masks

    def _decode(self, row: int, content: bytes, pixels: npt.NDArray[Any], cell_mask: npt.NDArray[np.bool_]) -> None:
        """Check one cell's bytes and decode them into the arrays given."""
        cells = self.cells
        mask_bytes, expected_bytes = int(cells.mask_bytes[row]), int(cells.span_bytes[row])
        try:
            if len(content) != expected_bytes:
                raise ValueError(f"got {len(content)} bytes, expected {expected_bytes}: the shard is truncated")
            if zlib.crc32(content) != cells.crc32[row]:
                raise ValueError("its checksum differs: the shard is damaged or was written by another run")
            decode_mask(content[:mask_bytes], cell_mask)
            decode_pixels(content[int(cells.pixels_start[row]) :], pixels)
        except ValueError as error:
            shard = self.index.shards[cells.shard[row]].file
            raise InputError(
                f"Cell {cells.names(np.array([row]))[0]} at byte {cells.offset[row]} of {self.url}/{shard}: {error}. "
                "See `subcell shards-inspect`; copy this shard again or write it anew."
            ) from error

    def _filesystem(self) -> tuple[Any, str]:
        """The file system and the folder's path in it; opened anew in every process."""
        if self._connection is None or self._connection[0] != os.getpid():
            self._connection = (os.getpid(), *fsspec.core.url_to_fs(self.url))
        return self._connection[1], self._connection[2]

    def _read_file(self, name: str) -> bytes:
        filesystem, root = self._filesystem()
        try:
            if isinstance(filesystem, LocalFileSystem):
                return Path(root, name).read_bytes()
            return bytes(read_persistently(lambda: filesystem.cat_file(f"{root}/{name}")))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.url} has no {name}: it is not a finished folder of shards. Give one that `subcell "
                f"shards` wrote, "
                "or run that command again to finish it."
            ) from error

    def _fetch(self, span: Span) -> bytes:
        """Read one span of a local shard, or of a store that answers one request at a time."""
        filesystem, root = self._filesystem()
        path = f"{root}/{self.index.shards[span.shard].file}"
        options = {} if isinstance(filesystem, LocalFileSystem) else {"cache_type": "none"}
        with filesystem.open(path, "rb", **options) as file:
            file.seek(span.start)
            return bytes(file.read(span.end - span.start))

    def _fetch_all(self, spans: Sequence[Span]) -> list[bytes]:
        """Read spans of remote shards, many at a time."""
        filesystem, root = self._filesystem()
        if filesystem.async_impl:
            paths = [f"{root}/{self.index.shards[span.shard].file}" for span in spans]
            starts, ends = [span.start for span in spans], [span.end for span in spans]
            return read_persistently(lambda: filesystem.cat_ranges(paths, starts, ends, on_error="raise"))
        with ThreadPoolExecutor(REMOTE_THREADS) as pool:
            return list(pool.map(lambda span: read_persistently(lambda: self._fetch(span)), spans))


def merge_spans(spans: Sequence[Span]) -> dict[Span, list[int]]:
    """Join spans that lie close together, so that a network is asked less often.

    Args:
        spans: In any order.

    Returns:
        Joined span → positions of the spans that it covers.
    """
    merged: dict[Span, list[int]] = {}
    current, members = None, list[int]()
    for position in sorted(range(len(spans)), key=lambda position: spans[position]):
        span = spans[position]
        close = current is not None and span.shard == current.shard and span.start - current.end <= MAX_GAP_BYTES
        if current is not None and close and span.end - current.start <= MAX_REQUEST_BYTES:
            current = current._replace(end=max(current.end, span.end))
            members.append(position)
            continue
        if current is not None:
            merged[current] = members
        current, members = span, [position]
    if current is not None:
        merged[current] = members
    return merged


def file_problems(folder: Path, index: ShardIndex) -> list[str]:
    """Compare the tar files of a local folder with the index, by name and size.

    Returns:
        In words, each file that is missing, is not in the index or has another size.
    """
    found = {path.name: path.stat().st_size for path in folder.glob("*.tar")}
    problems = [f"{name} is not in the index" for name in sorted(found.keys() - {s.file for s in index.shards})]
    for shard in index.shards:
        if shard.file not in found:
            problems.append(f"{shard.file} is missing")
        elif found[shard.file] != shard.bytes:
            problems.append(f"{shard.file} has {found[shard.file]} bytes, expected {shard.bytes}")
    return problems
