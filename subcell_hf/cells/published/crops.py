"""The published cells as a source of crops, field by field."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from subcell_hf.cells.published.choice import CellChoice, ChosenCells, read_published_table
from subcell_hf.cells.published.facts import published_cell_facts
from subcell_hf.cells.published.fetching import CHANNELS, CellFetcher, MeasuredRate
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.errors import InputError
from subcell_hf.shards.jobs import ListedCrops
from subcell_hf.storage.downloads.cached_files import keep_current
from subcell_hf.storage.records import sha256_of
from subcell_hf.types import FieldCrops

THREADS = 64
"""Files that a process fetches at a time."""

_METADATA_FILE = "metadata.csv"


@dataclass(frozen=True)
class PublishedCrops:
    """Crops of the published cells, field by field: a source of shards. It can be sent to other processes.

    A crop is cut as for the published models' training, centred on the box of the cell's mask, which is taken as it was
    published, without dilating it.

    Attributes:
        place: Address or folder of the published files.
        metadata: Their table on this machine.
        checksum: SHA-256 of the table.
        choice: Which cells.
        split_antibodies: Only the cells of these antibodies; None: all.
        settings: Sizes of the crops; None: those of the published models' training.
        classes: Names of locations; others are moved to the column `other_locations`. None: all stay.
        threads: Files that are fetched at a time.
    """

    place: str
    metadata: Path
    checksum: str
    choice: CellChoice = field(default_factory=CellChoice)
    split_antibodies: tuple[str, ...] | None = None
    settings: CropSettings | None = None
    classes: tuple[str, ...] | None = None
    threads: int = THREADS

    def __getstate__(self) -> dict[str, Any]:
        """Threads and connections stay in the process that opened them."""
        return {name: value for name, value in vars(self).items() if name != "_fetchers"}

    @cached_property
    def cells(self) -> ChosenCells:
        """The cells that are taken."""
        return read_published_table(self.metadata, self.choice, self.split_antibodies)

    @cached_property
    def _cutting(self) -> CropSettings:
        return replace(self.settings or CropSettings(), dilation_px=1)

    @cached_property
    def _fetchers(self) -> dict[int, CellFetcher]:
        """Process → its fetcher: a forked process has none of its parent's threads."""
        return {}

    @property
    def _fetcher(self) -> CellFetcher:
        if os.getpid() not in self._fetchers:
            made = CellFetcher(self.place, self.cells, self._cutting, self.classes, self.threads)
            self._fetchers[os.getpid()] = made
        return self._fetchers[os.getpid()]

    def fields(self) -> list[ListedCrops]:
        """Every field of view, with what the table says of its first cell."""
        fields = self.cells.fields
        firsts = self.cells.table.take([rows.start for rows in fields.values()]).to_pylist()
        return [
            ListedCrops(name, {key: value for key, value in row.items() if value})
            for name, row in zip(fields, firsts, strict=True)
        ]

    def announce(self, names: Sequence[str]) -> None:
        """Begin to fetch the fields that will be read next, in order."""
        self._fetcher.announce(row for name in names for row in self.cells.fields[name])

    def read(self, name: str) -> FieldCrops:
        """The crops of one field; cells that are missing or broken are in `skipped`.

        Raises:
            UnreachableError: If the files cannot be reached.
        """
        found = self._fetcher.take(self.cells.fields[name])
        parts = [cell.crops for cell in found if cell.crops is not None]
        skipped = tuple((cell.name, cell.reason) for cell in found if cell.crops is None)
        edge, size_um = self._cutting.output_px, self._cutting.output_pixel_size_um
        pixels = np.empty((len(parts), len(CHANNELS), edge, edge), np.uint8)
        masks = np.empty((len(parts), edge, edge), np.bool_)
        for position, part in enumerate(parts):
            order = [part.channels.index(channel) for channel in CHANNELS]
            np.take(part.pixels[0], order, axis=0, out=pixels[position], mode="clip")  # "raise" makes a copy first
            masks[position] = part.cell_masks[0]
        records = tuple(part.cells[0] for part in parts)
        return FieldCrops(name, pixels, masks, CHANNELS, size_um, records, skipped)

    def measure(self, most: int) -> MeasuredRate:
        """Fetch and cut the first cells, to see how long it takes.

        Args:
            most: How many cells, at most.

        Raises:
            UnreachableError: If the files cannot be reached.
        """
        return self._fetcher.measure(range(min(most, len(self.cells))))

    def unlisted_locations(self) -> Mapping[str, int]:
        """Locations that are no classes, and in how many cells they occur."""
        column = self.cells.table.column_names.count("locations")
        if self.classes is None or not column:
            return {}
        counted = Counter[str]()
        for entry in self.cells.table["locations"].value_counts().to_pylist():
            for name in {part.strip() for part in entry["values"].split(";")} - {"", *self.classes}:
                counted[name] += entry["counts"]
        return counted

    def fingerprint(self) -> str:
        """Changes with the published table, the choice of cells and the way they are cut; not with the address."""
        antibodies = self.choice.named_antibodies()
        facts = [
            self.checksum,
            None if antibodies is None else sorted(antibodies),
            [self.choice.cell_lines, self.choice.max_cells],
            self.split_antibodies,
            asdict(self._cutting),
            self.classes,
            published_cell_facts().channels_of_rgba,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def open_published_crops(
    place: str,
    choice: CellChoice | None = None,
    *,
    split_antibodies: Sequence[str] | None = None,
    settings: CropSettings | None = None,
    classes: Sequence[str] | None = None,
    ask: bool = True,
    progress: bool = True,
) -> PublishedCrops:
    """The published cells at an address; their table is downloaded first, unless an earlier copy is still current.

    Args:
        place: Address or folder; see `published_place`.
        choice: Which cells; None: all.
        split_antibodies: Only the cells of these antibodies; None: all.
        settings: Sizes of the crops; None: those of the published models' training.
        classes: Names of locations; others are moved to the column `other_locations`. None: all stay.
        ask: Whether to ask the server if its table has changed where there is a copy.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: If there is no such table.
        OSError: If the cache cannot be written.
    """
    if place.startswith(("https://", "http://")):
        metadata, facts = keep_current(f"{place}/{_METADATA_FILE}", ask=ask, progress=progress)
        checksum = facts.sha256
    else:
        metadata = Path(place) / _METADATA_FILE
        if not metadata.is_file():
            raise InputError(
                f"{metadata} is not there. Give the address of a mirror (hpa:https://…), a folder with the published "
                "files, or hpa: alone for the public bucket."
            )
        checksum = sha256_of(metadata)
    antibodies = None if split_antibodies is None else tuple(sorted(split_antibodies))
    names = None if classes is None else tuple(classes)
    return PublishedCrops(place, metadata, checksum, choice or CellChoice(), antibodies, settings, names)
