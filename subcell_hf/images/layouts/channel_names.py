"""Which files of a folder belong to which field of view, by their names."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.decoders.remote_paths import RemotePath
from subcell_hf.images.decoders.stored_images import STORED_SUFFIXES
from subcell_hf.images.decoders.unread_formats import why_unread
from subcell_hf.images.file_names import (
    CELLPOSE_MASKS,
    MASK_NAME,
    companion_of,
    image_stem,
    is_named_by_hpa,
    layout_of,
    legible,
    normal_form,
    other_image_suffix,
    plate_well_sample,
    split_stem,
)
from subcell_hf.images.files import image_suffix
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.listed_fields import (
    FilePlace,
    ListedField,
    Listing,
    garbage_kept,
    name_apart,
    one_file_twice,
)
from subcell_hf.images.positions import list_positions
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.ontology import CHANNEL_STAINS, PUBLISHED_PIXEL_SIZE_UM

_COLOURS = {name: name for name in CHANNEL_STAINS}
PLANES_BY_NAME = "one file per channel, by name"
STACKS = "one file per field of view"
OME_ZARR = "OME-Zarr"
_LOSSY_SUFFIXES = (".jpg", ".jpeg")
_OF_ONE_CHANNEL = (
    "a mask of one channel, which may outline nuclei alone: if it labels whole cells, rename it to "
    f"<field of view>_{MASK_NAME}"
)


def list_by_names(content: FolderContent, options: ReadingOptions) -> Listing:
    """List a folder by names alone: one file per channel where names end in a channel, else one file per field.

    Args:
        content: What lies in the folder.
        options: Names of channels that are recognised beside the colours: those that are mapped, and those wanted.
    """
    folder = content.root
    known = {**{name: name for name in (*CHANNEL_STAINS, *(options.channels or ()))}, **options.channel_mapping}
    known = {normal_form(name): channel for name, channel in known.items()}
    files = (*content.images, *content.others)
    in_planes = any(_name_and_channel(file, known)[1] not in (None, MASK_NAME) for file in files)
    fields, unused = _list_planes(files, known, content) if in_planes else _list_stacks(files, known, folder, options)
    unused |= content.unused
    return Listing(
        (*name_apart(fields), *_unlisted(content, known, folder)),
        {legible(str(file)): reason for file, reason in unused.items()},
        PLANES_BY_NAME if in_planes else STACKS,
        "names that end in a channel" if in_planes else "no name ends in a channel",
    )


def list_file(image: Path, options: ReadingOptions) -> Listing:
    """List one image with the mask beside it; masks that are not used are named.

    Args:
        image: A file, or an OME-Zarr.
        options: How to read it.
    """
    stem = image_stem(image)
    items = list_positions(image, stem, options)
    owners = {stem, *(item.name for item in items)}
    masks: dict[str, list[FilePlace]] = {}
    unused: dict[Path, str] = {}
    base = split_stem(stem, _COLOURS)[0].removesuffix(".ome")
    is_zarr = is_zarr_folder(image)
    for path in [] if isinstance(image, RemotePath) else sorted(image.absolute().parent.iterdir()):
        if path.name == image.name or not normal_form(path.name).startswith(base) or image_suffix(path) is None:
            continue
        name, channel = split_stem(image_stem(path), {})
        owner, reason = (name.removesuffix(".ome"), CELLPOSE_MASKS) if channel else companion_of(path) or ("", "")
        if owner in owners and reason == CELLPOSE_MASKS:
            masks.setdefault(owner, []).append(FilePlace.of(image.parent / path.name))
        elif owner in owners:
            unused[image.parent / path.name] = reason
        elif channel and owner == base:
            unused[image.parent / path.name] = f"the mask of {owner}: to use it for this image, rename it {stem}_mask"
    fields = [_with_masks(item, masks.pop(item.name, [])) for item in items]
    unused |= {
        file.path: f"a mask of several images: give each its own, such as {items[0].name}_{MASK_NAME}"
        for files in masks.values()
        for file in files
    }
    said = {legible(str(path)): reason for path, reason in unused.items()}
    recognised = (OME_ZARR, "the attributes of its groups") if is_zarr else (STACKS, "one image")
    return Listing(tuple(fields), said, *recognised)


def _name_and_channel(file: FilePlace, known: Mapping[str, str]) -> tuple[str, str | None]:
    """A CZI, LIF or ND2 holds its channels, whatever its name ends in."""
    stem = image_stem(file)
    return (stem, None) if image_suffix(file) in STORED_SUFFIXES else split_stem(stem, known)


@lru_cache
def _folder_below(folder: str, root: Path) -> str:
    """A folder of a field's files, below the root; that of the whole plate for images of an OME-Zarr."""
    folders = Path(folder).relative_to(root).parts
    return normal_form("/".join(takewhile(lambda name: image_suffix(Path(name)) is None, folders)))


