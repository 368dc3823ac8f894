"""Label images that lie inside of OME-Zarr images, or beside them in a SpatialData store."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.remote_paths import RemotePath
from subcell_hf.images.decoders.zarr_stores import REMOTE_READS, read_facts
from subcell_hf.images.file_names import MASK_NAME
from subcell_hf.images.listed_fields import ListedField, Listing
from subcell_hf.images.masks.spatialdata_labels import labels_in_stores

_LABELS_FOLDER = "labels"
_NUCLEUS = "nucle"
_UNFIT = "labels of a SpatialData store that have the size and the place of none of the images"


def with_inner_labels(listing: Listing, chosen: str | None) -> Listing:
    """Take a label image inside of every OME-Zarr image as its mask, or one of its SpatialData store.

    Of a store, those labels count that have the size and the place of the image.

    Args:
        listing: What was found.
        chosen: Name of the label image; it comes before a mask beside the image, and an image without it cannot be
            used. None: the only one, where it is not named after nuclei and no mask lies beside the image.

    Raises:
        FieldError: If one was chosen, and no image of the input has any.
    """
    images = [item.stack_file for item in listing.fields if item.stack_file is not None and item.problem is None]
    in_stores, unfit = labels_in_stores(images)
    alone = [image for image in images if image not in in_stores]
    inside = {**dict(zip(alone, _names(alone), strict=True)), **in_stores}
    if chosen is not None and not any(chosen in names for names in inside.values()):
        found = dict.fromkeys(name for names in inside.values() for name in names)
        raise FieldError(
            f"No image has the labels {chosen!r} (--labels): found {', '.join(found) or 'none'}. They are looked for "
            "inside of OME-Zarr images, and in SpatialData stores for images of the same size and place."
        )
    fields, unused = [], dict(listing.unused)
    if not all(in_stores.values()):
        unused |= {str(labels): _UNFIT for labels in unfit}
    for item in listing.fields:
        names = inside.get(item.stack_file, {}) if item.stack_file is not None else {}
        if chosen is not None:
            item = _with_chosen(item, names, chosen)
        elif item.stack_file is not None and names:
            first = next(iter(names.values()))
            if item.mask_file is None and len(names) == 1 and _NUCLEUS not in first.name.lower():
                item = replace(item, mask_file=first)
            else:
                beside = item.mask_file is not None
                why = "the mask beside the image is used" if beside else "none is the cells' for sure"
                how = f"or link it beside the image as {item.plain_name}_{MASK_NAME}.zarr"
                where, how = str(first.parent), f"choose it (--labels), {how}"
                if item.stack_file in in_stores:
                    where, how = f"{where} for {item.stack_file}", "give this image alone, and choose it (--labels)"
                unused[where] = f"label images {', '.join(names)}: {why}; to use one, {how}"
        fields.append(item)
    return replace(listing, fields=tuple(fields), unused=unused)


def _with_chosen(item: ListedField, names: Mapping[str, Path], chosen: str) -> ListedField:
    if chosen in names:
        return replace(item, mask_file=names[chosen])
    problem = (
        f"Field {item.name!r} has no labels {chosen!r} (--labels): found {', '.join(names) or 'none'}. Choose others, "
        "or leave the field out."
    )
    return replace(item, problem=item.problem or problem)


def _names(images: Sequence[Path]) -> list[dict[str, Path]]:
    """Name → folder of the label images of every image."""
    if images and isinstance(images[0], RemotePath):
        with ThreadPoolExecutor(REMOTE_READS) as pool:
            return list(pool.map(_inner_labels, images))
    return [_inner_labels(image) for image in images]


def _inner_labels(image: Path) -> dict[str, Path]:
    """Name → folder of the label images that an OME-Zarr lists."""
    folder = image / _LABELS_FOLDER
    try:
        return {str(label): folder / str(label) for label in read_facts(folder).get("labels", ())}
    except (OSError, ValueError, TypeError, RecursionError):  # no labels, or none that can be listed
        return {}
