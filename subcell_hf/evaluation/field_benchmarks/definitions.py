"""The benchmarks of the field by name: data, licence, protocol and how the data are obtained."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.plain_files import read_yaml

DEFINITIONS_FILE = "benchmarks.yaml"
WELL_KINDS = ("activity", "replicates", "mechanisms")
"""Kinds that are scored from profiles of wells by their own protocol."""

KINDS = ("perturbation", "localization", "chammi", *WELL_KINDS)
_TASKS = {
    "perturbation": ("Retrieval of perturbations", "mean_average_precision"),
    "localization": ("Protein localization", "macro_average_precision"),
    "chammi": ("Classification of cells", "f1"),
    "activity": ("Retrieval of perturbations", "mean_average_precision"),
    "replicates": ("Retrieval of perturbations", "mean_average_precision"),
    "mechanisms": ("Enrichment of mechanisms of action", "odds_ratio"),
}
"""Kind → task and metric of a model card."""


@dataclass(frozen=True)
class FieldBenchmark:
    """A published benchmark.

    Attributes:
        name: What to give to `subcell benchmark`.
        title: In words.
        kind: Which runner it has, of `KINDS`.
        licence: Of the data.
        citation: Who published it.
        data: What the input is.
        splits: How the data are divided.
        size: Of the data, as far as it is known.
        download: How to obtain them.
        checks: How the files are checked.
        protocol: What is measured.
        columns: Columns that the input must have.
        settings: Of the runner.
    """

    name: str
    title: str
    kind: str
    licence: str
    citation: str
    data: str
    splits: str
    size: str
    download: str
    checks: str
    protocol: str
    columns: tuple[str, ...]
    settings: Mapping[str, Any]

    def model_index(self, model: str, scores: Mapping[str, float]) -> dict[str, Any]:
        """The `model-index` block of a model card.

        Args:
            model: Name of the model.
            scores: Name of a score → value.
        """
        from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

        task, metric = _TASKS[self.kind]
        results = [
            EvalResult(
                task_type="image-feature-extraction",
                task_name=task,
                dataset_type=self.name,
                dataset_name=self.title,
                metric_type=metric,
                metric_name=name,
                metric_value=round(value, 4),
            )
            for name, value in scores.items()
        ]
        return {"model-index": eval_results_to_model_index(model, results)}

    def card(self) -> str:
        """The data set card, as text."""
        facts = ("data", "splits", "size", "protocol", "checks", "licence", "citation", "download")
        lines = [f"{fact}: {getattr(self, fact)}" for fact in facts]
        return "\n".join([f"{self.name}: {self.title}", *lines])


@cache
def field_benchmarks() -> dict[str, FieldBenchmark]:
    """All benchmarks by name."""
    read: dict[str, dict[str, Any]] = read_yaml(shipped_folder("annotations") / DEFINITIONS_FILE, "Install again.")
    return {name: FieldBenchmark(name, **{**facts, "columns": tuple(facts["columns"])}) for name, facts in read.items()}


def field_benchmark(name: str) -> FieldBenchmark:
    """A benchmark by its name.

    Args:
        name: One of `field_benchmarks()`.

    Raises:
        InputError: If there is no such benchmark; the message lists the names.
    """
    found = field_benchmarks().get(name)
    if found is None:
        raise InputError(f"Unknown benchmark {name!r}: expected one of {', '.join(field_benchmarks())}.")
    return found
