"""The page of a training run: curves, metrics, pictures and speed, in a single file that works offline.

It is drawn from the trainer's log history, the tables in `validation/` and the pictures in `monitoring/`, and keeps no
other state: after a resume it equals the page of an uninterrupted run.
"""

import base64
import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from subcell_hf.pages.rendering import render_page
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.training.monitoring.charts import Series, draw_lines, draw_stack, to_png, to_svg
from subcell_hf.training.monitoring.model_pictures import BRIGHTEST
from subcell_hf.training.monitoring.throughput import PHASES

MOST_MOMENTS = 8
"""Maximum number of pictures of one kind on the page: first, last, and evenly spaced; the folder contains all."""

_ALBUMS = {
    "reconstruction": (
        "Reconstruction",
        "Grey patches are hidden; the last column shows their reconstruction by the decoder.",
    ),
    "attention": (
        "Attention of the pooling",
        f"Weight of each patch in the embedding; {BRIGHTEST} times the mean or more is brightest.",
    ),
    "features": (
        "Patch features",
        "Patches of similar colour have similar features: the first three principal components over all cells shown.",
    ),
}
_COMPONENTS = {
    "reconstruction": "Reconstruction",
    "cell_contrast": "Cell contrast",
    "protein_contrast": "Protein contrast",
    "protein_centroid": "Protein centroid",
    "probe": "Probe (focal)",
}


@dataclass(frozen=True)
class RunFacts:
    """Contents of the page in addition to the log of a run.

    Attributes:
        folder: Of the run.
        summary: What is trained, in a line.
        weights: Component of the loss → its weight in the sum.
        step: Optimizer steps taken.
        total_steps: Optimizer steps of the whole run.
        validation_cells: Cells of the validation split.
        status: `"training"`, `"finished"` or `"stopped"`.
        version: Of this package.
    """

    folder: Path
    summary: str
    weights: Mapping[str, float]
    step: int
    total_steps: int
    validation_cells: int
    status: str
    version: str


def write_run_page(facts: RunFacts, history: Sequence[Mapping[str, Any]]) -> Path:
    """Write `monitoring/index.html` and `monitoring/loss_curves.png`, each whole or not at all.

    Args:
        facts: Of the run.
        history: Lines of the log as `TrainerState.log_history` keeps them.

    Returns:
        The page.
    """
    trained = [line for line in history if "loss" in line]
    validated = [line for line in history if "eval_macro_auprc" in line]
    sections = {
        "losses": _losses(trained, facts.weights),
        "probe": _probe(validated),
        "optimization": _optimization(trained),
        "speed": _speed(trained),
    }
    text = render_page(
        Path(__file__).parent,
        "run_page.html.j2",
        name=facts.folder.resolve().name,
        status=facts.status,
        summary=facts.summary,
        percent=round(100 * facts.step / max(facts.total_steps, 1), 1),
        progress=_describe_progress(facts, trained),
        figures=_key_figures(trained, validated),
        sections=sections,
        locations=_locations(facts, validated),
        albums=_albums(facts),
        version=facts.version,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        step=facts.step,
    )
    page = facts.folder / "monitoring" / "index.html"
    with write_atomically(page) as file:
        file.write(text.encode())
    if trained:
        with write_atomically(facts.folder / "monitoring" / "loss_curves.png") as file:
            file.write(to_png(draw_lines(_components(trained) or [_series(trained, "loss")], smooth=True)))
    return page


def _series(lines: Sequence[Mapping[str, Any]], name: str, label: str | None = None) -> Series:
    """What was logged under a name; a score that is not defined on its cells is not a point."""
    chosen = [line for line in lines if line.get(name) is not None and not math.isnan(line[name])]
    return Series(label or name, [line["step"] for line in chosen], [float(line[name]) for line in chosen])


def _components(trained: Sequence[Mapping[str, Any]]) -> list[Series]:
    names = list(dict.fromkeys(name for line in trained for name in line if name.startswith("loss_")))
    return [_series(trained, name, _COMPONENTS.get(name[5:], name[5:])) for name in names]


def _chart(title: str, note: str, series: Sequence[Series], **options: Any) -> dict[str, Any]:
    return {"title": title, "note": note, "svg": Markup(to_svg(draw_lines(series, **options)))}  # our own drawing


