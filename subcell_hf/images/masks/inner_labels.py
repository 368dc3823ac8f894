"""Label images that lie inside of OME-Zarr images."""

import json
from dataclasses import replace
from pathlib import Path

from subcell_hf.images.file_names import MASK_NAME
from subcell_hf.images.listed_fields import Listing

_LABELS_FOLDER = "labels"
_LABEL_FACTS = (".zattrs", "zarr.json")
_NUCLEUS = "nucle"


def with_inner_labels(listing: Listing) -> Listing:
    """Take the label image inside of an OME-Zarr as its mask, where there is exactly one and no mask beside it."""
    fields, unused = [], dict(listing.unused)
    for item in listing.fields:
        image = item.stack_file
        names = _inner_labels(image) if image is not None and item.problem is None else []
        if image is not None and names:
            whole_cells = len(names) == 1 and _NUCLEUS not in names[0].lower()
            if item.mask_file is None and whole_cells:
                item = replace(item, mask_file=image / _LABELS_FOLDER / names[0])
            else:
                why = (
                    "the mask beside the image is used" if item.mask_file is not None else "none is the cells' for sure"
                )
                unused[str(image / _LABELS_FOLDER)] = (
                    f"label images {', '.join(names)}: {why}; to use one, link it beside the image as "
                    f"{item.plain_name}_{MASK_NAME}.zarr"
                )
        fields.append(item)
    return replace(listing, fields=tuple(fields), unused=unused)


def _inner_labels(image: Path) -> list[str]:
    """Names of the label images that an OME-Zarr lists."""
    for name in _LABEL_FACTS:
        try:
            facts = json.loads((image / _LABELS_FOLDER / name).read_text(encoding="utf-8"))
            facts = facts.get("attributes", facts)
            return [str(label) for label in facts.get("ome", facts).get("labels", ())]
        except (OSError, ValueError, AttributeError, TypeError):  # no labels, or none that can be listed
            continue
    return []
