"""What is known of the published cells, and of the antibodies that the published models were trained on."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.shards.splits import read_published_splits
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.downloads.cached_files import cache_folder
from subcell_hf.storage.downloads.files import FileFacts, download_file
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.plain_files import read_yaml

PREFIX = "hpa:"
"""Beginning of an input that names the published cells; the address of a mirror, or a folder, may follow."""


@dataclass(frozen=True)
class PublishedCellFacts:
    """What is known of the published cells.

    Attributes:
        base_url: Address of their files.
        source: Where the images come from, in words.
        license: Of the images.
        cells: How many there are, in words.
        bytes_per_cell: Size of a crop and its mask, on average, about.
        channels_of_rgba: Colour name of the red, green, blue and alpha of a crop.
        pixel_size_um: Edge of a pixel in micrometres.
    """

    base_url: str
    source: str
    license: str
    cells: str
    bytes_per_cell: int
    channels_of_rgba: tuple[str, ...]
    pixel_size_um: float


@cache
def published_cell_facts() -> PublishedCellFacts:
    """The facts of `model_cards/published.yaml`."""
    shared = read_yaml(shipped_folder("model_cards") / "published.yaml", "Install subcell-hf again.")
    facts: dict[str, Any] = shared["cells"]
    return PublishedCellFacts(**{**facts, "channels_of_rgba": tuple(facts["channels_of_rgba"])})


def published_place(source: str) -> str | None:
    """Address or folder of the published cells that an input names; None for any other input.

    Args:
        source: `hpa:` for the public bucket, `hpa:https://…` for a mirror, `hpa:FOLDER` for a copy.
    """
    if not source.startswith(PREFIX):
        return None
    return source.removeprefix(PREFIX).rstrip("/") or published_cell_facts().base_url


def antibodies_of_split(split: str | None) -> list[str] | None:
    """Antibodies of a published split; None for None. See `fetch_published_splits`.

    Raises:
        InputError: If there is no such split, or a list cannot be had.
    """
    if split is None:
        return None
    lists = fetch_published_splits()
    if split not in lists:
        raise InputError(f"There is no published split {split!r}, expected one of {', '.join(lists)}.")
    return lists[split]


def fetch_published_splits() -> dict[str, list[str]]:
    """The antibody lists of the published models, downloaded once and compared with their checksums.

    Lists that lie in `subcell/splits` of Hugging Face's cache (`HF_HOME`) already are not downloaded.

    Returns:
        `train`, `validation` and `test` → antibodies, sorted.

    Raises:
        InputError: If a list cannot be had, or is not the published one.
        OSError: If the cache cannot be written.
    """
    folder = cache_folder() / "splits"
    published = json.loads((shipped_folder("annotations") / "splits" / "published.json").read_text(encoding="utf-8"))
    with claim_folder(folder, wait=True):
        for entry in published["lists"].values():
            if not (folder / entry["file"]).is_file():
                expected = FileFacts(entry["bytes"], entry["sha256"])
                url = f"{published['url']}/{entry['file']}"
                try:
                    download_file(url, folder / entry["file"], expected, progress=False)
                except InputError as error:
                    raise InputError(
                        f"{error} Or copy the lists of {published['source']} to {folder}, or make other splits "
                        "(--split-by gene)."
                    ) from error
        return read_published_splits(folder)
