"""Which layout an input has: the one place where all of them are known."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.file_names import legible
from subcell_hf.images.folder_contents import FolderContent, list_images
from subcell_hf.images.image_tables import atlas_tables, loaddata
from subcell_hf.images.layouts import (
    cellvoyager,
    cm4ai,
    harmony,
    harmony_names,
    hcsai,
    imagexpress,
    incell,
    micromanager,
    named_files,
    ome_companion,
    scanr,
)
from subcell_hf.images.layouts.channel_names import list_by_names
from subcell_hf.images.layouts.field_tables import FIELD_TABLE, list_table
from subcell_hf.images.layouts.gathered_planes import fields_of_planes
from subcell_hf.images.layouts.named_files import compile_pattern, list_by_pattern
from subcell_hf.images.listed_fields import FilePlace, Listing, garbage_kept
from subcell_hf.images.masks.named_masks import MaskPattern, without_masks
from subcell_hf.images.plane_listing import Layout
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.tables import open_table
from subcell_hf.storage.foreign_tables import ForeignTable

_MODULES = (harmony, harmony_names, cellvoyager, incell, hcsai, scanr, imagexpress, cm4ai, micromanager)
LAYOUTS: tuple[Layout, ...] = (
    *(module.LAYOUT for module in _MODULES),
    *ome_companion.LAYOUTS,
    *named_files.LAYOUTS,
)
"""Layouts of instruments and programs; a folder that is none of them is read by the names of its files."""

_ListTable = Callable[[Path, ForeignTable, ReadingOptions], Listing]
_TABLES: dict[str, tuple[Callable[[Iterable[str]], bool], _ListTable]] = {
    loaddata.LOADDATA: (loaddata.is_loaddata, loaddata.list_loaddata),
    loaddata.SAMPLE_SHEET: (loaddata.is_sample_sheet, loaddata.list_sample_sheet),
    atlas_tables.DREAM_MANIFEST: (atlas_tables.is_dream_manifest, atlas_tables.list_dream_manifest),
    atlas_tables.ATLAS_TABLE: (atlas_tables.is_atlas_table, atlas_tables.list_atlas_table),
}
"""Tables that list images, by the names of their columns; any other table is read as SubCellPortable's."""


def layout_of_index(path: Path) -> Layout | None:
    """The layout that a file is the index of, by its name; None for any other file."""
    return next((one for one in LAYOUTS if any(fnmatch(path.name.lower(), name) for name in one.index_names)), None)


def list_any(folder: Path, options: ReadingOptions, index: Path | None = None) -> Listing:
    """List a folder by the layout that it is recognised as.

    Args:
        folder: Searched to any depth.
        options: How to read it.
        index: A file of the folder that a layout is the index of, for that layout alone, and without other indices
            beside it; None: whichever layout it is.

    Raises:
        FieldError: If it is recognised as several, or its metadata cannot be read.
    """
    content = list_images(folder)
    if options.masks is not None:
        content.images = without_masks(content.images, MaskPattern(options.masks))
    layout = None if index is None else layout_of_index(index)
    if index is not None and layout is not None:
        content.documents = [file for file in content.documents if not _is_other_index(file, index, layout)]
    if options.pattern is not None:
        with garbage_kept():
            plates = list_by_pattern(content, compile_pattern(options.pattern))
            listing = _with_rest(fields_of_planes(plates, folder, options, content.names), content)
        return replace(listing, layout="named by a pattern", recognised_by=options.pattern)
    found = {one: why for one in LAYOUTS if layout in (None, one) and (why := one.recognise(content))}
    if len(found) > 1:
        described = " and ".join(f"{one.name} ({why})" for one, why in found.items())
        raise FieldError(f"{folder} holds images of {described}. Give the folder, or the index, of one of them.")
    if not found:
        return list_by_names(content, options)
    ((layout, why),) = found.items()
    with garbage_kept():
        plates = layout.list_planes(content, options)
        listing = _with_rest(fields_of_planes(plates, folder, options, content.names), content)
    return replace(listing, layout=layout.name, recognised_by=why)


def _is_other_index(file: FilePlace, index: Path, layout: Layout) -> bool:
    """Whether a file beside an index is the same of another plate or set: its name fits the same pattern."""
    names = (file.name.lower(), index.name.lower())
    return (
        file.folder == str(index.parent)
        and file.name != index.name
        and any(all(fnmatch(name, pattern) for name in names) for pattern in layout.index_names)
    )


def list_any_table(path: Path, options: ReadingOptions) -> Listing:
    """List the images of a table, by the kind of table that it is.

    Args:
        path: CSV, TSV or Parquet.
        options: How to read it.

    Raises:
        FieldError: If it cannot be read, lists no images, or an option means nothing for it.
    """
    table = open_table(path)
    name, list_planes = next(
        ((name, found) for name, (fits, found) in _TABLES.items() if fits(table.columns)), (FIELD_TABLE, None)
    )
    if options.illumination and name != loaddata.LOADDATA:
        raise FieldError(f"{path} is a {name}, which lists no illumination functions. Leave --illumination out.")
    if list_planes is not None:
        with garbage_kept():
            listing = list_planes(path, table, options)
    else:
        listing = Listing(tuple(list_table(path, options.channel_mapping, options.path_mapping)))
    return replace(listing, layout=name, recognised_by=f"the columns of {path.name}")


def _planes_of(listing: Listing) -> Iterator[FilePlace]:
    stacks = chain.from_iterable(item.channel_planes.values() for item in listing.fields)
    return chain.from_iterable(stacks)


def _with_rest(listing: Listing, content: FolderContent) -> Listing:
    """Name the images that the layout does not list."""
    unused = dict(listing.unused)
    # Most planes are those of the content themselves, so that nearly no file has to be looked for.
    known = set(map(id, _planes_of(listing)))
    rest = [file for file in (*content.images, *content.others) if id(file) not in known]
    if rest:
        used = {plane._replace(page=None, position=None) for plane in _planes_of(listing)}
        for file in rest:
            if file not in used:
                unused.setdefault(str(file), "not listed in the metadata of the plate")
    unused |= {str(file): reason for file, reason in content.unused.items()}
    return replace(listing, unused={legible(name): reason for name, reason in unused.items()})
