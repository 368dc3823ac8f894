"""What several commands take: settings classes whose fields become options, and types with a name or a limit."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf import images, shards, workflows
from subcell_hf.cli.options import Without
from subcell_hf.settings import Setting

Table = Annotated[Path, Setting(metavar="TABLE")]
Folder = Annotated[Path, Setting(metavar="DIR")]
Count = Annotated[int, Setting(minimum=1)]
Seed = Annotated[int, Setting(minimum=0)]
AsJson = Annotated[bool, Setting("--json")]

ImageOptions = Annotated["images.ReadingOptions", Without("channels", "max_decoded_bytes")]
ImageOptionsWithChannels = Annotated["images.ReadingOptions", Without("max_decoded_bytes")]
ShardOptions = Annotated["shards.ShardSettings", Without("fields_per_group", "split_by")]
PushOptions = Annotated["workflows.PushOptions", Without("message")]
NewSpaces = Annotated["workflows.PushOptions", Without("revision", "create_revision", "message")]


@dataclass(frozen=True)
class CroppingRun:
    """How images are cropped, by the commands whose result depends on nothing else.

    Attributes:
        segmentation: Segmentation of fields without masks: watershed, cellpose, stardist, or a Python function,
            file.py:function or module:function.
        workers: Number of parallel processes.
        engine: local, or ray: Ray Data on this machine or on a cluster.
        strict: Stop at the first field that cannot be used, instead of skipping it.
    """

    segmentation: str = "watershed"
    workers: Count = 1
    engine: str = "local"
    strict: bool = False


def show_skipped(reasons: Iterable[str]) -> None:
    """Show the first reasons why inputs were skipped."""
    for reason in islice(reasons, 5):
        typer.echo(f"Skipped: {reason}", err=True)
