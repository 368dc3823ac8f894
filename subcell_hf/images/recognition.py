"""Which layout an input has: the one place where all of them are known."""

from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.file_names import legible
from subcell_hf.images.folder_contents import FolderContent, list_images
from subcell_hf.images.layouts import (
    cellvoyager,
    harmony,
    hcsai,
    imagexpress,
    incell,
    named_files,
    ome_companion,
    scanr,
)
from subcell_hf.images.layouts.channel_names import list_by_names
from subcell_hf.images.layouts.named_files import compile_pattern, list_by_pattern
from subcell_hf.images.listed_fields import Listing
from subcell_hf.images.plane_listing import Layout, fields_of_planes
from subcell_hf.images.reading_options import ReadingOptions

LAYOUTS: tuple[Layout, ...] = (
    *(module.LAYOUT for module in (harmony, cellvoyager, incell, hcsai, scanr, imagexpress, ome_companion)),
    *named_files.LAYOUTS,
)
"""Layouts of instruments and programs; a folder that is none of them is read by the names of its files."""


def layout_of_index(path: Path) -> Layout | None:
    """The layout that a file is the index of, by its name; None for any other file."""
    return next((one for one in LAYOUTS if any(fnmatch(path.name.lower(), name) for name in one.index_names)), None)


def list_any(folder: Path, options: ReadingOptions, layout: Layout | None = None) -> Listing:
    """List a folder by the layout that it is recognised as.

    Args:
        folder: Searched to any depth.
        options: How to read it.
        layout: The layout where the user said which, by giving its index; None: whichever it is.

    Raises:
        FieldError: If it is recognised as several, or its metadata cannot be read.
    """
    content = list_images(folder)
    if options.pattern is not None:
        listing = fields_of_planes(list_by_pattern(content, compile_pattern(options.pattern)), folder, options)
        return replace(_with_rest(listing, content), layout="named by a pattern", recognised_by=options.pattern)
    found = {one: why for one in LAYOUTS if layout in (None, one) and (why := one.recognise(content))}
    if len(found) > 1:
        described = " and ".join(f"{one.name} ({why})" for one, why in found.items())
        raise FieldError(f"{folder} holds images of {described}. Give the folder, or the index, of one of them.")
    if not found:
        return list_by_names(content, options)
    ((layout, why),) = found.items()
    listing = fields_of_planes(layout.list_planes(content, options), folder, options)
    return replace(_with_rest(listing, content), layout=layout.name, recognised_by=why)


def _with_rest(listing: Listing, content: FolderContent) -> Listing:
    """Name the images that the layout does not list."""
    used = {path for item in listing.fields for path in item.files}
    unused = dict(listing.unused)
    for path in (*content.images, *content.others):
        if path not in used:
            unused.setdefault(str(path), "not listed in the metadata of the plate")
    unused |= {str(path): reason for path, reason in content.unused.items()}
    return replace(listing, unused={legible(name): reason for name, reason in unused.items()})
