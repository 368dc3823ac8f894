"""The files of a perturbation benchmark: tables, figures and a page that shows them."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subcell_hf.evaluation.perturbation.benchmark import PerturbationResult
from subcell_hf.evaluation.perturbation.left_out import sentences_of
from subcell_hf.evaluation.perturbation.perturbation_figures import draw_grid, draw_groups
from subcell_hf.evaluation.plots import save_figure
from subcell_hf.pages.rendering import render_page
from subcell_hf.storage.atomic import write_atomically

LEFT_OUT_FILE = "left_out.csv"

_TEMPLATES = Path(__file__).parents[1] / "templates"


def write_report(
    result: PerturbationResult,
    folder: Path,
    comparisons: tuple[Mapping[str, Any], ...] = (),
    missing: tuple[str, ...] = (),
) -> tuple[Path, ...]:
    """Write a result: the same result, the same bytes.

    Args:
        result: Of `evaluate_perturbation`.
        folder: Where to write; made if missing, files of an earlier call are replaced.
        comparisons: Of `compare_with_baselines`, each with a `sentence`.
        missing: Sentences that say which baselines are not there, and why.

    Returns:
        The files.
    """
    parts = [("Retrieval of replicates", result.summary["replicate_retrieval"], result.replicates, "replicate_map")]
    if result.mechanisms is not None:
        parts.append(
            (
                "Retrieval of mechanisms of action",
                result.summary["mechanism_retrieval"],
                result.mechanisms,
                "mechanism_map",
            )
        )
    files, pictures = [], {}
    for heading, _, table, name in parts:
        files.append(write_csv(table, folder / f"{name}.csv"))
        pdf, png = save_figure(draw_groups(table, heading), folder / name)
        files += [pdf, png]
        pictures[heading] = png.read_bytes()
    files.append(write_csv(result.queries, folder / "replicate_queries.csv"))
    files.append(write_csv(result.left_out, folder / LEFT_OUT_FILE))
    if result.grid is not None:
        files.append(write_csv(result.grid, folder / "grid.csv"))
        pdf, png = save_figure(draw_grid(result.grid), folder / "grid")
        files += [pdf, png]
        pictures["grid"] = png.read_bytes()
    summary = {**result.summary, "comparisons": list(comparisons), "missing_baselines": list(missing)}
    with write_atomically(folder / "report.json") as file:
        file.write((json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())
    page = _render(result, [(heading, part) for heading, part, _, _ in parts], pictures, comparisons, missing)
    with write_atomically(folder / "report.html") as file:
        file.write(page.encode())
    return (*files, folder / "report.json", folder / "report.html")


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table whose numbers are read back exactly."""
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
    return path


def _render(
    result: PerturbationResult,
    parts: list[tuple[str, Any]],
    pictures: Mapping[str, bytes],
    comparisons: tuple[Mapping[str, Any], ...],
    missing: tuple[str, ...],
) -> str:
    """The page."""
    names = {
        "mean_average_precision": "mAP",
        "mean_normalized_average_precision": "normalised mAP",
        "p_value": "p",
        "corrected_p_value": "q",
        "interpolated_average_precision": "interpolated mAP",
        "nearest_neighbour_accuracy": "1-NN",
    }
    table = result.replicates.rename(columns=names)
    return render_page(
        _TEMPLATES,
        "perturbation.html.j2",
        summary=result.summary,
        parts=parts,
        pictures=pictures,
        comparisons=comparisons,
        missing=missing,
        left_out=sentences_of(result.summary["left_out"], LEFT_OUT_FILE),
        steps={
            **{name.replace("_", " "): value for name, value in result.summary["steps"].items()},
            "positives": result.summary["positives"],
            "negatives": result.summary["negatives"],
        },
        columns=list(table.columns),
        rows=[[_short(value) for value in row] for row in table.itertuples(index=False)],
    )


def _short(value: Any) -> Any:
    """Three decimals of a fraction, or the size of a smaller one; anything else as it is."""
    if not isinstance(value, float):
        return value
    number = value
    return f"{number:.3f}" if number == 0 or abs(number) >= 0.0005 else f"{number:.0e}"
