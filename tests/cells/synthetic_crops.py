"""Small made-up crops: every pixel depends on the cell's name alone, so that what is read can be told to be right."""

import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.shards.jobs import ListedCrops
from subcell_hf.shards.sharding import ShardReport, ShardSettings, write_shards
from subcell_hf.types import FieldCrops

CHANNELS = ("red", "yellow", "blue", "green")
LOCATIONS = ("Nucleoplasm", "Cytosol", "Nucleoplasm;Cytosol", "")


def expected_pixels(cell_id: str, size_px: int, dtype: str) -> npt.NDArray[Any]:
    """`[4, size, size]`: the pixels of a cell, from its name."""
    rng = np.random.default_rng(zlib.crc32(cell_id.encode()))
    if dtype == "float32":
        return rng.normal(size=(4, size_px, size_px)).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, (4, size_px, size_px), dtype, endpoint=True)


def expected_mask(cell_id: str, size_px: int) -> npt.NDArray[np.bool_]:
    """`[size, size]`: the mask of a cell, from its name."""
    return np.random.default_rng(zlib.crc32(cell_id.encode()) ^ 1).random((size_px, size_px)) > 0.5


@dataclass(frozen=True)
class SyntheticCrops:
    """A source of crops: antibody number a has the fields `a_0`, `a_1`, … of `cells_per_field` cells.

    Fields in `broken` raise when read; `read_s` makes reading slow.
    """

    antibodies: int = 6
    fields_per_antibody: int = 3
    cells_per_field: int = 4
    size_px: int = 8
    dtype: str = "uint8"
    broken: tuple[str, ...] = ()
    read_s: float = 0.0
    cell_lines: tuple[str, ...] = ("U2OS", "A-431")
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)

    def fields(self) -> list[ListedCrops]:
        names = [f"{n}_A1_{k}" for n in range(self.antibodies) for k in range(self.fields_per_antibody)]
        return [ListedCrops(name, self._metadata(name)) for name in names]

    def _metadata(self, name: str) -> dict[str, str]:
        number, position = int(name.split("_")[0]), int(name.split("_")[-1])
        return {
            "antibody": f"HPA{number:06d}",
            "gene": f"GENE{number // 2}",  # Two antibodies for each gene.
            "locations": LOCATIONS[number % len(LOCATIONS)],
            "cell_line": self.cell_lines[position % len(self.cell_lines)],
            **self.metadata.get(name, {}),
        }

    def read(self, name: str) -> FieldCrops:
        time.sleep(self.read_s)
        if name in self.broken:
            raise ValueError("the image is truncated")
        ids = [f"{name}_{label}" for label in range(1, self.cells_per_field + 1)]
        metadata = self._metadata(name)
        return FieldCrops(
            field_of_view=name,
            pixels=np.stack([expected_pixels(cell_id, self.size_px, self.dtype) for cell_id in ids]),
            cell_masks=np.stack([expected_mask(cell_id, self.size_px) for cell_id in ids]),
            channels=CHANNELS,
            pixel_size_um=0.160177,
            cells=tuple(
                {"cell_id": cell_id, "field_of_view": name, "label": label, **metadata, "qc_area_um2": 100.0 + label}
                for label, cell_id in enumerate(ids, start=1)
            ),
        )

    def fingerprint(self) -> str:
        # How long reading takes, and what fails, is no part of the inputs.
        return f"{self.antibodies} {self.fields_per_antibody} {self.cells_per_field} {self.size_px} {self.dtype}"


def write_synthetic(
    folder: Path, source: SyntheticCrops | None = None, settings: ShardSettings | None = None
) -> ShardReport:
    """Write synthetic crops as small shards, without a progress bar."""
    settings = settings or ShardSettings(fields_per_shard=6, source="made up")
    return write_shards(source or SyntheticCrops(), folder, settings, progress=False)
