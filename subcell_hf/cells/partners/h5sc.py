"""scPortrait's `.h5sc` files: AnnData with the image of every cell in `obsm["single_cell_images"]`.

`[cells, channels, height, width]` float16 from 0 to 1, masks among the channels; `uns["single_cell_images"]` names the
channels and says which are masks. scPortrait's files have no pixel size; those that `subcell table` writes have it in
`obs`, beside the cells' own ids.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.cells.pixel_sizes import PIXEL_SIZE
from subcell_hf.errors import InputError
from subcell_hf.images.metadata_columns import keep_apart
from subcell_hf.shards.jobs import ListedCrops
from subcell_hf.storage.records import sha256_of
from subcell_hf.types import FieldCrops

H5SC_SUFFIX = ".h5sc"

_IMAGES = "single_cell_images"
_IDS = ("cell_id", "scportrait_cell_id")
_FIELD = "field_of_view"
_ANTIBODY = "antibody"
_CELLS_AT_ONCE = 64
_REMEDY = "Export the cells with scPortrait again, or copy the file again."


@dataclass(frozen=True)
class H5scCrops:
    """The cells of a file, some at a time: a source of crops that can be sent to other processes.

    Attributes:
        path: The file.
        pixel_size_um: Edge of a pixel in micrometres.
        channel_mapping: Name of a channel in the file → colour; others keep their names.
    """

    path: Path
    pixel_size_um: float
    channel_mapping: Mapping[str, str] = field(default_factory=dict)

    def fields(self) -> Sequence[ListedCrops]:
        """Blocks of cells of one antibody each, without reading pixels."""
        return [ListedCrops(self._name(start), dict(self._cells[start])) for start in self._blocks]

    def read(self, name: str) -> FieldCrops:
        """The cells of a block: pixels float32 `[cells, channels, height, width]`, as they are stored.

        Raises:
            InputError: If the file is damaged.
        """
        rows = self._blocks[int(name.rpartition("_")[2])]
        images, mask, names = self._planes
        with self._opened() as file:
            pixels = np.asarray(file[f"obsm/{_IMAGES}"][rows], np.float32)
        cells = tuple(self._cells[row] for row in rows)
        return FieldCrops(name, pixels[:, images], pixels[:, mask] > 0, names, self.pixel_size_um, cells)

    def stated_pixel_size_um(self) -> float | None:
        """The pixel size that a column of `obs` says of all cells; None where none does.

        Raises:
            InputError: If the file is damaged.
        """
        with self._opened() as file:
            column = file["obs"].get(PIXEL_SIZE)
            sizes = {float(size) for size in (() if column is None else column[:])}
        return sizes.pop() if len(sizes) == 1 else None

    def fingerprint(self) -> str:
        """Checksum of the file and of how it is understood."""
        facts = f"{sha256_of(self.path)} {self.pixel_size_um} {sorted(self.channel_mapping.items())}"
        return hashlib.sha256(facts.encode()).hexdigest()

    @cached_property
    def _blocks(self) -> dict[int, list[int]]:
        """First row of each block → its rows, which are of one antibody where the file says which."""
        blocks: dict[int, list[int]] = {}
        last: dict[str, list[int]] = {}
        for row, cell in enumerate(self._cells):
            antibody = cell.get(_ANTIBODY, "")
            if len(last.get(antibody, ())) % _CELLS_AT_ONCE == 0:
                last[antibody] = blocks[row] = []
            last[antibody].append(row)
        return blocks

    def _name(self, start: int) -> str:
        return f"{self.path.stem}_{start:0{len(str(len(self._cells)))}d}"

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        import h5py

        try:
            with h5py.File(self.path, "r", locking=False) as file:
                yield file
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.path} cannot be read as scPortrait's single cells: {reason}. {_REMEDY}") from error

    @cached_property
    def _planes(self) -> tuple[list[int], int, tuple[str, ...]]:
        """Positions of the images and of the cell's mask, and the names of the images."""
        with self._opened() as file:
            about, shape = file[f"uns/{_IMAGES}"], file[f"obsm/{_IMAGES}"].shape
            names, kinds = (_texts(about[key][:]) for key in ("channel_names", "channel_mapping"))
        if len(shape) != 4 or not len(names) == len(kinds) == shape[1]:
            raise InputError(
                f"{self.path} has images of shape {shape} and {len(names)} names of channels, expected [cells, "
                f"channels, height, width] with a name for each channel. {_REMEDY}"
            )
        masks = [place for place, kind in enumerate(kinds) if kind == "mask"]
        images = [place for place, kind in enumerate(kinds) if kind != "mask"]
        of_cells = [place for place in masks if re.search(r"cyto|cell", names[place], re.IGNORECASE)] or masks
        if len(of_cells) != 1 or not images:
            raise InputError(
                f"{self.path} has the masks {', '.join(names[place] for place in masks) or 'none'}, expected one of "
                "cells: the only mask, or the only one whose name contains 'cyto' or 'cell'. Export it with that mask."
            )
        colours = tuple(self.channel_mapping.get(names[place], names[place]) for place in images)
        if len(set(colours)) < len(colours):
            raise InputError(f"{self.path} has the channels {', '.join(colours)}; expected every name once.")
        return images, of_cells[0], colours

    @cached_property
    def _cells(self) -> list[dict[str, Any]]:
        """A record of each cell: its id and the columns of `obs` as texts."""
        import anndata

        with self._opened() as file:
            table = anndata.io.read_elem(file["obs"])
        texts = {str(name): table[name].astype(str) for name in table.columns if name != PIXEL_SIZE}
        named = next((name for name in _IDS if name in texts and not texts[name].duplicated().any()), None)
        ids = table.index.astype(str) if named is None else texts[named]
        fields = texts.get(_FIELD, [self.path.stem] * len(table))
        others = {name: values for name, values in texts.items() if name not in (named, _FIELD)}
        kept = keep_apart(others)
        return [
            {"cell_id": cell, _FIELD: field, **dict(zip(kept, values, strict=True))}
            for cell, field, *values in zip(ids, fields, *kept.values(), strict=True)
        ]


def _texts(values: npt.NDArray[Any]) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