def _losses(trained: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> dict[str, Any]:
    charts = []
    if trained:
        charts.append(_chart("Weighted sum", "total loss", [_series(trained, "loss")], smooth=True))
    for name, label in _COMPONENTS.items():
        found = _series(trained, f"loss_{name}", label)
        if found.steps:
            charts.append(_chart(label, f"weight {weights.get(name, 0):g}", [found], smooth=True))
    explanation = "Each component before weighting, averaged over the steps between two log entries."
    return {"title": "Loss", "explanation": explanation, "charts": charts}


def _probe(validated: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    charts = []
    if validated:
        metrics = {
            "eval_macro_auprc": ("Macro AUPRC", "mean average precision over locations"),
            "eval_label_ranking_average_precision": ("Label ranking", "average precision of each cell's ranking"),
            "eval_top5": ("Top-5", "cells with a true location among the five highest"),
        }
        found = {name: _series(validated, name) for name in metrics}
        charts = [_chart(*metrics[name], [points], low=0, high=1) for name, points in found.items() if points.steps]
    explanation = (
        "A small classifier of protein locations is trained on the frozen embedding. These are its scores on "
        "antibodies of the validation split, which are not used in training. A score that is not defined there is left "
        "out: average precision needs a location that some cells have and others have not."
    )
    return {"title": "Probe on the frozen embedding", "explanation": explanation, "charts": charts}


def _optimization(trained: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    charts = []
    for name, title, note in (
        ("learning_rate", "Learning rate", "rises in the warm-up, then falls"),
        ("grad_norm", "Gradient norm", "before clipping"),
    ):
        found = _series(trained, name, title)
        if found.steps:
            charts.append(_chart(title, note, [found], low=0, smooth=name == "grad_norm"))
    return {"title": "Optimization", "explanation": "Learning rate and gradient norm.", "charts": charts}


def _speed(trained: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    timed = [line for line in trained if "step_s" in line]
    charts = []
    if timed:
        charts.append(_chart("Cells per second", "all processes together", [_series(timed, "cells_per_s")], low=0))
        phases = [_series(timed, f"{phase}_s", phase) for phase in PHASES]
        stack = Markup(to_svg(draw_stack(phases, "s")))
        charts.append({"title": "Time of a step", "note": "data: waiting for the data loader", "svg": stack})
    for name, title, note, options in (
        ("mfu", "Model FLOPs utilization", "of the device's peak", {"percent": True}),
        ("memory_gib", "Memory", "GiB of this process", {}),
        (
            "gpu_utilization",
            "GPU utilization",
            "fraction of the time, reported by the driver",
            {"percent": True, "high": 1},
        ),
    ):
        found = _series(timed, name, title)
        if found.steps:
            charts.append(_chart(title, note, [found], low=0, **options))
    explanation = "Training steps only: validation, checkpoints and pictures are not included."
    return {"title": "Speed", "explanation": explanation, "charts": charts}


def _key_figures(trained: Sequence[Mapping[str, Any]], validated: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    figures = []
    if trained:
        figures.append(
            {"label": "loss", "value": f"{trained[-1]['loss']:.4g}", "note": f"{trained[0]['loss']:.4g} at the start"}
        )
    if validated:
        scores = _series(validated, "eval_macro_auprc")
        best = max(zip(scores.values, scores.steps, strict=True), key=lambda point: point[0], default=None)
        figures.append(
            {
                "label": "macro AUPRC, best",
                "value": f"{best[0]:.3f}" if best else "–",
                "note": f"at step {best[1]}, now {scores.values[-1]:.3f}" if best else "not defined on these cells",
            }
        )
    timed = [line for line in trained if "step_s" in line]
    if timed:
        last = timed[-1]
        waiting = f"{last['data_s'] / last['step_s']:.0%} waiting for data"
        figures.append({"label": "cells per second", "value": f"{last['cells_per_s']:.4g}", "note": waiting})
        if "mfu" in last:
            figures.append(
                {"label": "of the device's peak", "value": f"{last['mfu']:.0%}", "note": "FLOPs utilization"}
            )
        figures.append({"label": "memory", "value": f"{last['memory_gib']:.3g} GiB", "note": "of one process"})
    return figures


def _describe_progress(facts: RunFacts, trained: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"step {facts.step} of {facts.total_steps}"]
    if trained and trained[-1].get("epoch") is not None:
        parts.append(f"epoch {trained[-1]['epoch']:.4g}")
    if trained and "step_s" in trained[-1] and facts.status == "training":
        parts.append(f"about {_duration((facts.total_steps - facts.step) * trained[-1]['step_s'])} of steps left")
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    for length, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _locations(facts: RunFacts, validated: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The per-class table of the newest validation."""
    tables = {int(match[1]): path for path in (facts.folder / "validation").glob("*.csv")
              if (match := re.search(r"-(\d+)\.csv$", path.name)) and int(match[1]) <= facts.step}  # fmt: skip
    if not tables or not validated:
        return None
    step = max(tables)
    with tables[step].open(encoding="utf-8", newline="") as file:
        rows = [
            {
                "location": row["location"],
                "positives": int(row["positives"]),
                "precision": float(row["average_precision"]) if row["average_precision"] else None,
                "chance": int(row["positives"]) / facts.validation_cells,
            }
            for row in csv.DictReader(file)
        ]
    present = [row for row in rows if row["positives"]]
    absent = ", ".join(str(row["location"]) for row in rows if not row["positives"])
    return {"step": step, "rows": present, "absent": absent}


def _albums(facts: RunFacts) -> list[dict[str, Any]]:
    albums = []
    for kind, (title, note) in _ALBUMS.items():
        found = sorted((facts.folder / "monitoring" / "pictures").glob(f"{kind}-*.png"))
        found = [path for path in found if _step_of(path) <= facts.step]
        if found:
            pictures = [_embed(path) for path in _evenly(found, MOST_MOMENTS)]
            albums.append({"title": title, "note": note, "pictures": pictures})
    return albums


def _step_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """At most so many, first and last among them."""
    if len(paths) <= most:
        return list(paths)
    return [paths[round(number * (len(paths) - 1) / (most - 1))] for number in range(most)]


def _embed(path: Path) -> dict[str, Any]:
    picture, file = Image.open(path), io.BytesIO()
    picture.save(file, format="WEBP", quality=82)
    data = base64.b64encode(file.getvalue()).decode()
    return {"step": _step_of(path), "data": data, "width": picture.width, "height": picture.height}
