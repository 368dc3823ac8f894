"""Numbers of evaluations, with their intervals, for model cards."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Result:
    """One number of an evaluation.

    Attributes:
        dataset: What it was measured on, in words.
        dataset_type: The same as an identifier.
        metric: Identifier of the metric.
        metric_name: In words.
        value: The number.
        low: Lower end of its interval, None where none is known.
        high: Upper end.
        level: Confidence of the interval.
        split: Part of the data.
        source_name: Who measured it, where not this run.
        source_url: Where they say so.
    """

    dataset: str
    dataset_type: str
    metric: str
    metric_name: str
    value: float
    low: float | None = None
    high: float | None = None
    level: float | None = None
    split: str | None = None
    source_name: str | None = None
    source_url: str | None = None


def result_from_mapping(values: Mapping[str, Any]) -> Result:
    """A result from its fields.

    Raises:
        InputError: If a field is missing or unknown.
    """
    known = {item.name for item in fields(Result)}
    missing = sorted({"dataset", "dataset_type", "metric", "metric_name", "value"} - values.keys())
    unknown = sorted(values.keys() - known)
    if missing or unknown:
        raise InputError(f"A result lacks {missing} and has unknown fields {unknown}: expected {sorted(known)}.")
    return Result(**values)


def read_results(path: Path) -> tuple[Result, ...]:
    """Read what an evaluation found.

    Args:
        path: `results.json`, or the folder of an evaluation with that file: `{"results": [fields of Result, …], …}`.

    Raises:
        InputError: If there is no such file, or it holds no results.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    try:
        listed = json.loads(file.read_bytes())["results"]
    except FileNotFoundError as error:
        raise InputError(f"There is no {file}: give the folder that `subcell evaluate` wrote.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} holds no results ({error!r}): give the folder that `subcell evaluate` wrote."
        ) from error
    return tuple(result_from_mapping(values) for values in listed)
