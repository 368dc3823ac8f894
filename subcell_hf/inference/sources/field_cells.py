"""A field of view in memory → blocks of its cells, cut one block after the other."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from subcell_hf.cells.single_cells import Cell, CropSettings, cut_cells, select_cells
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock
from subcell_hf.inference.sources.cell_sources import checksum_of
from subcell_hf.types import FieldOfView

_CELLS_PER_BLOCK = 32


@dataclass(frozen=True)
class FieldCells:
    """The cells of one field of view with a label mask.

    A stitched field may hold thousands of cells, whose crops together need more memory than there is: they are cut by
    the block.

    Attributes:
        image: The field, with its mask and exactly the planes of the model.
        variant: The model.
        filters: Which cells to leave out.
        blocks_per_part: Blocks in a part of the table, at most.
        blocks_per_read: Blocks that one task of a cluster reads.
    """

    image: FieldOfView
    variant: Variant
    filters: CropSettings = field(default_factory=CropSettings)
    blocks_per_part: int = 2
    blocks_per_read: int = 1

    @cached_property
    def cells(self) -> list[Cell]:
        """The cells that pass the filters, in order of labels.

        Raises:
            FieldError: If the field has no mask, or the mask is empty.
        """
        return select_cells(self.image, self.filters)[0]

    def names(self) -> Sequence[str]:
        """Names of the blocks, in order."""
        return [f"{self.image.name}, cells from {start}" for start in range(0, len(self.cells), _CELLS_PER_BLOCK)]

    def read(self, name: str) -> CellBlock:
        """Cut the cells of one block."""
        start = self.names().index(name) * _CELLS_PER_BLOCK
        cells = self.cells[start : start + _CELLS_PER_BLOCK]
        return CellBlock(cut_cells(self.image, cells, self.variant.crop_settings(self.filters)), self.variant)

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Checksum of pixels, labels and settings, and of the models."""
        image = self.image
        arrays = [image.pixels, *([] if image.label_mask is None else [image.label_mask])]
        content = [hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() for values in arrays]
        facts = [image.name, image.channels, image.pixel_size_um, dict(image.metadata), asdict(self.filters)]
        return checksum_of([content, facts, *(asdict(variant) for variant in variants or (self.variant,))])
