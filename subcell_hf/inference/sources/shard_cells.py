"""Folders and URLs of shards → blocks of cells."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from subcell_hf.errors import StoreError, UnreachableError
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock, Choices, Skipped, share_crops
from subcell_hf.shards.cell_table import read_cell_records
from subcell_hf.shards.reader import ShardReader
from subcell_hf.types import FieldCrops

CELLS_PER_BLOCK = 64

_PLACES = ("shard", "part", "offset", "mask_bytes", "pixels_bytes", "crc32")


@dataclass(frozen=True)
class ShardCells:
    """Every cell of a folder of shards, in its order.

    Attributes:
        url: Folder or URL that `subcell shards` wrote.
        variants: Models to choose from, the largest first.
        split: Take only the cells of this split; None: all.
        blocks_per_part: Blocks in a part of the table, at most.
        blocks_per_read: Blocks that one task of a cluster reads.
    """

    url: str
    variants: tuple[Variant, ...]
    split: str | None = None
    blocks_per_part: int = 16
    blocks_per_read: int = 1

    @cached_property
    def _reader(self) -> ShardReader:
        return ShardReader(self.url)

    @cached_property
    def _rows(self) -> npt.NDArray[np.int64]:
        return self._reader.split_rows(self.split)

    @cached_property
    def _records(self) -> pa.Table:
        """What is known of the cells, beside where they lie."""
        table = read_cell_records(self._reader.url)
        return table.drop_columns([name for name in _PLACES if name in table.column_names])

    @cached_property
    def _splits(self) -> dict[str, str]:
        """Antibody → split."""
        return {name: split for split, names in self._reader.index.splits.items() for name in names}

    def names(self) -> Sequence[str]:
        """One name per block of consecutive cells."""
        return [f"cells {start}" for start in range(0, len(self._rows), CELLS_PER_BLOCK)]

    def read(self, name: str) -> CellBlock:
        """Read a block; where it is damaged, cell by cell.

        Raises:
            StoreError: If no cell can be read: they are not skipped for what is not their fault.
            UnreachableError: If the network fails, for the same reason.
        """
        return self.read_each(name, [self.variants])[0]

    def read_each(self, name: str, choices: Choices) -> list[CellBlock]:
        """Read a block once for each of several encoders; see `read`."""
        start = int(name.split()[1])
        rows = self._rows[start : start + CELLS_PER_BLOCK]
        form = self._reader.index.crop_format
        skipped: list[Skipped] = []
        try:
            rows, pixels, masks = self._read_rows(rows, skipped)
        except (StoreError, UnreachableError):
            raise
        except (ValueError, OSError) as error:
            return [self._skip(rows, str(error))] * len(choices)
        records = tuple(self._record(row) for row in self._records.take(pa.array(rows)).to_pylist())
        crops = FieldCrops(name, pixels, masks, form.channels, form.pixel_size_um, records)
        return [
            self._skip(rows, block.skipped[0].reason) if block.crops is None else replace(block, skipped=tuple(skipped))
            for block in share_crops(crops, choices)
        ]

    def _skip(self, rows: npt.NDArray[np.int64], reason: str) -> CellBlock:
        """A block of cells that cannot be used, each by its name."""
        return CellBlock(None, None, skipped=tuple(Skipped(cell, reason) for cell in self._reader.cells.names(rows)))

    def _read_rows(
        self, rows: npt.NDArray[np.int64], skipped: list[Skipped]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.bool_]]:
        try:
            return rows, *self._reader.read(rows)
        except StoreError:
            raise
        except ValueError:
            sound = []
            for row in rows:
                try:
                    self._reader.read(np.array([row]))
                    sound.append(row)
                except ValueError as error:
                    skipped.append(Skipped(self._reader.cells.names(np.array([row]))[0], str(error)))
        kept = np.array(sound, np.int64)
        return kept, *self._reader.read(kept)

    def _record(self, row: dict[str, Any]) -> dict[str, Any]:
        known = {self.renamed().get(name, name): value for name, value in row.items() if value is not None}
        split = self._splits.get(str(row.get("antibody")))
        return {**known, "split": split} if split else known

    def renamed(self) -> dict[str, str]:
        """Metadata that are kept under another name: a column `split`, where the shards have splits themselves."""
        return {"split": "metadata_split"} if self._splits and "split" in self._records.column_names else {}

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Changes with the shards, the split and the models."""
        index = self._reader.index
        facts = [
            index.fingerprint,
            index.cells_sha256,
            self.split,
            *(asdict(variant) for variant in variants or self.variants),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
