"""Fields of view as models need them: which planes are read, at which scale, and how cells are found in them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from subcell_hf.cells.segmentation import CELL_BODY_CHANNELS, SEGMENTERS, segment_cells
from subcell_hf.images.fields_of_view import FieldError, FieldSource, FoundFields, ReadingOptions, list_fields
from subcell_hf.images.masks.nuclei import NUCLEUS_CHANNEL
from subcell_hf.inference.models.variants import Variant, choose_variant
from subcell_hf.inference.sources.blocks import Choices
from subcell_hf.types import FieldOfView


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
    image, (chosen,) = read_for_each(found, [variants], segmentation)
    if isinstance(chosen, FieldError):
        raise chosen
    return with_planes(image, chosen.planes), chosen


def read_all_planes(found: FieldSource, variants: Sequence[Variant], segmentation: str) -> FieldOfView:
    """Read every plane of a field, and segment it where it has no mask.

    Args:
        found: The field.
        variants: That take all channels.
        segmentation: How to segment.

    Raises:
        FieldError: If the field cannot be read.
    """
    return read_for_each(found, [variants], segmentation)[0]


def read_for_each(
    found: FieldSource, choices: Choices, segmentation: str | None = None
) -> tuple[FieldOfView, list[Variant | FieldError]]:
    """Read the planes that the largest fitting variants of several encoders need together.

    Args:
        found: The field.
        choices: For each encoder the models to choose from, the largest first.
        segmentation: How to segment a field that has no mask; None leaves it without.

    Returns:
        The field with these planes and those that segmentation needs, and for each encoder the variant, or the error
        that says why none fits.

    Raises:
        FieldError: If the field cannot be read, or no variant of any encoder fits.
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
        chosen = _choose(choices, there)
        planes = dict.fromkeys(name for item in chosen if isinstance(item, Variant) for name in item.planes)
        wanted = (*planes, *(name for name in guides if name in there and name not in planes))
        image = replace(found, options=replace(found.options, channels=wanted)).read()
    else:
        image = replace(found, options=replace(found.options, channels=None)).read()
        chosen = _choose(choices, image.channels)
    if segmentation and image.label_mask is None:
        image = replace(image, label_mask=segment_cells(image, segmentation, trusted=found.options.trust_masks))
    return image, chosen


def _choose(choices: Choices, present: Sequence[str]) -> list[Variant | FieldError]:
    """The variant of each encoder, or why none fits.

    Raises:
        FieldError: If none fits of any encoder.
    """
    chosen: list[Variant | FieldError] = []
    for variants in choices:
        try:
            chosen.append(choose_variant(variants, present))
        except FieldError as error:
            chosen.append(error)
    errors = [item for item in chosen if isinstance(item, FieldError)]
    if len(errors) == len(chosen):
        raise errors[0]
    return chosen


def with_planes(image: FieldOfView, planes: tuple[str, ...]) -> FieldOfView:
    """A field with exactly these planes, in this order.

    Args:
        image: The field.
        planes: Some of its planes.
    """
    if image.channels == planes:
        return image
    pixels = image.pixels[[image.channels.index(name) for name in planes]]
    return replace(image, pixels=pixels, channels=planes)


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
