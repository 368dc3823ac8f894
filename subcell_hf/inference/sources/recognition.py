"""What a path holds: images of fields, images of single cells, crops or shards."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from subcell_hf.cells.partners.h5sc import H5SC_SUFFIX
from subcell_hf.cells.published.choice import CellChoice
from subcell_hf.cells.published.crops import open_published_crops
from subcell_hf.cells.published.facts import antibodies_of_split, published_place
from subcell_hf.cells.segmentation import find_segmenter
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.cells.sources import h5sc_source
from subcell_hf.errors import InputError
from subcell_hf.images.decoders.remote_paths import RemotePath, path_of
from subcell_hf.images.field_source import channel_order
from subcell_hf.images.fields_of_view import FieldError
from subcell_hf.images.folder_contents import CROPS_FILE
from subcell_hf.images.layouts.field_tables import FIELD_TABLE
from subcell_hf.inference.encoders.encoder_variants import AnyChannels
from subcell_hf.inference.encoders.finding import Model
from subcell_hf.inference.models.variants import PUBLISHED_CROP_PX, Variant
from subcell_hf.inference.sources.blocks import SharedSource
from subcell_hf.inference.sources.cell_sources import CropFolderCells, H5scCells, ImageCells, SingleCellImages
from subcell_hf.inference.sources.field_reading import at_models_scale, list_images, read_planes
from subcell_hf.inference.sources.published_crops import PublishedCells
from subcell_hf.inference.sources.shard_cells import ShardCells
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.shards.index import CELLS_FILE, INDEX_FILE

_Model = TypeVar("_Model", bound=Model)

_ZARR = ".zarr"
_WINDOW_TOLERANCE = 1.01
"""Tolerance of pixel sizes, which are rounded in files."""


def open_source(
    path: str | Path, models: Sequence[_Model], options: SourceOptions | None = None
) -> tuple[SharedSource, tuple[_Model, ...], str]:
    """Recognise an input.

    Args:
        path: Folder of images, image, table, folder of crops, folder or URL of shards, URL of an OME-Zarr, which has a
            folder that ends in `.zarr`, or `hpa:` for the published cells.
        models: To choose from, the largest first.
        options: How to understand it.

    Returns:
        The source, the models as they treat its cells, and what the input was taken for, in words.

    Raises:
        InputError: If nothing is there, or an option has no meaning for it.
    """
    source, variants, what = _open_variants(path, tuple(model.variant for model in models), options or SourceOptions())
    own = tuple(replace(model, variant=variant) for model, variant in zip(models, variants, strict=True))
    return source, own, what


def input_channels(path: str | Path, options: SourceOptions | None = None) -> tuple[str, ...]:
    """Names of the channels of an input, by the first image or crop that can be read.

    Args:
        path: See `open_source`.
        options: How to understand it.

    Returns:
        Names in SubCell's order: microtubules, ER, nucleus, others as they come, and the protein last.

    Raises:
        InputError: If nothing can be read.
    """
    source, variants, _ = _open_variants(path, (AnyChannels("all channels", ()),), options or SourceOptions())
    reason = "it is empty"
    for name in source.names():
        try:
            if isinstance(source, ImageCells):  # without segmentation
                return _in_order(read_planes(source.fields[name], variants)[0].channels)
        except FieldError as error:
            reason = str(error)
            continue
        block = source.read(name)
        if block.crops is not None:
            return _in_order(block.crops.channels)
        reason = block.skipped[0].reason if block.skipped else reason
    raise InputError(f"The channels of {path} cannot be found out: {reason}. Name them, such as channels=red,blue.")


def open_fields(path: str | Path, options: SourceOptions | None = None) -> ImageCells:
    """Images of fields of view, however small, to be read with all their channels.

    Args:
        path: See `open_source`.
        options: How to understand it.

    Raises:
        InputError: If the path holds shards, crops or images of single cells.
    """
    options = options or SourceOptions()
    options = replace(options, single_cells=options.single_cells or False)
    source, _, what = _open_variants(path, (AnyChannels("all channels", ()),), options)
    if not isinstance(source, ImageCells):
        raise InputError(f"{path} holds {what}, expected images of fields of view. Give a run on such images.")
    return source


def _in_order(channels: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(channels, key=channel_order))


def _open_variants(
    path: str | Path, variants: tuple[Variant, ...], options: SourceOptions
) -> tuple[SharedSource, tuple[Variant, ...], str]:
    """The source, the variants as they treat its cells, and what the input was taken for; see `open_source`."""
    find_segmenter(options.segmentation)
    if (place := published_place(str(path))) is not None:
        _refuse_options(options, "published cells", {"split", "crop_px", "choice"})
        return _open_published(place, variants, options), variants, "published cells"
    if options.choice != CellChoice():
        raise InputError(f"Antibodies, cell lines and a number of cells can be chosen for hpa: only, not for {path}.")
    local = path_of(path)
    is_zarr = isinstance(local, RemotePath) and any(part.lower().endswith(_ZARR) for part in local.parts)
    if ("://" in str(path) and not is_zarr) or (not is_zarr and _holds_shards(local)):
        _refuse_options(options, "shards", {"split", "crop_px"})
        return ShardCells(str(path), variants, options.split), variants, "shards"
    if not is_zarr and (local / CROPS_FILE).is_file():
        _refuse_options(options, "crops of subcell crops", {"crop_px"})
        return CropFolderCells(local, variants), variants, "crops of subcell crops"
    if not is_zarr and local.suffix.lower() == H5SC_SUFFIX and local.is_file():
        _refuse_options(options, "single cells of scPortrait", {"reading", "crop_px"})
        h5sc_source(local, options.reading)
        return H5scCells(local, variants, reading=options.reading), variants, "single cells of scPortrait"
    if options.split is not None:
        raise InputError(f"--split {options.split} is only for shards, and {path} holds none.")
    single, why = _shows_single_cells(local, variants, options)
    if single:
        _refuse_options(options, "images of single cells", {"reading", "single_cells", "crop_px"})
        variants = variants if options.crop_px else tuple(variant.for_given_crops() for variant in variants)
        return SingleCellImages(local, variants, options.reading), variants, why
    return ImageCells(local, variants, options.reading, options.filters, options.segmentation), variants, why


def _open_published(place: str, variants: tuple[Variant, ...], options: SourceOptions) -> PublishedCells:
    cutting = {variant.crop_settings(CropSettings()) for variant in variants}
    if len(cutting) > 1:
        raise InputError("The models expect crops of different sizes. Embed the published cells with each by itself.")
    antibodies = antibodies_of_split(options.split)
    crops = open_published_crops(place, options.choice, split_antibodies=antibodies, settings=cutting.pop())
    return PublishedCells(crops, variants)


def _holds_shards(folder: Path) -> bool:
    return (folder / INDEX_FILE).is_file() or (folder / CELLS_FILE).is_file()


def _refuse_options(options: SourceOptions, what: str, allowed: set[str]) -> None:
    """An option that would be ignored is a mistake."""
    default = SourceOptions()
    for name in ("reading", "filters", "segmentation", "single_cells", "split", "crop_px", "choice"):
        given: Any = getattr(options, name)
        if name not in allowed and given != getattr(default, name):
            raise InputError(
                f"The input holds {what}: {name.replace('_', ' ')} ({given}) has no meaning for it. Leave the options "
                "out, or give the images that the crops were made of."
            )


def _shows_single_cells(path: Path, variants: Sequence[Variant], options: SourceOptions) -> tuple[bool, str]:
    """Whether images show one cell each, by the first that can be read."""
    if options.single_cells is not None:
        return options.single_cells, "images of single cells" if options.single_cells else "fields of view"
    listed = list_images(path, options.reading, variants)
    for found in listed.fields:
        if found.listed.mask_file is not None:
            break
        try:
            image, variant = read_planes(at_models_scale(found, variants[0]), variants)
        except FieldError:  # reported when its turn comes
            continue
        if image.pixel_size_from == "model" and listed.layout != FIELD_TABLE:
            return False, (
                "fields of view, of which the pixel size is unknown (--pixel-size-um; --single-cells takes each image "
                "as one cell at the model's scale)"
            )
        window_px = (variant.crop_px or PUBLISHED_CROP_PX) * variant.pixel_size_um / image.pixel_size_um
        height, width = image.pixels.shape[1:]
        if max(height, width) <= window_px * _WINDOW_TOLERANCE:
            # Tables of SubCellPortable list crops and have no column for their scale, which is the published models'.
            scale = f" at the model's {image.pixel_size_um:g} um" if image.pixel_size_from == "model" else ""
            return True, (
                f"images of single cells{scale}, since {found.name} ({height} x {width} px) is no larger than the "
                f"model's window of {window_px:.0f} px (--fields-of-view has them segmented)"
            )
        break
    return False, "fields of view"
