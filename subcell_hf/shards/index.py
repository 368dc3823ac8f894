"""The index of a folder of shards: `index.json`, beside the tar files and the table of cells."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.shards.codec import CropFormat
from subcell_hf.storage.plain_files import parse_json

FORMAT_NAME = "subcell-shards"
FORMAT_VERSION = 1
INDEX_FILE = "index.json"
CELLS_FILE = "cells.parquet"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.tar")
"""What a shard may be called: no folder, no scheme, no `pipe:`."""


@dataclass(frozen=True)
class ShardEntry:
    """One tar file of the folder.

    Attributes:
        file: Name of the tar file.
        samples: Tar keys in it: one for each cell.
        parts: Runs of cells of one antibody, each with a share of all its fields of view.
        antibodies: Antibodies in it.
        bytes: Size of the file.
        sha256: Checksum of the file, hexadecimal.
    """

    file: str
    samples: int
    parts: int
    antibodies: int
    bytes: int
    sha256: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ShardEntry":
        """Read back one entry of the index."""
        counts = {name: int(record[name]) for name in ("samples", "parts", "antibodies", "bytes")}
        return cls(file=str(record["file"]), sha256=str(record["sha256"]), **counts)


@dataclass(frozen=True)
class ShardIndex:
    """What `index.json` says.

    Attributes:
        crop_format: Channels, size, dtype and pixel size of the crops.
        antibodies: Names; a cell's antibody label is the position in this list.
        genes: Gene of each antibody, empty where unknown.
        classes: Names of the locations, in the order of the multi-hot targets.
        cell_lines: Names of the cell lines that occur.
        shards: The tar files in order.
        cells: How many cells there are.
        cells_bytes: Size of `cells.parquet`.
        cells_sha256: Its checksum, hexadecimal.
        source: Where the images come from, in words.
        splits: Split name → its antibodies.
        split_method: How the splits were made, in words.
        fingerprint: Checksum of the inputs and settings that the shards were written from.
    """

    crop_format: CropFormat
    antibodies: tuple[str, ...]
    genes: tuple[str, ...]
    classes: tuple[str, ...]
    cell_lines: tuple[str, ...]
    shards: tuple[ShardEntry, ...]
    cells: int
    cells_bytes: int
    cells_sha256: str
    source: str = ""
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split_method: str = ""
    fingerprint: str = ""

    def to_json(self) -> bytes:
        """The text of `index.json`; the same index gives the same bytes."""
        record = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            **self.crop_format.as_record(),
            "cells": self.cells,
            "samples": sum(shard.samples for shard in self.shards),
            "bytes": sum(shard.bytes for shard in self.shards),
            "cells_table": {"file": CELLS_FILE, "bytes": self.cells_bytes, "sha256": self.cells_sha256},
            "source": self.source,
            "fingerprint": self.fingerprint,
            "classes": list(self.classes),
            "cell_lines": list(self.cell_lines),
            "split_method": self.split_method,
            "splits": {name: list(antibodies) for name, antibodies in self.splits.items()},
            "shards": [vars(shard) for shard in self.shards],
            "antibodies": list(self.antibodies),
            "genes": list(self.genes),
        }
        return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes, where: str) -> "ShardIndex":
        """Read and check the text of `index.json`.

        Args:
            text: The file's bytes.
            where: What to call the file in messages.

        Raises:
            InputError: If it is no such index, of a newer version, or names anything but plain tar files.
        """
        record = parse_json(text, where, "Copy the folder again, or delete it and run `subcell shards` again.")
        if not isinstance(record, dict) or record.get("format") != FORMAT_NAME:
            raise InputError(
                f'{where} is no index of shards: expected "format": "{FORMAT_NAME}". '
                "Give an output folder of `subcell shards`."
            )
        if record.get("version") != FORMAT_VERSION:
            raise InputError(
                f"{where} has version {record.get('version')}, this subcell_hf reads version {FORMAT_VERSION}. "
                "Update subcell_hf, or write the shards again with it."
            )
        try:
            index = cls(
                crop_format=CropFormat.from_record(record),
                antibodies=tuple(map(str, record["antibodies"])),
                genes=tuple(map(str, record["genes"])),
                classes=tuple(map(str, record["classes"])),
                cell_lines=tuple(map(str, record["cell_lines"])),
                shards=tuple(ShardEntry.from_record(entry) for entry in record["shards"]),
                cells=int(record["cells"]),
                cells_bytes=int(record["cells_table"]["bytes"]),
                cells_sha256=str(record["cells_table"]["sha256"]),
                source=str(record["source"]),
                splits={str(name): tuple(map(str, names)) for name, names in record["splits"].items()},
                split_method=str(record["split_method"]),
                fingerprint=str(record["fingerprint"]),
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{where} is incomplete or damaged ({error!r}). Copy the folder again, or delete it and run "
                "`subcell shards` again."
            ) from error
        index._check_names(where)
        return index

    def with_splits(self, splits: Mapping[str, Sequence[str]], method: str) -> "ShardIndex":
        """The same index with other splits.

        Args:
            splits: Split name → antibodies; every one must be in the index, and in one split only.
            method: How they were made, in words.

        Raises:
            InputError: If an antibody is unknown or in two splits.
        """
        index = replace(self, splits={name: tuple(names) for name, names in splits.items()}, split_method=method)
        index._check_names("The new splits")
        return index

    def _check_names(self, where: str) -> None:
        """Refuse names that could lead a reader astray."""
        for shard in self.shards:
            if not SHARD_NAME.fullmatch(shard.file):
                raise InputError(
                    f"{where} names the shard {shard.file!r}: expected a plain file name such as shard-000000.tar, "
                    "without folders, schemes or commands. Do not use shards from a source that you do not trust."
                )
        files = [shard.file for shard in self.shards]
        for what, names in (("shard", files), ("antibody", self.antibodies), ("location", self.classes)):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            if twice:
                raise InputError(f"{where} names a {what} twice: {', '.join(twice)}.")
        if len(self.genes) != len(self.antibodies):
            raise InputError(
                f"{where} has {len(self.genes)} genes for {len(self.antibodies)} antibodies, expected as many."
            )
        known, seen = set(self.antibodies), dict[str, str]()
        for split, names in self.splits.items():
            for name in names:
                if name not in known:
                    raise InputError(f"{where} puts {name} into split {split!r}, but the shards hold no such antibody.")
                if seen.setdefault(name, split) != split:
                    raise InputError(f"{where} puts {name} into the splits {seen[name]!r} and {split!r}, expected one.")
