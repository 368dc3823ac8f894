"""Numbers of evaluations, with their intervals, for model cards."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.storage.plain_files import read_json

RESULT_FILES = ("results.json", "report.json")
"""Files of results that `subcell evaluate` writes: localization, perturbation."""

_LOCALIZATION_METRICS = {
    "macro_map": "Macro mean average precision",
    "macro_auc": "Macro ROC-AUC",
    "micro_map": "Micro average precision",
    "lrap": "Label-ranking average precision",
    "coverage_error": "Coverage error",
}
_RETRIEVALS = {
    "replicate_retrieval": "Replicate retrieval, mAP",
    "mechanism_retrieval": "Mechanism retrieval, mAP",
}


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
    """Read the results of an evaluation.

    Args:
        path: Folder that `subcell evaluate localization` or `subcell evaluate perturbation` wrote, or the JSON file in
            it; or a JSON file `{"results": [fields of Result, …]}`.

    Returns:
        The numbers with their intervals, in the order of the file.

    Raises:
        InputError: If there is no such file, or it holds no results.
    """
    files = [path / name for name in RESULT_FILES] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(f"{path} has no {' or '.join(RESULT_FILES)}: give an output folder of `subcell evaluate`.")
    try:
        record = read_json(file)
        found = tuple(_read_record(record))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{file} contains no results ({error!r}): give an output folder of `subcell evaluate`."
        ) from error
    if not found:
        raise InputError(f"{file} contains no results for a card: evaluate the model again.")
    return found


def _read_record(record: Mapping[str, Any]) -> Iterator[Result]:
    if "results" in record:
        yield from map(result_from_mapping, record["results"])
    elif record.get("task") == "localization":
        yield from _read_localization(record)
    elif "replicate_retrieval" in record:
        yield from _read_perturbation(record)
    else:
        raise KeyError("results")


def _read_localization(record: Mapping[str, Any]) -> Iterator[Result]:
    """The model's own rows, of its first classifier; a null has no place on a card."""
    scheme = record["classes"]["scheme"]
    for row in record["scores"]:
        if row["model"] != record["model"] or row["head"] != record["head"] or row["value"] is None:
            continue
        known = row.get("low") is not None and row.get("high") is not None
        yield Result(
            dataset=f"Protein localization, {row['units']} test units ({row['level']}), classes {scheme}",
            dataset_type=f"subcell-localization-{row['level']}",
            split="test",
            metric=row["metric"],
            metric_name=f"{_LOCALIZATION_METRICS.get(row['metric'], row['metric'])}, {row['head']} on the embedding",
            value=float(row["value"]),
            low=float(row["low"]) if known else None,
            high=float(row["high"]) if known else None,
            level=0.95 if known else None,
        )


def _read_perturbation(record: Mapping[str, Any]) -> Iterator[Result]:
    profiles = record["profiles"]
    for key, words in _RETRIEVALS.items():
        found = record.get(key)
        if not found:
            continue
        interval = found.get("mean_average_precision_95") or (None, None)
        yield Result(
            dataset=f"Perturbation profiles, {profiles['wells']} wells on {profiles['plates']} plates",
            dataset_type="perturbation-profiles",
            metric=f"{key.removesuffix('_retrieval')}_map",
            metric_name=words,
            value=float(found["mean_average_precision"]),
            low=interval[0],
            high=interval[1],
            level=None if interval[0] is None else 0.95,
        )
