"""Images, crops and shards → blocks of cells that a model can be given."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.cells.custom_segmentation import describe_segmentation
from subcell_hf.cells.pixel_sizes import PIXEL_SIZE, PIXEL_SIZE_FROM
from subcell_hf.cells.quality import DOUBTFUL_CHANNELS, doubtful_channels
from subcell_hf.cells.segmentation import CELL_BODY_CHANNELS, SEGMENTERS, segment_cells
from subcell_hf.cells.single_cells import CropSettings, crop_field
from subcell_hf.cells.sources import CroppedFields
from subcell_hf.images.fields_of_view import (
    UNUSABLE,
    FieldError,
    FieldSource,
    FoundFields,
    ReadingOptions,
    list_fields,
    reason_of,
    size_and_time,
)
from subcell_hf.images.masks.instances import mask_of_single_cell
from subcell_hf.images.masks.label_files import read_labels
from subcell_hf.images.masks.nuclei import NUCLEUS_CHANNEL
from subcell_hf.inference.models.variants import Variant, choose_variant
from subcell_hf.inference.sources.blocks import CellBlock, Skipped
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

    def unused(self) -> Mapping[str, str]:
        """Images that belong to no input, with the reason."""
        return self._listed.unused

    def names(self) -> Sequence[str]:
        """Names of the fields of view, sorted."""
        return list(self._found)

    def read(self, name: str) -> CellBlock:
        """Read, segment and crop one field."""
        try:
            image, variant = read_planes(self._found[name], self.variants, self.segmentation)
            crops = crop_field(image, variant.crop_settings(self.filters))
        except UNUSABLE as error:
            return CellBlock(None, None, skipped=(Skipped(name, reason_of(error)),))
        if not crops.cells:
            return CellBlock(None, None, skipped=(Skipped(name, _NO_CELL),))
        return CellBlock(crops, variant)

    def fingerprint(self) -> str:
        """Changes with the settings and with name, size or time of any image."""
        return _checksum(
            [_files(self._found.values()), self.reading.facts(), asdict(self.filters)]
            + [describe_segmentation(self.segmentation)]
            + [asdict(variant) for variant in self.variants]
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
        found = self._found[name]
        unmasked = replace(found, listed=replace(found.listed, mask_file=None))
        try:
            image, variant = read_planes(at_models_scale(unmasked, self.variants[0]), self.variants)
            mask = _single_mask(found, image)
        except UNUSABLE as error:
            return CellBlock(None, None, skipped=(Skipped(name, reason_of(error)),))
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

    def fingerprint(self) -> str:
        """Changes with the settings and with name, size or time of any image."""
        facts = [_files(self._found.values()), self.reading.facts()]
        return _checksum(facts + [asdict(variant) for variant in self.variants])


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
    def _crops(self) -> CroppedFields:
        return CroppedFields(self.folder)

    def names(self) -> Sequence[str]:
        """Names of the fields of view that have cells, sorted."""
        return sorted(item.name for item in self._crops.fields())

    def read(self, name: str) -> CellBlock:
        """Read the crops of one field."""
        try:
            crops = self._crops.read(name)
            return CellBlock(crops, choose_variant(self.variants, crops.channels))
        except (ValueError, OSError) as error:
            return CellBlock(None, None, skipped=(Skipped(name, str(error)),))

    def fingerprint(self) -> str:
        """Checksum of the table of crops and of the models."""
        return _checksum([self._crops.fingerprint(), *(asdict(variant) for variant in self.variants)])


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
        crops = self.crops[self.names().index(name)]
        try:
            return CellBlock(crops, choose_variant(self.variants, crops.channels), self.has_masks)
        except FieldError as error:
            return CellBlock(None, None, skipped=(Skipped(name, str(error)),))

    def fingerprint(self) -> str:
        """Checksum of the pixels, and of the models."""
        content = [hashlib.sha256(np.ascontiguousarray(crops.pixels).tobytes()).hexdigest() for crops in self.crops]
        return _checksum([content, *(asdict(variant) for variant in self.variants)])


def read_planes(
    found: FieldSource, variants: Sequence[Variant], segmentation: str | None = None
) -> tuple[FieldOfView, Variant]:
    """Read the planes that the largest fitting variant needs.

    Args:
        found: The field.
        variants: Models to choose from, the largest first.
        segmentation: How to segment a field that has no mask; None leaves it without.

    Returns:
        The field with exactly the planes of the variant, and the variant.

    Raises:
        FieldError: If the field cannot be read, or no variant fits.
    """
    listed = found.listed
    if listed.problem:
        raise FieldError(listed.problem)
    # Cell bodies are found by channels that the model itself may not take.
    guides: Iterable[str] = (*CELL_BODY_CHANNELS, NUCLEUS_CHANNEL)
    there = found.known_channels()
    if segmentation is None or listed.mask_file is not None:
        guides = ()
    elif segmentation not in SEGMENTERS:
        guides = there  # nobody else knows which a custom function needs
    if listed.stack_file is None or there:
        variant = choose_variant(variants, there)
        wanted = (*variant.planes, *(name for name in guides if name in there and name not in variant.planes))
        image = replace(found, options=replace(found.options, channels=wanted)).read()
    else:
        image = replace(found, options=replace(found.options, channels=None)).read()
        variant = choose_variant(variants, image.channels)
    if segmentation and image.label_mask is None:
        image = replace(image, label_mask=segment_cells(image, segmentation, trusted=found.options.trust_masks))
    if image.channels == variant.planes:
        return image, variant
    pixels = image.pixels[[image.channels.index(name) for name in variant.planes]]
    return replace(image, pixels=pixels, channels=variant.planes), variant


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


def at_models_scale(found: FieldSource, variant: Variant) -> FieldSource:
    """The field, with the model's pixel size where none is known."""
    if found.listed.default_pixel_size_um is not None:
        return found
    listed = replace(found.listed, default_pixel_size_um=variant.pixel_size_um, default_pixel_size_from="model")
    return replace(found, listed=listed)


def list_images(path: Path, reading: ReadingOptions, variants: Sequence[Variant]) -> FoundFields:
    """List fields of view for models of which each field's channels choose one.

    Args:
        path: See `find_fields`.
        reading: How to read; names of all the models' planes are known beside its own.
        variants: The models; a field must have the planes that all of them demand.
    """
    # A model with separate channel tokens demands no channels but those of --protein-channel.
    demanded = [variant.proteins if variant.takes_any_channels else variant.planes for variant in variants]
    shared = [name for name in demanded[0] if all(name in names for names in demanded)]
    known = {name: name for variant in variants for name in variant.planes}
    options = replace(reading, channels=tuple(shared) or None, channel_mapping={**known, **reading.channel_mapping})
    return list_fields(path, options)


def _files(found: Any) -> list[Any]:
    """Name, size and time of every image, and what is known of its field."""
    return [
        [item.name, dict(item.metadata)] + [[str(path), *size_and_time(path)] for path in item.files] for item in found
    ]


def _checksum(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
