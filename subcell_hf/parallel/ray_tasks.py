"""The per-field and per-shard work on Ray Data, on this machine or on a cluster; needs the extra `cluster`.

Ray schedules the tasks, and repeats a task whose worker died.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from subcell_hf.errors import InputError

ENGINES = ("local", "ray")
"""Engines: processes on this machine, or Ray."""
LARGEST_BLOCKS = 1000
"""Maximum number of blocks of a list of tasks."""


def check_engine(engine: str) -> None:
    """Refuse an engine that nobody knows.

    Raises:
        InputError: Naming those that are known.
    """
    if engine not in ENGINES:
        raise InputError(f"Unknown engine {engine!r}: choose one of {', '.join(ENGINES)}.")


def start_ray() -> Any:
    """The module `ray` with its `data`, connected to the cluster that `RAY_ADDRESS` names, or started here.

    Ray's reports of usage are off unless `RAY_USAGE_STATS_ENABLED` says otherwise; and it replaces `print`, which keeps
    numba from compiling, only where `RAY_TQDM_PATCH_PRINT` says so.

    Raises:
        InputError: If Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            f"--engine ray requires Ray ({error}). Install with: pip install 'subcell-hf[cluster]'."
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def map_on_ray(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Do something with every item, in tasks of Ray.

    Args:
        function: What to do; it and the items must pickle.
        items: What to do it with; files that they name must exist on every machine.

    Yields:
        Position of an item and what came of it, as they come.

    Raises:
        InputError: If Ray is not installed.
    """
    if not items:
        return
    ray = start_ray()
    rows = [{"item": number, "given": pickle.dumps(item)} for number, item in enumerate(items)]

    def run(row: dict[str, Any]) -> dict[str, Any]:
        return {"item": row["item"], "result": pickle.dumps(function(pickle.loads(row["given"])))}

    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), LARGEST_BLOCKS)).map(run)
    for row in data.iter_rows():
        yield int(row["item"]), pickle.loads(row["result"])
