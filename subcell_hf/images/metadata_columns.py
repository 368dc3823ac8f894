"""Names of metadata columns: those that our own tables need are kept under another name."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from subcell_hf.images.tables import is_table

_RESULTS = (
    r"model|embedding|probabilities|top_location_.*|location_set|set_size|novelty_p_value|top_probability_.*|"
    r"probabilities_.*"
)
_OWN = (
    r"cell_id|label|top|left|height|width|file|index|shard|part|offset|mask_bytes|pixels_bytes|crc32|pixel_size_from|"
    r"cell_count|field_count|antibody_count|qc_.*|" + _RESULTS
)
_PREFIX = "metadata_"

Value = TypeVar("Value")


def renamed_columns(names: Iterable[str]) -> dict[str, str]:
    """Columns that tables of crops, shards or embeddings write themselves.

    Args:
        names: Of all metadata columns.

    Returns:
        Name → the name under which its values are kept, `metadata_<name>`; names that nobody needs are absent.
    """
    return {name: _PREFIX + name for name in names if re.fullmatch(_OWN, name, re.DOTALL)}


def keep_apart(metadata: Mapping[str, Value]) -> dict[str, Value]:
    """Metadata under names that no table of ours writes itself."""
    renamed = renamed_columns(metadata)
    return {renamed.get(name, name): value for name, value in metadata.items()}


def keep_apart_from_results(record: Mapping[str, Value]) -> dict[str, Value]:
    """What is known of a cell, under names that no model's results have."""
    return {_PREFIX + n if re.fullmatch(_RESULTS, n, re.DOTALL) else n: value for n, value in record.items()}


def metadata_table(source: Path, metadata: Path | None, default: str) -> Path | None:
    """The table that says what is known of images.

    Args:
        source: Folder of images, or a table that lists them.
        metadata: Table that the user gave.
        default: Name of the table that is taken where it lies in the folder.
    """
    if metadata is not None:
        return metadata
    if source.is_dir():
        source = source / default
    return source if is_table(source) and source.is_file() else None