def _below(path: Path, root: Path) -> str:
    return normal_form(path.relative_to(root).as_posix()).removeprefix(".")


def _unlisted(content: FolderContent, known: Mapping[str, str], root: Path) -> Iterator[ListedField]:
    """One problem per field whose files, or folder of files, cannot be listed."""
    problems: dict[str, str] = {}
    for path, problem in content.problems.items():
        is_image = image_suffix(path) is not None or other_image_suffix(path) is not None
        name = split_stem(legible(image_stem(path)), known)[0] if is_image else legible(path.name)
        problems.setdefault(legible(_below(path.parent / name, root)), problem)
    yield from (ListedField(name=name, problem=problem) for name, problem in problems.items())


_Found = tuple[list[ListedField], dict[FilePlace | Path, str]]


@garbage_kept()
def _list_planes(files: Sequence[FilePlace], known: Mapping[str, str], content: FolderContent) -> _Found:
    """Fields of one file per channel; folder by folder, so that memory does not grow with their number."""
    folders: dict[str, list[FilePlace]] = {}
    for file in files:
        folders.setdefault(file.folder, []).append(file)
    fields: list[ListedField] = []
    unused: dict[FilePlace | Path, str] = {}
    for folder, own in folders.items():
        fields += _planes_of_folder(folder, own, known, content, unused)
    return fields, unused


def _planes_of_folder(
    folder: str,
    own: Sequence[FilePlace],
    known: Mapping[str, str],
    content: FolderContent,
    unused: dict[FilePlace | Path, str],
) -> Iterator[ListedField]:
    """The fields of one folder; what belongs to none is added to `unused`."""
    groups: dict[str, dict[str, list[FilePlace]]] = {}
    rest = []
    for file in own:
        name, channel = _name_and_channel(file, known)
        if channel is None:
            rest.append(file)
        else:
            groups.setdefault(name, {}).setdefault(channel, []).append(file)
    images = {name for name, files in groups.items() if files.keys() != {MASK_NAME}}
    for file in rest:
        image, reason = companion_of(file) or (None, "")
        if image in images and reason == CELLPOSE_MASKS:
            groups[image].setdefault(MASK_NAME, []).append(file)
        elif image is not None and split_stem(image, known)[0] in images:
            unused[file] = _OF_ONE_CHANNEL if reason == CELLPOSE_MASKS else reason
        elif _is_other_kind(file):
            unused[file] = _other_kind(file)
        elif image_suffix(file) in STORED_SUFFIXES:
            unused[file] = "it holds several channels, beside files of one channel each: to use it, give it alone"
        else:
            yield _stray(file, known, content.root)
    for name, files in groups.items():
        if name in images:
            yield _field_of_planes(name, files, _folder_below(folder, content.root), folder in content.linked)
        elif split_stem(name, known)[0] in images:
            unused |= dict.fromkeys(files[MASK_NAME], _OF_ONE_CHANNEL)
        else:
            yield from (_mask_without_image(file, content.root) for file in files[MASK_NAME])


def _is_other_kind(file: FilePlace) -> bool:
    return image_suffix(file) is None and not is_zarr_folder(file.path)


def _other_kind(file: FilePlace) -> str:
    return why_unread(file.name.removesuffix(".gz")) or f"{file.name} is of a kind that is not read"


def _mask_without_image(file: FilePlace, root: Path) -> ListedField:
    return ListedField(
        name=_below(file.path, root),
        problem=f"{file} is a mask without its image. Put it beside its image, or move it away.",
    )


def _stray(file: FilePlace, known: Mapping[str, str], root: Path) -> ListedField:
    problem = (
        f"The name of {file} does not end in a channel, as others here do: expected <field of view>_<channel> with one "
        f"of {', '.join(known)}. Rename it, map its channel (--channel-mapping), or move it away."
    )
    return ListedField(name=_below(file.path, root), problem=problem)


