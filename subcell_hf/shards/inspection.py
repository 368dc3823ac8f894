"""Is a folder of shards what its index says, down to the last byte?"""

import hashlib
import tarfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from subcell_hf.errors import InputError
from subcell_hf.parallel.worker_pool import WorkerPool
from subcell_hf.shards.archive import cell_key
from subcell_hf.shards.cell_table import TAR_BLOCK_BYTES
from subcell_hf.shards.codec import MASK_MEMBER, RECORD_MEMBER
from subcell_hf.shards.index import ShardIndex
from subcell_hf.shards.reader import ShardReader, file_problems
from subcell_hf.storage.plain_files import parse_json

_MAX_LISTED = 5


@dataclass(frozen=True)
class InspectionReport:
    """What an inspection found.

    Attributes:
        index: The folder's index.
        problems: In words; empty where everything is as the index says.
    """

    index: ShardIndex
    problems: tuple[str, ...]


class _Place(NamedTuple):
    """Where a member's content lies in its tar file; a record has a cell and no known size."""

    offset: int
    size: int
    cell_id: str | None = None


def inspect_shards(folder: Path, *, workers: int = 1, progress: bool = True) -> InspectionReport:
    """Compare every file, member and cell with the index: sizes, checksums, keys, places, and that each cell decodes.

    Args:
        folder: Local folder of shards.
        workers: Processes that read; 1 works in this process.
        progress: Show a progress bar.

    Raises:
        InputError: If the index or the table of cells cannot be read at all.
        OSError: Likewise.
    """
    reader = ShardReader(folder, compare_files=False)
    problems = file_problems(folder, reader.index)
    count = len(reader.index.shards)
    inspect = partial(_inspect_shard, folder, reader)
    with tqdm(total=count, unit="shard", desc="Inspecting", disable=None if progress else True) as bar:
        if workers <= 1 or count <= 1:
            for number in range(count):
                problems += inspect(number)
                bar.update()
        else:
            with WorkerPool(min(workers, count)) as pool:
                for found in pool.map(inspect, range(count)):
                    problems += found
                    bar.update()
    return InspectionReport(reader.index, tuple(problems))


def _inspect_shard(folder: Path, reader: ShardReader, number: int) -> list[str]:
    """Problems of one shard, in words."""
    shard = reader.index.shards[number]
    path = folder / shard.file
    if not path.is_file():
        return []  # Told by the comparison of files.
    problems = []
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        problems.append(f"{shard.file} has sha256 {found}, expected {shard.sha256}")
    return problems + _member_problems(path, reader, number) + _cell_problems(reader, number)


def _member_problems(path: Path, reader: ShardReader, number: int) -> list[str]:
    """Compare the members of a tar file with the table of cells."""
    expected = _expected_members(path, reader, number)
    problems: dict[str, list[str]] = {}
    seen: set[str] = set()
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                problem = _member_problem(archive, info, expected, seen)
                if problem:
                    problems.setdefault(problem, []).append(info.name)
                seen.add(info.name)
    except tarfile.TarError as error:
        problems[f"breaks off after {len(seen)} members ({error})"] = []
    missing = [name for name in expected if name not in seen]
    if missing:
        problems["lacks"] = missing
    return [f"{path.name} {problem}{_list(names)}" for problem, names in problems.items()]


def _member_problem(
    archive: tarfile.TarFile, info: tarfile.TarInfo, expected: Mapping[str, _Place], seen: Set[str]
) -> str | None:
    """What is wrong with one member."""
    place = expected.get(info.name)
    if info.name in seen:
        return "has twice"
    if place is None or not info.isreg():
        return "has unexpected members, which may be unsafe to open"
    if info.offset_data != place.offset or info.size != (place.size if place.cell_id is None else info.size):
        return "has at another place or with another size than in the table of cells"
    if place.cell_id is not None:
        file = archive.extractfile(info)
        try:
            record = parse_json(file.read(), info.name) if file else None
        except InputError:
            return "has records that are not JSON"
        if not isinstance(record, dict) or record.get("cell_id") != place.cell_id:
            return "has records of other cells than the table of cells lists"
    return None


def _expected_members(path: Path, reader: ShardReader, number: int) -> dict[str, _Place]:
    """Name of each member that a shard should have → its place."""
    cells, job = reader.cells, int(path.stem.rpartition("-")[2])
    expected = {}
    position, previous = 0, -1
    rows = np.flatnonzero(cells.shard == number)
    for row, cell_id in zip(rows, cells.names(rows), strict=True):
        part, offset = int(cells.part[row]), int(cells.offset[row])
        position = position + 1 if part == previous else 0
        previous = part
        key, pixels = cell_key(job, part, position), offset + int(cells.pixels_start[row])
        pixels_bytes = int(cells.pixels_bytes[row])
        record = pixels + -(-pixels_bytes // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES + TAR_BLOCK_BYTES
        expected[f"{key}.{MASK_MEMBER}"] = _Place(offset, int(cells.mask_bytes[row]))
        expected[f"{key}.{reader.index.crop_format.pixels_member}"] = _Place(pixels, pixels_bytes)
        expected[f"{key}.{RECORD_MEMBER}"] = _Place(record, 0, cell_id)
    return expected


def _cell_problems(reader: ShardReader, number: int) -> list[str]:
    """Cells of a shard that cannot be read."""
    problems = []
    for row in np.flatnonzero(reader.cells.shard == number):
        try:
            reader.read(np.array([row]))
        except (InputError, OSError) as error:
            problems.append(str(error))
    more = len(problems) - _MAX_LISTED
    return problems[:_MAX_LISTED] + ([f"and {more} more cells of the same shard"] if more > 0 else [])


def _list(names: Sequence[str]) -> str:
    """Some names after a colon, and how many more there are."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f": {', '.join(names[:_MAX_LISTED])}{more}" if names else ""
