"""Images, crops and shards → blocks of cells that a model can be given."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.cells.custom_segmentation import describe_segmentation
from subcell_hf.cells.pixel_sizes import PIXEL_SIZE, PIXEL_SIZE_FROM
from subcell_hf.cells.quality import DOUBTFUL_CHANNELS, doubtful_channels
from subcell_hf.cells.single_cells import CropSettings, crop_field
from subcell_hf.cells.sources import CroppedFields, h5sc_source
from subcell_hf.images.fields_of_view import (
    UNUSABLE,
    FieldError,
    FieldSource,
    FoundFields,
    ReadingOptions,
    reason_of,
    size_and_time,
)
from subcell_hf.images.masks.instances import mask_of_single_cell
from subcell_hf.images.masks.label_files import read_labels
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock, Choices, Skipped, share_crops
from subcell_hf.inference.sources.field_reading import at_models_scale, list_images, read_for_each, with_planes
from subcell_hf.shards.jobs import CropSource
from subcell_hf.types import FieldCrops, FieldOfView

_NO_CELL = "no cell passed the filters"


@dataclass(frozen=True)
class ImageCells:
    """Fields of view, segmented where they have no mask, and cropped as the model wants.

    Attributes:
        path: Folder of images, table or image; see `find_fields`.
        variants: Models to choose from, the largest first.
        reading: How to read the images.
        filters: Which cells to leave out.
        segmentation: How to find cells in fields that have no mask.
        blocks_per_part: Blocks in a part of the table, at most.
        blocks_per_read: Blocks that one task of a cluster reads.
    """

    path: Path
    variants: tuple[Variant, ...]
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    filters: CropSettings = field(default_factory=CropSettings)
    segmentation: str = "watershed"
    blocks_per_part: int = 64
    blocks_per_read: int = 1

    @cached_property
    def _listed(self) -> FoundFields:
        return list_images(self.path, self.reading, self.variants)

    @cached_property
    def _found(self) -> Mapping[str, FieldSource]:
        return {item.name: item for item in self._listed.fields}

    @property
    def fields(self) -> Mapping[str, FieldSource]:
        """Name of each field of view → where it lies."""
        return self._found

    def unused(self) -> Mapping[str, str]:
        """Images that belong to no input, with the reason."""
        return self._listed.unused

    def names(self) -> Sequence[str]:
        """Names of the fields of view, sorted."""
        return list(self._found)

    def read(self, name: str) -> CellBlock:
        """Read, segment and crop one field."""
        return self.read_each(name, [self.variants])[0]

    def read_each(self, name: str, choices: Choices) -> list[CellBlock]:
        """Read and segment one field once, and crop it for each of several encoders."""
        try:
            image, chosen = read_for_each(self._found[name], choices, self.segmentation)
        except UNUSABLE as error:
            return [_skip(name, reason_of(error))] * len(choices)
        cut: dict[tuple[tuple[str, ...], CropSettings], FieldCrops] = {}
        blocks = []
        for variant in chosen:
            try:
                if isinstance(variant, FieldError):
                    raise variant
                key = variant.planes, variant.crop_settings(self.filters)
                if key not in cut:
                    cut[key] = crop_field(with_planes(image, variant.planes), key[1])
                crops = cut[key]
            except UNUSABLE as error:
                blocks.append(_skip(name, reason_of(error)))
                continue
            blocks.append(CellBlock(crops, variant) if crops.cells else _skip(name, _NO_CELL))
        return blocks

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Changes with the settings and with name, size or time of any image."""
        return checksum_of(
            [_files(self._found.values()), self.reading.facts(), asdict(self.filters)]
            + [describe_segmentation(self.segmentation)]
            + [asdict(variant) for variant in variants or self.variants]
        )


