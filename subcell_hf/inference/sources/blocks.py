"""What sources of cells hand out, and the pictures drawn of it while the pixels are at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from subcell_hf.inference.models.variants import Variant, choose_variant
from subcell_hf.tables.cell_pictures import CellPicture, PictureBudget, draw_picture
from subcell_hf.types import FieldCrops

MODEL_CHANNELS = "model_channels"
"""Column of the channels, joined by `;`, that a model with separate channel tokens was given of a cell."""


class Skipped(NamedTuple):
    """An input that is not in the table.

    Attributes:
        name: A field of view, a row or a cell.
        reason: Why.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class CellBlock:
    """Cells that were read together: those of a field of view, or a few of a shard.

    Attributes:
        crops: The cells; none where all were skipped.
        variant: Which model they go to.
        has_masks: Whether `crops.cell_masks` say where the cells lie.
        skipped: What could not be used.
        pictures: Of some of the cells, without attention: position in the block → picture.
    """

    crops: FieldCrops | None
    variant: Variant | None
    has_masks: bool = True
    skipped: tuple[Skipped, ...] = ()
    pictures: Mapping[int, CellPicture] = field(default_factory=dict)

    def __len__(self) -> int:
        return 0 if self.crops is None else len(self.crops.cells)


class CellSource(Protocol):
    """Where cells come from. It is sent to other processes, so it must pickle."""

    @property
    def blocks_per_part(self) -> int:
        """Blocks in a part of the table, at most: about a thousand cells."""

    @property
    def blocks_per_read(self) -> int:
        """Blocks that one task of a cluster reads, and of a part at least: some tens of cells."""

    def names(self) -> Sequence[str]:
        """Names of all blocks in the order of the table, without reading pixels."""

    def read(self, name: str) -> CellBlock:
        """Read one block; invalid inputs are listed in `skipped` and raise no error."""

    def fingerprint(self, variants: "Sequence[Variant] | None" = None) -> str:
        """A text that changes when the inputs change, or the way they are cropped; for other models, if given."""


Choices = Sequence[Sequence[Variant]]
"""For each of several encoders the models to choose from, the largest first."""


class SharedSource(CellSource, Protocol):
    """A source that several encoders share."""

    def read_each(self, name: str, choices: Choices) -> "list[CellBlock]":
        """Read one block once, and cut its cells for each of several encoders."""


@dataclass(frozen=True)
class SharedReading:
    """Reads blocks once for several encoders, in this or another process.

    Attributes:
        source: Where the cells come from.
        choices: Name of an encoder → its models.
    """

    source: SharedSource
    choices: Mapping[str, tuple[Variant, ...]]

    def read(self, task: tuple[str, tuple[str, ...]]) -> dict[str, CellBlock]:
        """Read a block.

        Args:
            task: Name of the block, and the encoders that want it.
        """
        name, encoders = task
        return dict(zip(encoders, self.source.read_each(name, [self.choices[each] for each in encoders]), strict=True))


def share_crops(crops: FieldCrops, choices: Choices, *, has_masks: bool = True) -> "list[CellBlock]":
    """Blocks with the same crops for each of several encoders.

    Args:
        crops: The cells; encoders choose among their planes.
        choices: Models of each encoder.
        has_masks: Whether the crops' masks say where the cells lie.

    Returns:
        One block for each of `choices`; where no model fits, it says why the field was skipped.
    """
    blocks = []
    for variants in choices:
        try:
            blocks.append(CellBlock(crops, choose_variant(variants, crops.channels), has_masks))
        except ValueError as error:
            blocks.append(CellBlock(None, None, skipped=(Skipped(crops.field_of_view, str(error)),)))
    return blocks


def read_block(source: CellSource, name: str, budget: PictureBudget) -> CellBlock:
    """Read one block and draw its share of the pictures.

    The cells' records say which channels a model with separate channel tokens was given.
    """
    return with_pictures(source.read(name), name, budget)


def with_pictures(block: CellBlock, name: str, budget: PictureBudget) -> CellBlock:
    """A block with its share of the pictures; see `read_block`.

    Args:
        block: What was read.
        name: Name of the block.
        budget: Which cells get a picture.
    """
    crops, variant = block.crops, block.variant
    if crops is None or variant is None or not len(block):
        return block
    if variant.takes_any_channels:
        used = {MODEL_CHANNELS: ";".join(variant.planes)}
        crops = replace(crops, cells=tuple({**record, **used} for record in crops.cells))
        block = replace(block, crops=crops)
    chosen = budget.choose(name, [str(record["cell_id"]) for record in crops.cells])
    return replace(block, pictures=_draw(crops, variant, block.has_masks, chosen)) if chosen else block


def _draw(crops: FieldCrops, variant: Variant, has_masks: bool, chosen: Sequence[int]) -> dict[int, CellPicture]:
    """Pictures of exactly the window that the model sees, so that its attention map fits onto them."""
    planes = [name for name in crops.channels if name in variant.planes]
    processor: Any = variant.processor(
        channels=planes, channel_mapping=None, do_normalize=False, do_mask=False, do_pad=True
    )
    pictures = {}
    for position in chosen:
        try:
            features: Mapping[str, Any] = processor(
                crops.pixels[position][None],
                cell_masks=crops.cell_masks[position][None] if has_masks else None,
                channels=list(crops.channels),
                pixel_size_um=crops.pixel_size_um,
                return_cell_masks=has_masks,
            )
        except ValueError:  # the model's processor refuses the same cell, and that is reported
            continue
        pixels = features["pixel_values"][0].numpy().astype(np.float32)
        mask = features["cell_masks"][0].numpy() if has_masks else None
        pictures[position] = draw_picture(
            str(crops.cells[position]["cell_id"]), dict(zip(planes, pixels, strict=True)), mask, None
        )
    return pictures
