"""CM4AI's RO-Crates of immunofluorescence images: a folder for each colour, antibodies and genes in tables beside them.

The images are called `<set>_<treatment>_<well>_<region>_<slice>_<colour>.jpg`, such as
`blue/B2AI_1_Paclitaxel_C1_R1_z01_blue.jpg`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.file_names import image_stem, split_stem
from subcell_hf.images.files import image_suffix
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.plane_listing import Layout, ListedPlane, PlaneListing, documents_named, recognised_by
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.tables import read_table
from subcell_hf.images.wells import standard_well
from subcell_hf.ontology import CHANNEL_STAINS
from subcell_hf.storage.plain_files import read_json

_CRATE = "ro-crate-metadata.json"
_TABLES = ("*antibody_gene_table.tsv", "manifest.csv")
_COLOURS = {name: name for name in CHANNEL_STAINS}
_NAME = re.compile(r"(?P<plate>.+)_(?P<well>[A-P]\d{1,2})_(?P<region>R\d+)(?:_z(?P<slice>\d+))?")
_ANTIBODY, _ENSEMBL = re.compile(r"\b(?:HPA|CAB)\d{6}\b"), re.compile(r"\bENSG\d{11}\b")

# What the tables and the crate call the facts that our own tables have a name for.
_FACTS = {
    "antibody": "antibody", "antibody_id": "antibody", "hpa_antibody_id": "antibody", "ensembl_id": "ensembl_ids",
    "ensembl_ids": "ensembl_ids", "gene": "gene", "gene_name": "gene", "gene_names": "gene", "gene_symbol": "gene",
    "treatment": "treatment", "cell_line": "cell_line",
}  # fmt: skip
_PLACE = ("plate", "well", "region", "baselink", "slice")


@dataclass(frozen=True)
class _Fact:
    """What one source says of images.

    Attributes:
        source: Names it in messages.
        values: Our column → value.
    """

    source: str
    values: Mapping[str, str]


def _crates(content: FolderContent) -> list[Path]:
    """Crates with images in folders of colours; an RO-Crate may hold anything else."""
    crates = documents_named(content, _CRATE)
    folders = {image.parent.parent for image in content.images if _colour(image)} if crates else ()
    return [path for path in crates if path.parent in folders]


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(_crates(content))


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    planes: list[ListedPlane] = []
    for crate in _crates(content):
        try:
            planes += _read_crate(crate, content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError) as error:
            if isinstance(error, InputError):
                raise FieldError(str(error)) from error
            raise FieldError(
                f"{crate} lacks what belongs there, or holds something else ({type(error).__name__}: {error}). Copy "
                "the crate again."
            ) from error
    order = list(CHANNEL_STAINS)
    return [PlaneListing(sorted(planes, key=lambda plane: order.index(plane.channel)))]


def _colour(image: FilePlace) -> str | None:
    """The channel of an image in a folder of its colour."""
    channel = split_stem(image_stem(image), _COLOURS)[1]
    return channel if channel in _COLOURS and image.parent.name.lower() == channel else None


def _read_crate(crate: Path, content: FolderContent) -> Iterator[ListedPlane]:
    folder = crate.parent
    entries = [entry for entry in read_json(crate)["@graph"] if isinstance(entry, dict)]
    listed = {image: entry for entry in entries if (image := _image_of(entry, folder)) is not None}
    images = dict.fromkeys((*listed, *(image for image in content.images if image.parent.parent == folder)))
    facts: dict[str, list[_Fact]] = {}
    for image, entry in listed.items():
        facts.setdefault(_name_of(image), []).append(_Fact(_CRATE, _facts_of_entry(entry)))
    tables = [_Rows(table) for table in documents_named(content, *_TABLES) if table.parent == folder]
    known: dict[str, tuple[dict[str, str], str]] = {}
    for image in images:
        channel, name = _colour(image), _name_of(image)
        if channel is None:
            continue
        said = _NAME.fullmatch(name)
        if name not in known:
            of_tables = [fact for table in tables if (fact := table.find(name)) is not None]
            known[name] = _together(name, [*of_tables, *facts.get(name, ())])
        metadata, problem = known[name]
        place = (said["plate"], standard_well(said["well"]), said["region"]) if said else ("", "", "")
        z = int(said["slice"] or 0) if said else 0
        field_name = "" if said else name
        yield ListedPlane(
            image, channel, *place, z=z, field_name=field_name, metadata=metadata, problem=problem or None
        )


def _name_of(image: FilePlace) -> str:
    return split_stem(image_stem(image), _COLOURS)[0]


def _image_of(entry: Mapping[str, Any], folder: Path) -> FilePlace | None:
    """The image that an entry of a crate describes, where it is one in a folder of its colour."""
    text = str(entry.get("contentUrl") or entry.get("@id") or "")
    if "://" in text and not text.startswith("file:"):
        return None
    parts = PurePosixPath(re.sub(r"^file:/*", "", text)).parts[-2:]
    image = FilePlace.of(folder.joinpath(*parts))
    return image if len(parts) == 2 and ".." not in parts and image_suffix(image) and _colour(image) else None


def _facts_of_entry(entry: Mapping[str, Any]) -> dict[str, str]:
    """What an entry says by its own properties, and by the antibodies and genes that its keywords name."""
    more = entry.get("additionalProperty") or ()
    properties = (*entry.items(), *((str(one.get("name") or one.get("propertyID")), one.get("value")) for one in more))
    found = {
        ours: value
        for name, value in properties
        if (ours := _FACTS.get(_plain(name))) is not None and isinstance(value, str) and value.strip()
    }
    words = " ".join(map(str, (*_as_list(entry.get("keywords")), entry.get("description", ""))))
    for ours, pattern in (("antibody", _ANTIBODY), ("ensembl_ids", _ENSEMBL)):
        if named := sorted({*pattern.findall(words)}):
            found.setdefault(ours, ",".join(named))
    return found


def _as_list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value or ""]


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


class _Rows:
    """A table of antibodies, by the place that its rows are of."""

    def __init__(self, path: Path):
        self._source = path.name
        self._rows: dict[tuple[str, ...], dict[str, str]] = {}
        for row in read_table(path):
            named = {_plain(name): value.strip() for name, value in row.items()}
            base = PurePosixPath(named.get("baselink", "")).name.rstrip("_")
            treatment, well, region = (named.get(name, "").lower() for name in ("treatment", "well", "region"))
            place = treatment, standard_well(well).lower(), region
            values = {_FACTS.get(name, name): value for name, value in named.items() if name not in _PLACE and value}
            key = (base,) if base else place
            if self._rows.setdefault(key, values) != values:
                raise FieldError(f"{path} says different things of {base or ' '.join(place)}. Correct one of its rows.")

    def find(self, name: str) -> _Fact | None:
        """What the table says of a field."""
        said = _NAME.fullmatch(name)
        keys: list[tuple[str, ...]] = [(name,)]
        if said is not None:
            place = standard_well(said["well"]).lower(), said["region"].lower()
            keys += [(said["plate"].rpartition("_")[2].lower(), *place), ("", *place)]
        values = next((self._rows[key] for key in keys if key in self._rows), None)
        return None if values is None else _Fact(self._source, values)


def _together(name: str, facts: Iterable[_Fact]) -> tuple[dict[str, str], str]:
    """All facts of a field, and what contradicts itself."""
    known: dict[str, str] = {}
    sources: dict[str, str] = {}
    for fact in facts:
        for column, value in fact.values.items():
            if known.setdefault(column, value).lower() != value.lower():
                return known, (
                    f"{sources[column]} says {known[column]!r} of {column}, {fact.source} says {value!r} ({name}). "
                    "Correct one of them."
                )
            sources.setdefault(column, fact.source)
    return known, ""


LAYOUT = Layout("CM4AI RO-Crate", _recognise, _list_planes, (_CRATE, _TABLES[0]))
