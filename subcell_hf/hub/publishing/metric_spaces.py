"""The metric modules as Spaces, from which `evaluate.load("owner/name")` takes them."""

from collections.abc import Sequence
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing.push import Content, collect_files

SPACE_SDK = "gradio"


def metrics_folder() -> Path:
    """Where the modules lie, one folder each."""
    return Path(__file__).parents[2] / "evaluation" / "metrics"


def metric_names() -> tuple[str, ...]:
    """Names of the modules."""
    folders = (path for path in metrics_folder().iterdir() if (path / f"{path.name}.py").is_file())
    return tuple(sorted(path.name for path in folders))


def stage_metrics(names: Sequence[str] = ()) -> dict[str, dict[str, Content]]:
    """The files of each module's Space.

    Args:
        names: Modules wanted; none means all.

    Returns:
        Name → path in the repository → file.

    Raises:
        InputError: If there is no such module, or it lacks a file that a Space needs.
    """
    unknown = sorted(set(names) - set(metric_names()))
    if unknown:
        raise InputError(f"Unknown metric {', '.join(unknown)}: expected some of {', '.join(metric_names())}.")
    staged = {}
    for name in names or metric_names():
        files = collect_files(metrics_folder() / name)
        missing = sorted({"README.md", "app.py", "requirements.txt", f"{name}.py"} - files.keys())
        if missing:
            raise InputError(f"The metric {name} lacks {', '.join(missing)}: install subcell_hf again.")
        staged[name] = files
    return staged