def _field_of_planes(name: str, files: Mapping[str, list[FilePlace]], folder: str, may_repeat: bool) -> ListedField:
    planes = {channel: found[0] for channel, found in files.items() if channel != MASK_NAME}
    by_hpa = all(map(is_named_by_hpa, planes.values()))
    return ListedField(
        name=name,
        channel_planes={channel: (file,) for channel, file in planes.items()},
        mask_file=_one_mask(files.get(MASK_NAME, [])),
        metadata=plate_well_sample(name),
        default_pixel_size_um=PUBLISHED_PIXEL_SIZE_UM if by_hpa else None,
        default_pixel_size_from="HPA name" if by_hpa else "",
        folder=folder,
        problem=_problem_of_planes(name, files, may_repeat),
    )


def _problem_of_planes(name: str, files: Mapping[str, list[FilePlace]], may_repeat: bool) -> str | None:
    masks = files.get(MASK_NAME, [])
    for channel, found in files.items():
        if len(found) > 1 and not (channel == MASK_NAME and _one_mask(found)):
            names = ", ".join(file.name for file in found)
            return f"Field {name!r} has more than one file for {channel}: {names}. Remove or rename all but one."
    for file in [file for found in files.values() for file in found]:
        if _is_other_kind(file):
            return f"Field {name!r}: {file}: {_other_kind(file)}."
    if masks and image_suffix(masks[0]) in _LOSSY_SUFFIXES:
        return f"Field {name!r}: label mask {masks[0]} is not lossless, expected PNG, TIFF or .npy rather than JPEG."
    return one_file_twice(name, {channel: found[0].path for channel, found in files.items()}) if may_repeat else None


def _one_mask(masks: Sequence[FilePlace]) -> Path | None:
    """The mask of a field: one named by its user comes before Cellpose's."""
    named = [file for file in masks if (companion_of(file) or ("", ""))[1] != CELLPOSE_MASKS] or masks
    return named[0].path if len(named) == 1 else None


def _list_stacks(files: Sequence[FilePlace], known: Mapping[str, str], root: Path, options: ReadingOptions) -> _Found:
    """Fields of one file each, or of one position of a file."""
    parts = {file: _name_and_channel(file, known) for file in files}
    masks: dict[tuple[str, str], list[FilePlace]] = {}
    unused: dict[FilePlace | Path, str] = {}
    found = {
        file: list_positions(file.path, name, options) for file, (name, channel) in parts.items() if channel is None
    }
    stems = {(file.folder, name): file for file, (name, channel) in parts.items() if channel is None}
    stems |= {(file.folder, item.name): file for file, items in found.items() for item in items}
    stacks = []
    for file, (name, channel) in parts.items():
        image, reason = companion_of(file) or (None, "")
        if channel == MASK_NAME:
            masks.setdefault((file.folder, name.removesuffix(".ome")), []).append(file)
        elif image is None or (file.folder, image) not in stems:
            stacks.append(file)
        elif reason == CELLPOSE_MASKS:
            masks.setdefault((file.folder, image), []).append(file)
        else:
            unused[file] = reason
    fields = [
        _field_of_stack(file, item, masks.pop((file.folder, item.name), []), root)
        for file in stacks
        for item in found[file]
    ]
    for key, own in masks.items():
        images = found[stems[key]] if key in stems else []
        fields += [_mask_of_several(file, images, root) if images else _mask_without_image(file, root) for file in own]
    return fields, unused


def _mask_of_several(file: FilePlace, images: list[ListedField], root: Path) -> ListedField:
    return ListedField(
        name=_below(file.path, root),
        problem=f"{file} is a mask of {images[0].origin}, which holds {len(images)} images: expected one mask for "
        f"each, such as {images[0].name}_{MASK_NAME}. Split it, or move it away.",
    )


def _field_of_stack(file: FilePlace, item: ListedField, masks: list[FilePlace], root: Path) -> ListedField:
    problem = item.problem
    if (layout := layout_of(file)) is not None:
        problem = (
            f"{file} is named as {layout[0]} names its files, one for each channel, and the index that describes them "
            f"is not there. Copy {layout[1]} as well; or rename the files to <field of view>_<channel>, or say with a "
            "regular expression what their names mean (--pattern)."
        )
    elif _is_other_kind(file):
        problem = f"{file}: {_other_kind(file)}."
    folder = str(item.files[0].parent)
    return _with_masks(replace(item, problem=problem, folder=_folder_below(folder, root)), masks)


def _with_masks(item: ListedField, masks: list[FilePlace]) -> ListedField:
    if not masks:
        return item
    problem = item.problem or _problem_of_planes(item.name, {MASK_NAME: masks}, may_repeat=False)
    return replace(item, mask_file=_one_mask(masks), problem=problem)
