"""Channels and protein locations: their names, orders, colours and groupings.

The only reader of `annotations/locations.tsv`.
"""

import csv
from dataclasses import dataclass
from functools import cache

from subcell_hf.errors import InputError
from subcell_hf.shipped import shipped_folder

PUBLISHED_PIXEL_SIZE_UM = 0.0800885
"""Pixel size of Human Protein Atlas images, in micrometres."""

CHANNEL_STAINS = {
    "red": "microtubules",
    "yellow": "endoplasmic reticulum",
    "blue": "nucleus (DNA)",
    "green": "protein of interest",
}
"""Colour name of a channel → what it stains, in the order in which SubCell stacks channels."""

PROTEIN_CHANNEL = "green"
"""Colour of the channel in which the protein of interest is stained."""

CHANNEL_VARIANTS = {
    "rybg": ("red", "yellow", "blue", "green"),
    "rbg": ("red", "blue", "green"),
    "ybg": ("yellow", "blue", "green"),
    "bg": ("blue", "green"),
}
"""Name of a published channel variant → its channels; the protein is always last."""

CHANNEL_DISPLAY_RGB = {
    "red": (1.0, 0.0, 0.0),
    "yellow": (0.7, 0.7, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "green": (0.0, 1.0, 0.0),
}
"""Colour in which a channel is added to a composite picture, each component in [0, 1]."""

GROUPINGS = ("grouping_1", "grouping_2", "grouping_3", "grouping_dl2", "grouping_opencell")
"""Columns of `locations.tsv` with coarser names of locations; see `group_location`."""


@dataclass(frozen=True)
class Location:
    """One row of `locations.tsv`.

    Attributes:
        name: Human Protein Atlas annotation, or `"Negative"`.
        training_index: Position among the 35 training targets.
        reported_index: Position among the 31 classes of the published classifiers, None where they leave it out.
        challenge_index: Position among the 19 classes of the Kaggle challenge, None where it has no such class.
        challenge_name: The challenge's name of the class, None where it has none.
        colour: `#rrggbb`.
        groups: Grouping name → coarser name; a grouping that leaves the location out is absent.
    """

    name: str
    training_index: int
    reported_index: int | None
    challenge_index: int | None
    challenge_name: str | None
    colour: str
    groups: dict[str, str]


@cache
def load_locations() -> tuple[Location, ...]:
    """All 35 locations in training order."""
    with (shipped_folder("annotations") / "locations.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return tuple(
        Location(
            name=row["location"],
            training_index=int(row["training_index"]),
            reported_index=int(row["reported_index"]) if row["reported_index"] else None,
            challenge_index=int(row["challenge_index"]) if row["challenge_index"] else None,
            challenge_name=row["challenge_name"] or None,
            colour=row["colour"],
            groups={name: row[name] for name in GROUPINGS if row[name]},
        )
        for row in rows
    )


def training_locations() -> tuple[str, ...]:
    """Names of the 35 training targets, in order."""
    return tuple(location.name for location in load_locations())


def reported_locations() -> tuple[str, ...]:
    """Names of the 31 classes that the published classifiers report, in their order."""
    indexed = [(location.reported_index, location.name) for location in load_locations()]
    return tuple(name for _, name in sorted((index, name) for index, name in indexed if index is not None))


def challenge_locations() -> tuple[str, ...]:
    """Names of the 19 classes of the Kaggle single-cell challenge, in its order."""
    indexed = [(location.challenge_index, location.challenge_name) for location in load_locations()]
    return tuple(name for _, name in sorted((i, name) for i, name in indexed if i is not None and name is not None))


def location_colours() -> dict[str, str]:
    """Location name → `#rrggbb`."""
    return {location.name: location.colour for location in load_locations()}


def group_location(name: str, grouping: str) -> str | None:
    """Coarser name of a location.

    Args:
        name: One of the 35 training targets.
        grouping: One of `GROUPINGS`.

    Returns:
        The group's name, or None where the grouping leaves the location out.

    Raises:
        InputError: If the location or the grouping is unknown.
    """
    if grouping not in GROUPINGS:
        raise InputError(f"Unknown grouping {grouping!r}: choose one of {', '.join(GROUPINGS)}.")
    for location in load_locations():
        if location.name == name:
            return location.groups.get(grouping)
    raise InputError(f"Unknown location {name!r}: expected one of {', '.join(training_locations())}.")


def channels_from_variant(variant: str) -> tuple[str, ...]:
    """Channel names of a published variant, or of a comma-separated list of names.

    Args:
        variant: `"rybg"`, `"rbg"`, `"ybg"`, `"bg"`, or names such as `"er,dna,mito"`.

    Returns:
        Channel names in the order of the model.

    Raises:
        InputError: If the text is neither.
    """
    if variant in CHANNEL_VARIANTS:
        return CHANNEL_VARIANTS[variant]
    names = tuple(name.strip() for name in variant.split(","))
    known = set(CHANNEL_STAINS)
    if all(names) and (len(names) > 1 or names[0] in known):
        return names
    raise InputError(
        f"Unknown channels {variant!r}: expected one of {', '.join(CHANNEL_VARIANTS)}, "
        "or channel names separated by commas such as 'red,blue,green'."
    )
