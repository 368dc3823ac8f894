"""Label images that lie inside of OME-Zarr images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.remote_paths import RemotePath
from subcell_hf.images.decoders.zarr_stores import REMOTE_READS, read_facts
from subcell_hf.images.file_names import MASK_NAME
from subcell_hf.images.listed_fields import ListedField, Listing

_LABELS_FOLDER = "labels"
_NUCLEUS = "nucle"


def with_inner_labels(listing: Listing, chosen: str | None) -> Listing:
    """Take a label image inside of every OME-Zarr image as its mask.

    Args:
        listing: What was found.
        chosen: Name of the label image; it comes before a mask beside the image, and an image without it cannot be
            used. None: the only one, where it is not named after nuclei and no mask lies beside the image.

    Raises:
        FieldError: If one was chosen, and no image of the input has any.
    """
    images = [item.stack_file for item in listing.fields if item.stack_file is not None and item.problem is None]
    inside = dict(zip(images, _names(images), strict=True))
    if chosen is not None and not any(chosen in names for names in inside.values()):
        found = dict.fromkeys(name for names in inside.values() for name in names)
        raise FieldError(
            f"No image has the labels {chosen!r} (--labels): found {', '.join(found) or 'none'}. They are looked for "
            "inside of OME-Zarr images."
        )
    fields, unused = [], dict(listing.unused)
    for item in listing.fields:
        names = inside.get(item.stack_file, ()) if item.stack_file is not None else ()
        if chosen is not None:
            item = _with_chosen(item, names, chosen)
        elif item.stack_file is not None and names:
            labels = item.stack_file / _LABELS_FOLDER
            if item.mask_file is None and len(names) == 1 and _NUCLEUS not in names[0].lower():
                item = replace(item, mask_file=labels / names[0])
            else:
                beside = item.mask_file is not None
                why = "the mask beside the image is used" if beside else "none is the cells' for sure"
                unused[str(labels)] = (
                    f"label images {', '.join(names)}: {why}; to use one, choose it (--labels), or link it beside the "
                    f"image as {item.plain_name}_{MASK_NAME}.zarr"
                )
        fields.append(item)
    return replace(listing, fields=tuple(fields), unused=unused)


def _with_chosen(item: ListedField, names: Sequence[str], chosen: str) -> ListedField:
    if item.stack_file is not None and chosen in names:
        return replace(item, mask_file=item.stack_file / _LABELS_FOLDER / chosen)
    problem = (
        f"Field {item.name!r} has no labels {chosen!r} (--labels): found {', '.join(names) or 'none'}. Choose others, "
        "or leave the field out."
    )
    return replace(item, problem=item.problem or problem)


def _names(images: Sequence[Path]) -> list[list[str]]:
    """Names of the label images of every image."""
    if images and isinstance(images[0], RemotePath):
        with ThreadPoolExecutor(REMOTE_READS) as pool:
            return list(pool.map(_inner_labels, images))
    return [_inner_labels(image) for image in images]


def _inner_labels(image: Path) -> list[str]:
    """Names of the label images that an OME-Zarr lists."""
    try:
        return [str(label) for label in read_facts(image / _LABELS_FOLDER).get("labels", ())]
    except (OSError, ValueError, TypeError, RecursionError):  # no labels, or none that can be listed
        return []
