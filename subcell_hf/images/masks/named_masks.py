"""Masks that another program wrote, in the same or another folder: which file belongs to which field of view.

A pattern is a path with placeholders. Files that fit it are masks, and what replaces a placeholder says
of which field: `masks/{file}_cp_masks.tif` are masks that are named after one of the field's own images.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from glob import escape
from itertools import product
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.file_names import image_stem, is_system_file, legible, normal_form
from subcell_hf.images.listed_fields import FilePlace, ListedField
from subcell_hf.images.wells import standard_well

PLACEHOLDERS = {
    "file": "[^/]+",
    "name": "[^/]+",
    "plate": "[^/]+?",
    "well": r"[A-Za-z]{1,2}[ _-]{0,3}\d{1,2}",
    "site": "[^/]+?",
    "folder": ".+",
}
"""Placeholder → what may replace it; `{folder}` replaces whole parts of a path, or for none."""

_FOLDER = "{folder}/"
_TOKENS = re.compile(r"(\{folder\}/|\{[^{}]*\}|\*|\?)")
_WILD = re.compile(r"[{}*?]")
_MOST_NAMED = 3


@dataclass(frozen=True)
class MaskPattern:
    """Where masks lie, and of which field of view each is.

    Attributes:
        text: As the user wrote it. With a `/` it is a path, otherwise the name of a file beside the field's images.
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse what names no field.

        Raises:
            InputError: If there is no placeholder, or one that is not known.
        """
        named = re.findall(r"\{([^{}]*)\}", self.text)
        unknown = [name for name in named if name not in PLACEHOLDERS]
        if not named or unknown or re.search(r"[^/]\{folder\}|\{folder\}(?!/)", self.text):
            found = f"{{{unknown[0]}}}, which has no meaning" if unknown else "none" if not named else "{folder}"
            raise InputError(
                f"The pattern of masks {self.text!r} has the placeholders {found}; expected some of "
                f"{', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}, such as masks/{{file}}_cp_masks.tif, and "
                "{folder} only as {folder}/."
            )

    @property
    def is_beside(self) -> bool:
        """Whether masks lie in the folders of the images."""
        return "/" not in self._path

    @cached_property
    def _path(self) -> str:
        return self.text.replace(os.sep, "/")

    @cached_property
    def _root(self) -> Path:
        """The last folder that is the same for all masks."""
        parts = self._path.split("/")[:-1]
        fixed = next((number for number, part in enumerate(parts) if _WILD.search(part)), len(parts))
        return Path("/".join(parts[:fixed]) or ("/" if self._path.startswith("/") else "."))

    @cached_property
    def _below_root(self) -> list[str]:
        parts = self._path.split("/")
        fixed = next(number for number, part in enumerate(parts) if _WILD.search(part) or number == len(parts) - 1)
        return [token for token in _TOKENS.split("/".join(parts[fixed:])) if token]

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        written, seen = "", set[str]()
        for token in self._below_root:
            name = token.strip("{}/")
            if token in ("*", "?"):
                written += "[^/]*" if token == "*" else "[^/]"
            elif not token.startswith("{"):
                written += re.escape(normal_form(token))
            elif name in seen:
                written += f"(?P={name})" + ("/" if token == _FOLDER else "")
            else:
                group = f"(?P<{name}>{PLACEHOLDERS[name]})"
                written += f"(?:{group}/)?" if token == _FOLDER else group
                seen.add(name)
        return re.compile(written)

    @property
    def names(self) -> tuple[str, ...]:
        """Its placeholders."""
        return tuple(self._expression.groupindex)

    def parts_of(self, path: Path) -> dict[str, str] | None:
        """What replaces the placeholders, as fields are called; None for a file that is no mask."""
        name = path.name
        if not self.is_beside:
            try:
                name = _absolute(path).relative_to(_absolute(self._root)).as_posix()
            except ValueError:  # another folder
                return None
        found = self._expression.fullmatch(normal_form(name))
        return None if found is None else {key: _plain(key, value or "") for key, value in found.groupdict().items()}

    def find(self, folders: Iterable[Path]) -> Iterator[Path]:
        """All masks.

        Args:
            folders: Of the images; looked into where masks lie beside them.
        """
        wild = "".join(
            "\0" if token == _FOLDER else "*" if token[0] == "{" else token if token in "*?" else escape(token)
            for token in self._below_root
        )
        wild = re.sub(r"\*+", "*", wild).replace("\0", "**/")
        for root in folders if self.is_beside else (self._root,):
            for path in sorted(root.glob(wild)):
                hidden = any(is_system_file(part) for part in path.relative_to(root).parts)
                is_one = path.is_file() or is_zarr_folder(path)
                if is_one and not hidden and self.parts_of(path) is not None:
                    yield path


def with_named_masks(
    fields: Sequence[ListedField], unused: Mapping[str, str], pattern: MaskPattern, source: Path
) -> tuple[list[ListedField], dict[str, str]]:
    """Give every field its mask.

    Args:
        fields: With what is known of them.
        unused: What the listing does not use, with the reason.
        pattern: Where their masks lie.
        source: The input; where it is one image, masks of others are no surprise.

    Returns:
        The fields, of which those without exactly one mask have a problem; and what is not used: other masks of these
        fields and masks of no field among it.

    Raises:
        FieldError: If no file fits the pattern.
    """
    root = source if source.is_dir() else source.parent
    folders = dict.fromkeys(path.parent for item in fields for path in _images(item))
    by_parts: dict[tuple[str, ...], list[int]] = {}
    for number, item in enumerate(fields):
        for key in _keys(item, pattern.names, root):
            by_parts.setdefault(key, []).append(number)
    found = list(pattern.find(folders))
    if not found:
        where = ", ".join(map(str, list(folders)[:_MOST_NAMED])) if pattern.is_beside else f"seen from {Path.cwd()}"
        raise FieldError(
            f"No file fits the pattern of masks {pattern.text!r} ({where}). With a / it is a path from the current "
            "folder, without one the name of a file beside the images."
        )
    masks: dict[int, list[Path]] = {}
    shared: dict[int, str] = {}
    used: set[Path] = set()
    lost: dict[str, str] = {}
    for path in found:
        parts = pattern.parts_of(path) or {}
        own = by_parts.get(tuple(parts.values()), [])
        if pattern.is_beside:
            own = [number for number in own if any(image.parent == path.parent for image in _images(fields[number]))]
        for number in own:
            masks.setdefault(number, []).append(path)
            used.add(_absolute(path))
        if len(own) > 1:
            names = ", ".join(repr(fields[number].name) for number in own[:_MOST_NAMED])
            shared |= dict.fromkeys(own, f"{path} is the mask of {len(own)} fields of view: {names}")
        elif not own and source.is_dir():
            said = ", ".join(f"{name} {value!r}" for name, value in parts.items())
            lost[legible(str(path))] = f"a mask of no field of view: none has {said}"
    given = []
    for number, item in enumerate(fields):
        own_masks = masks.get(number, [])
        if item.mask_file is not None and _absolute(item.mask_file) not in used:
            lost[legible(str(item.mask_file))] = f"a mask by its name; those by the pattern {pattern.text} are used"
        problem = item.problem or _problem(item, own_masks, shared.get(number), pattern, root)
        given.append(replace(item, mask_file=own_masks[0] if own_masks else None, problem=problem))
    kept = {path: reason for path, reason in unused.items() if _absolute(Path(path)) not in used}
    return given, kept | lost


def _problem(
    item: ListedField, masks: Sequence[Path], shared: str | None, pattern: MaskPattern, root: Path
) -> str | None:
    if not masks:
        wanted = {name: sorted(_values(item, name, root)) for name in pattern.names}
        said = ", ".join(f"{name} {' or '.join(map(repr, values)) or 'unknown'}" for name, values in wanted.items())
        return (
            f"Field {item.name!r} has no mask: no file fits {pattern.text!r} with {said}. Add it, or leave the field "
            "out; without --masks fields are segmented."
        )
    if len(masks) > 1:
        named = ", ".join(str(path) for path in masks[:_MOST_NAMED]) + (", …" if len(masks) > _MOST_NAMED else "")
        return f"Field {item.name!r} has {len(masks)} masks: {named}. Remove all but one, or narrow the pattern."
    if shared is not None:
        return f"Field {item.name!r}: {shared}. Give each its own, and name it in the pattern, such as by {{file}}."
    return None


def _images(item: ListedField) -> list[Path]:
    return [path for path in item.files if path != item.mask_file]


def _keys(item: ListedField, names: Sequence[str], root: Path) -> set[tuple[str, ...]]:
    """All that may replace the placeholders in the path of a field's mask."""
    return set(product(*(_values(item, name, root) for name in names)))


