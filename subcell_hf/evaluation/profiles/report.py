"""The files of a perturbation benchmark: tables, figures and a page that shows them."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subcell_hf.data.atomic import write_atomically
from subcell_hf.evaluation.perturbation import PerturbationResult
from subcell_hf.evaluation.plots import save_figure
from subcell_hf.evaluation.profiles.figures import draw_grid, draw_groups

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Perturbation benchmark</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead { color: #555; margin-top: .2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 2px solid #999; }
img { max-width: min(100%, 40rem); height: auto; display: block; } .note { color: #555; font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; } dt { color: #555; } dd { margin: 0; }
</style></head><body>
<h1>Perturbation benchmark</h1>
<p class="lead">{{ summary.profiles.wells }} wells of {{ summary.profiles.plates }} plates,
{{ summary.profiles.control_wells }} of them controls; {{ summary.profiles.features_compared }} features compared.</p>
{% for heading, part in parts %}
<h2>{{ heading }}</h2>
<p><strong>Mean average precision {{ "%.3f"|format(part.mean_average_precision) }}</strong>
(95 % interval {{ "%.3f"|format(part.mean_average_precision_95[0]) }} to
{{ "%.3f"|format(part.mean_average_precision_95[1]) }}) over {{ part.groups }} groups;
{{ "%.0f"|format(100 * part.share_retrieved) }} % of the groups are above chance (q &lt; 0.05).
{% if loop.first %}With labels shuffled within plates: {{ "%.3f"|format(summary.labels_shuffled) }}.{% endif %}</p>
<p class="note">Normalised so that chance is 0: {{ "%.3f"|format(part.mean_normalized_average_precision) }}.
Interpolated: {{ "%.3f"|format(part.interpolated_mean_average_precision) }}.
{% if part.nearest_neighbour_accuracy is not none %}Nearest neighbour right:
{{ "%.3f"|format(part.nearest_neighbour_accuracy) }}{% if loop.first %} (neighbours on the same plate do not count)
{%- endif %}.{% endif %}</p>
<img src="data:image/png;base64,{{ pictures[heading] }}" alt="Mean average precision of each group">
{% endfor %}
{% for comparison in comparisons %}{% if loop.first %}<h2>Beside other tables</h2><ul>{% endif %}
<li>{{ comparison.sentence }}</li>
{% if loop.last %}</ul>{% endif %}{% endfor %}
<h2>How</h2>
<dl>{% for name, value in steps.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% if pictures.grid %}<p>The steps were chosen on other groups than those above, among these:</p>
<img src="data:image/png;base64,{{ pictures.grid }}" alt="Score of every post-processing">{% endif %}
<h2>Every group</h2><div class="scroll">{{ table }}</div>
<p class="note">p-values: copairs' permutation test; q: Benjamini and Hochberg. The files beside this page hold every
number.</p></body></html>
"""


def write_report(
    result: PerturbationResult, folder: Path, comparisons: tuple[Mapping[str, Any], ...] = ()
) -> tuple[Path, ...]:
    """Write a result: the same result, the same bytes.

    Args:
        result: Of `evaluate_perturbation`.
        folder: Where to write; made if missing, files of an earlier call are replaced.
        comparisons: Of `compare_with_baselines`, each with a `sentence`.

    Returns:
        The files.
    """
    parts = [("Replicates find each other", result.summary["replicate_retrieval"], result.replicates, "replicate_map")]
    if result.mechanisms is not None:
        parts.append(
            (
                "Perturbations of one mechanism find each other",
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
        pictures[heading] = base64.b64encode(png.read_bytes()).decode()
    files.append(write_csv(result.queries, folder / "replicate_queries.csv"))
    if result.grid is not None:
        files.append(write_csv(result.grid, folder / "grid.csv"))
        pdf, png = save_figure(draw_grid(result.grid), folder / "grid")
        files += [pdf, png]
        pictures["grid"] = base64.b64encode(png.read_bytes()).decode()
    summary = {**result.summary, "comparisons": list(comparisons)}
    with write_atomically(folder / "report.json") as file:
        file.write((json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())
    page = _render(result, [(heading, part) for heading, part, _, _ in parts], pictures, comparisons)
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
    pictures: Mapping[str, str],
    comparisons: tuple[Mapping[str, Any], ...],
) -> str:
    """The page."""
    import jinja2
    from markupsafe import Markup

    names = {
        "mean_average_precision": "mAP",
        "mean_normalized_average_precision": "normalised mAP",
        "p_value": "p",
        "corrected_p_value": "q",
        "interpolated_average_precision": "interpolated mAP",
        "nearest_neighbour_accuracy": "1-NN",
    }
    return (
        jinja2.Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            summary=result.summary,
            parts=parts,
            pictures=pictures,
            comparisons=comparisons,
            steps={
                **{name.replace("_", " "): value for name, value in result.summary["steps"].items()},
                "positives": result.summary["positives"],
                "negatives": result.summary["negatives"],
            },
            table=Markup(
                result.replicates.rename(columns=names).to_html(
                    index=False,
                    border=0,
                    escape=True,
                    float_format=lambda number: (
                        f"{number:.3f}" if number == 0 or abs(number) >= 0.0005 else f"{number:.0e}"
                    ),
                )
            ),
        )
    )
