"""Tables of the Human Protein Atlas's immunofluorescence images, and of the DREAM challenge that CM4AI made of them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.file_names import image_stem, is_named_by_hpa, split_stem
from subcell_hf.images.folder_contents import list_images
from subcell_hf.images.image_tables.path_mapping import PathMapping
from subcell_hf.images.layouts.gathered_planes import fields_of_planes
from subcell_hf.images.listed_fields import FilePlace, ListedField, Listing
from subcell_hf.images.plane_listing import ListedPlane, PlaneListing
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well
from subcell_hf.ontology import CHANNEL_STAINS, PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.storage.foreign_tables import ForeignTable

ATLAS_TABLE = "table of Human Protein Atlas images"
DREAM_MANIFEST = "manifest of the CM4AI DREAM challenge"

_COLOURS = {name: name for name in CHANNEL_STAINS}
_PLACE = ("filename", "if_plate_id", "position", "sample")
_ANTIBODIES = {"antibody", "ensembl_ids", "gene_names"}
_SLICE = "z"
_IMAGE = "_image"
_PREDICTION = "prediction_id"
_MOST_NAMED = 3


def is_atlas_table(columns: Iterable[str]) -> bool:
    """Whether a table lists images, or antibodies, as cellmaps_imagedownloader has them."""
    return {*columns} >= {*_PLACE} or {*columns} >= _ANTIBODIES


def is_dream_manifest(columns: Iterable[str]) -> bool:
    """Whether a table is the challenge's `manifest.tsv`."""
    columns = list(columns)
    return _PREDICTION in columns and any(name.endswith(_IMAGE) for name in columns)


def list_atlas_table(path: Path, table: ForeignTable, options: ReadingOptions) -> Listing:
    """List a table whose `filename` is the beginning of the names of a field's images, such as `/archive/7/7_C5_1_`.

    The images are searched below the table, whatever folders they are in.

    Args:
        path: Of the table.
        table: Its content.
        options: Channels and their names.

    Raises:
        FieldError: If it lists antibodies alone, or none of its images is there.
    """
    if "filename" not in table.columns:
        raise FieldError(
            f"{path} lists antibodies, not images: it has the columns {', '.join(table.columns)}, expected "
            f"{', '.join(_PLACE)} among them. Give the table of images (samples.csv)."
        )
    texts = {name: table.text(name) for name in table.columns}
    rows = [dict(zip(texts, values, strict=True)) for values in zip(*texts.values(), strict=True)]
    images: dict[str, list[tuple[str, FilePlace]]] = {}
    for image in list_images(path.parent).images:
        name, channel = split_stem(image_stem(image), _COLOURS)
        if channel in _COLOURS:
            images.setdefault(name, []).append((channel, image))
    planes: list[ListedPlane] = []
    problems: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name = PurePosixPath(row["filename"].rstrip("_")).name
        found = images.get(f"{name}_{row[_SLICE].strip('_')}" if row.get(_SLICE) else name) or images.get(name)
        if not name or name in problems:
            problems[name or f"row {number}"] = (
                f"Row {number} of {path} has the filename {row['filename']!r}, a second time."
            )
        elif not found:
            problems[name] = (
                f"Field {name!r}: row {number} of {path} lists it as {row['filename']}, but none of its images, such "
                f"as {name}_blue.jpg, lies below {path.parent}. Copy or download them there."
            )
        else:
            planes += [_atlas_plane(channel, image, name, row) for channel, image in found]
    if not planes:
        named = ", ".join(f"{name}_blue.jpg" for name in list(problems)[:_MOST_NAMED])
        raise FieldError(
            f"{path} lists {len(rows)} fields of view, and no image of them lies below {path.parent}: expected "
            f"{named}, …, in any folder. Copy or download the images, then give the table again."
        )
    listing = fields_of_planes([PlaneListing(planes, problems=problems)], path.parent, options)
    return replace(listing, fields=tuple(map(_with_atlas_pixel_size, listing.fields)))


def _atlas_plane(channel: str, image: FilePlace, name: str, row: dict[str, str]) -> ListedPlane:
    known = {key: value for key, value in row.items() if key not in _PLACE and key != "linkprefix"}
    # Our tables, and those of the Atlas's own downloads, join locations by semicolons.
    known |= {"sample": row["sample"], "locations": row.get("locations", "").replace(",", ";")}
    if "gene_names" in row:
        known["gene"] = known.pop("gene_names")
    well = standard_well(row["position"])
    return ListedPlane(image, channel, row["if_plate_id"], well, field_name=name, metadata=known)


def _with_atlas_pixel_size(item: ListedField) -> ListedField:
    """Files named as the Atlas names its own have its pixel size."""
    if not item.files or not all(is_named_by_hpa(path) for path in item.channel_files.values()):
        return item
    return replace(item, default_pixel_size_um=PUBLISHED_PIXEL_SIZE_UM, default_pixel_size_from="HPA name")


def list_dream_manifest(path: Path, table: ForeignTable, options: ReadingOptions) -> Listing:
    """List the challenge's `manifest.tsv`: one row per cell, a channel for every column `<channel>_image`.

    Args:
        path: Of the table.
        table: Its content.
        options: Channels and their names.
    """
    texts = {name: table.text(name, verbatim=True) for name in table.columns}
    channels = [name.removesuffix(_IMAGE) for name in texts if name.endswith(_IMAGE)]
    places = PathMapping(path, options.path_mapping)
    planes: list[ListedPlane] = []
    problems: dict[str, str] = {}
    for number, values in enumerate(zip(*texts.values(), strict=True), 1):
        row = dict(zip(texts, values, strict=True))
        known = {key: value for key, value in row.items() if not key.endswith(_IMAGE)}
        name = row[_PREDICTION]
        given = [channel for channel in channels if row[channel + _IMAGE].strip()]
        if not name or not given:
            problems[name or f"row {number}"] = f"Row {number} of {path} has no {_PREDICTION if not name else 'image'}."
        planes += [
            ListedPlane(places.locate(row[channel + _IMAGE]), channel, field_name=name, metadata=known)
            for channel in given
            if name
        ]
    remedy = f"Copy them to where {path.name} expects them, or give their folder (--path-mapping OLD=NEW)."
    return fields_of_planes([PlaneListing(planes, problems=problems, remedy=remedy)], None, options)
