"""The `subcell` command: one thin sub-command per job, sorted by room.

Rooms are imported only when their command runs, so that help is quick.
"""

import os
import platform
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from subcell_hf.cli import data, evaluation, hub, inference, tables, training
from subcell_hf.cli.options import add_command
from subcell_hf.errors import InputError
from subcell_hf.process import ending_plainly

# Files appear under their names when they are complete, so HDF5 need not lock them; some file systems cannot.
os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")


_HOME = re.compile(r"^(--[\w-]+=|)~(?=/|$)")


def _put_home(found: re.Match[str]) -> str:
    try:
        return f"{found[1]}{Path.home()}"
    except RuntimeError:  # this user has no home
        return found[0]


class _Commands(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command; shells leave the ~ of `--output=~/out` as it is."""
        return super().parse_args(ctx, [_HOME.sub(_put_home, word) for word in args])

    def invoke(self, ctx: Any) -> Any:
        """Run a command; wrong input, or a disk that fails, ends with its message and exit code 2."""
        with ending_plainly():
            if platform.system() == "Windows":
                raise InputError("subcell runs on Linux and macOS. On Windows use it in WSL, the Linux of Windows.")
            return super().invoke(ctx)


app = typer.Typer(
    name="subcell",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    json_progress: Annotated[bool, typer.Option("--json-progress", help="Write progress as lines of JSON.")] = False,
) -> None:
    """SubCell: embeddings and protein locations from fluorescence images of cells."""
    if json_progress:
        from subcell_hf.progress import show_progress_as_json

        show_progress_as_json()
    if version:
        from subcell_hf import __version__

        typer.echo(__version__)
        raise typer.Exit


COMMANDS = (
    data.examples, data.simulate, data.inspect, data.crops, data.shards, data.shards_inspect, data.splits, data.views,
    training.recipes,
    inference.doctor, inference.encoders, inference.embed, inference.optimize,
    tables.aggregate, tables.portable, tables.table, tables.report, tables.search, tables.calibrate, tables.annotate,
    evaluation.screen, evaluation.baselines, evaluation.benchmark,
    hub.fetch, hub.convert, hub.untrained, hub.export, hub.push, hub.push_shards, hub.push_metrics, hub.publish,
    hub.sheet, hub.serve, hub.demo,
)  # fmt: skip
"""In the order in which `subcell --help` lists them."""

for command in COMMANDS:
    add_command(app, command)
add_command(app, evaluation.proteome_map, "map")
app.add_typer(evaluation.evaluate)