@dataclass(frozen=True)
class SingleCellImages:
    """Images of one cell each, which need no segmentation.

    Attributes:
        path: Folder of images, or table, as for fields of view; or one image.
        variants: Models to choose from, the largest first.
        reading: How to read the images. Where no pixel size is known, it is the model's.
        blocks_per_part: Blocks in a part of the table, at most.
        blocks_per_read: Blocks that one task of a cluster reads.
    """

    path: Path
    variants: tuple[Variant, ...]
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    blocks_per_part: int = 1024
    blocks_per_read: int = 64

    @cached_property
    def _listed(self) -> FoundFields:
        return list_images(self.path, self.reading, self.variants)

    @cached_property
    def _found(self) -> Mapping[str, FieldSource]:
        return {item.name: item for item in self._listed.fields}

    def unused(self) -> Mapping[str, str]:
        """Images that belong to no input, with the reason."""
        return self._listed.unused

    def names(self) -> Sequence[str]:
        """Names of the cells, sorted."""
        return list(self._found)

    def read(self, name: str) -> CellBlock:
        """Read one cell."""
        return self.read_each(name, [self.variants])[0]

    def read_each(self, name: str, choices: Choices) -> list[CellBlock]:
        """Read one cell for each of several encoders."""
        found = self._found[name]
        unmasked = replace(found, listed=replace(found.listed, mask_file=None))
        try:
            image, chosen = read_for_each(at_models_scale(unmasked, self.variants[0]), choices)
            mask = _single_mask(found, image)
        except UNUSABLE as error:
            return [_skip(name, reason_of(error))] * len(choices)
        return [
            _skip(name, str(variant)) if isinstance(variant, FieldError) else self._block(found, image, variant, mask)
            for variant in chosen
        ]

    def _block(
        self, found: FieldSource, whole: FieldOfView, variant: Variant, mask: npt.NDArray[np.bool_] | None
    ) -> CellBlock:
        """The cell with the planes of one model."""
        name, image = found.name, with_planes(whole, variant.planes)
        own = {"cell_id", "field_of_view", PIXEL_SIZE, PIXEL_SIZE_FROM, DOUBTFUL_CHANNELS}
        metadata = {key: value for key, value in found.metadata.items() if key not in own}
        record = {
            "cell_id": name,
            "field_of_view": found.metadata.get("field_of_view", name),
            **metadata,
            PIXEL_SIZE: image.pixel_size_um,
            PIXEL_SIZE_FROM: image.pixel_size_from,
            DOUBTFUL_CHANNELS: doubtful_channels(image.pixels, image.channels),
        }
        masks = np.ones((1, *image.pixels.shape[1:]), np.bool_) if mask is None else mask[None]
        crops = FieldCrops(name, image.pixels[None], masks, image.channels, image.pixel_size_um, (record,))
        return CellBlock(crops, variant, has_masks=mask is not None)

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Changes with the settings and with name, size or time of any image."""
        facts = [_files(self._found.values()), self.reading.facts()]
        return checksum_of(facts + [asdict(variant) for variant in variants or self.variants])


@dataclass(frozen=True)
class CropFolderCells:
    """What `subcell crops` has written.

    Attributes:
        folder: The folder of crops.
        variants: Models to choose from, the largest first.
        blocks_per_part: Blocks in a part of the table, at most.
        blocks_per_read: Blocks that one task of a cluster reads.
    """

    folder: Path
    variants: tuple[Variant, ...]
    blocks_per_part: int = 64
    blocks_per_read: int = 1

    @cached_property
    def _crops(self) -> CropSource:
        return CroppedFields(self.folder)

    def names(self) -> Sequence[str]:
        """Names of the fields of view that have cells, sorted."""
        return sorted(item.name for item in self._crops.fields())

    def read(self, name: str) -> CellBlock:
        """Read the crops of one field."""
        return self.read_each(name, [self.variants])[0]

    def read_each(self, name: str, choices: Choices) -> list[CellBlock]:
        """Read the crops of one field for each of several encoders."""
        try:
            return share_crops(self._crops.read(name), choices)
        except (ValueError, OSError) as error:
            return [_skip(name, str(error))] * len(choices)

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Checksum of the table of crops and of the models."""
        return checksum_of([self._crops.fingerprint(), *(asdict(variant) for variant in variants or self.variants)])


@dataclass(frozen=True)
class H5scCells(CropFolderCells):
    """Single cells that scPortrait has exported; `folder` is the file.

    Attributes:
        reading: Pixel size and channel mapping.
    """

    reading: ReadingOptions = field(default_factory=ReadingOptions)

    @cached_property
    def _crops(self) -> CropSource:
        return h5sc_source(self.folder, self.reading)


@dataclass(frozen=True)
class ArrayCells:
    """Crops in memory.

    Attributes:
        crops: Cells that go together, of one size.
        variants: Models to choose from, the largest first.
        has_masks: Whether the crops' masks say where the cells lie.
        blocks_per_part: Blocks in a part of the table, at most.
        blocks_per_read: Blocks that one task of a cluster reads.
    """

    crops: tuple[FieldCrops, ...]
    variants: tuple[Variant, ...]
    has_masks: bool = False
    blocks_per_part: int = 64
    blocks_per_read: int = 1

    def names(self) -> Sequence[str]:
        """Names of the blocks, in order."""
        return [crops.field_of_view for crops in self.crops]

    def read(self, name: str) -> CellBlock:
        """One block, as it was given."""
        return self.read_each(name, [self.variants])[0]

    def read_each(self, name: str, choices: Choices) -> list[CellBlock]:
        """One block for each of several encoders."""
        return share_crops(self.crops[self.names().index(name)], choices, has_masks=self.has_masks)

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Checksum of the pixels, and of the models."""
        content = [hashlib.sha256(np.ascontiguousarray(crops.pixels).tobytes()).hexdigest() for crops in self.crops]
        return checksum_of([content, *(asdict(variant) for variant in variants or self.variants)])


def _skip(name: str, reason: str) -> CellBlock:
    """A block of an input that cannot be used."""
    return CellBlock(None, None, skipped=(Skipped(name, reason),))


def _single_mask(found: FieldSource, image: FieldOfView) -> npt.NDArray[np.bool_] | None:
    """The mask of an image of one cell; None where it has no mask."""
    if found.listed.mask_file is None:
        return None
    try:
        labels = read_labels(found.listed.mask_file, image.pixels.shape[1:], found.options.max_decoded_bytes)
        where = f"label mask {found.listed.mask_file}"
        return mask_of_single_cell(replace(image, label_mask=labels), where, trusted=found.options.trust_masks)
    except FieldError as error:
        raise FieldError(f"Field {found.name!r}: {error}") from error


def _files(found: Any) -> list[Any]:
    """Name, size and time of every image, and what is known of its field."""
    return [
        [item.name, dict(item.metadata)] + [[str(path), *size_and_time(path)] for path in item.files] for item in found
    ]


def checksum_of(facts: Any) -> str:
    """Checksum of facts as JSON has them; what JSON does not have counts by its text.

    Args:
        facts: Nested lists and mappings.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
