"""What commands say of the images they were given."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

_SHOWN_REASONS = 5


def say_unused(unused: Mapping[str, str]) -> None:
    """Say what is no part of any field, and why."""
    if not unused:
        return
    typer.echo(f"Not used, listed in unused.csv ({len(unused)}):")
    files: dict[str, list[str]] = {}
    for file, reason in sorted(unused.items()):
        files.setdefault(reason, []).append(file)
    for reason, of_reason in list(files.items())[:_SHOWN_REASONS]:
        others = f" and {len(of_reason) - 1} others" if len(of_reason) > 1 else ""
        typer.echo(f"  {of_reason[0]}{others}: {reason}.")


def say_pixel_sizes(record: Path) -> None:
    """Say at which pixel sizes cells were read, where nobody gave them.

    Args:
        record: `run.json` or `crops.json`.
    """
    assumed = {"HPA name": "as the Human Protein Atlas's, by their names", "model": "as the model's"}
    for size in json.loads(record.read_text(encoding="utf-8")).get("pixel_sizes", ()):
        if size["from"] in assumed:
            typer.echo(f"Pixel size of {size['cells']} cells: {size['pixel_size_um']:g} um, {assumed[size['from']]}.")


def say_doubtful_channels(found: Sequence[Mapping[str, Any]]) -> None:
    """Warn of channels that are constant or equal to another.

    Args:
        found: What `count_doubtful_channels` gives.
    """
    for row in list(found)[:_SHOWN_REASONS]:
        typer.echo(
            f"Warning: channels of {row['fields']} images, such as {row['first']}: {row['channels']}. Check that every "
            "channel has its own file (column qc_doubtful_channels).",
            err=True,
        )


def say_doubtful_channels_of(record: Path) -> None:
    """The same of a finished run.

    Args:
        record: `run.json` or `crops.json`.
    """
    say_doubtful_channels(json.loads(record.read_text(encoding="utf-8")).get("doubtful_channels", ()))