def _values(item: ListedField, name: str, root: Path) -> set[str]:
    images = _images(item)
    if name == "file":
        stems = {image_stem(path) for path in images}
        return stems | {stem.removesuffix(".ome") for stem in stems}
    if name == "name":
        return {normal_form(text) for text in (item.name, item.plain_name, item.name.rpartition("/")[2])}
    if name == "folder":
        return {_below(path.parent, root) for path in images[:1]}
    value = item.metadata.get(name, "")
    return {_plain(name, normal_form(value))} if value else set()


def _below(folder: Path, root: Path) -> str:
    below = os.path.relpath(folder, root)
    return "" if below == os.curdir else normal_form(Path(below).as_posix())


def _plain(name: str, value: str) -> str:
    """A value as it is compared: wells as `A01`, sites without leading zeros."""
    if name == "well":
        return standard_well(value)
    return str(int(value)) if name == "site" and value.isdecimal() else value


def _absolute(path: Path) -> Path:
    """By name alone, so that links stay what they are called."""
    return Path(os.path.normpath(path.absolute()))


def without_masks(images: Iterable[FilePlace], pattern: MaskPattern) -> list[FilePlace]:
    """Images of a folder that are no masks by a pattern."""
    return [image for image in images if pattern.parts_of(image.path) is None]
