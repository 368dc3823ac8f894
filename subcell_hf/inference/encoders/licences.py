"""Licences of encoders' weights, which are logged before anything is downloaded."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from subcell_hf.weights.fetching import fetched_variant
from subcell_hf.weights.published_variants import download_facts

_logger = logging.getLogger(__name__)

_FREE = (
    "mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "mpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0",
)  # fmt: skip
"""Identifiers of licences that allow commercial use."""


def is_restricted(licence: str) -> bool:
    """Whether a licence may forbid some use: any but the well-known free ones.

    Args:
        licence: Identifier, as the Hub gives it.
    """
    return licence.lower() not in _FREE


def note_licence(source: str, revision: str | None = None) -> str:
    """Find the licence of a model, and warn if it restricts use or the model is gated, before it is downloaded.

    Args:
        source: Folder, or id on the Hub.
        revision: Branch, tag or commit on the Hub.

    Returns:
        Identifier of the licence; empty where it is not stated.
    """
    if Path(source).is_dir():
        return licence_of_folder(Path(source))
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().model_info(source, revision=revision, timeout=10)
    except (HfHubHTTPError, OSError):  # offline; whether the model is in the cache is found out next
        return ""
    card: Mapping[str, Any] = info.card_data.to_dict() if info.card_data else {}
    licence = str(card.get("license_name") or card.get("license") or "")
    if info.gated:
        _logger.warning("%s is gated: its conditions have to be accepted on https://huggingface.co/%s.", source, source)
    if is_restricted(licence):
        _logger.warning(
            "The licence of %s is %s: read it before you use the model or publish embeddings.",
            source, licence or "not stated",
        )  # fmt: skip
    else:
        _logger.info("The licence of %s is %s.", source, licence)
    return licence


def licence_of_folder(folder: Path) -> str:
    """The licence of a model in a folder: of a published SubCell model, or what the metadata of its card name.

    Args:
        folder: Folder of the model.

    Returns:
        Name of the licence; empty where it is not stated.
    """
    if fetched_variant(folder) is not None:
        return str(download_facts()["license"])
    with suppress(OSError, ValueError, yaml.YAMLError):
        _, metadata, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        values = yaml.safe_load(metadata)
        return str(values.get("license_name") or values.get("license") or "") if isinstance(values, dict) else ""
    return ""
