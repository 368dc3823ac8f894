"""What the annotation page shows: pictures and a map, made once, and the state of the labels, made for every answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation.annotation_session import AnnotationSession, TrainedState
from subcell_hf.evaluation.annotation.label_records import LABEL, REMOVE, RENAME, UNDO
from subcell_hf.evaluation.annotation.proposals import STRATEGIES
from subcell_hf.pages.rendering import render_page
from subcell_hf.report.columns import page_columns
from subcell_hf.report.projection import project_cells
from subcell_hf.tables.cell_pictures import PICTURES_FILE, iterate_pictures

MOST_SHOWN = 20_000
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class PageContent:
    """What is made once.

    Attributes:
        html: The page.
        rows: Row of the table of each cell that is shown, `[shown]`.
        pictures: PNG of each of them.
    """

    html: str
    rows: npt.NDArray[np.int64]
    pictures: Sequence[bytes]


def read_picture_bytes(folder: Path) -> dict[str, bytes]:
    """Pictures of the cells of a run, at most 20,000.

    Args:
        folder: Output folder of `subcell embed`.

    Returns:
        Id of a cell → PNG.

    Raises:
        InputError: If the run kept none.
    """
    path = (folder if folder.is_dir() else folder.parent) / PICTURES_FILE
    if not path.is_file():
        raise InputError(
            f"{path} does not exist, expected pictures of the cells. Embed again with --pictures 2000, or give the "
            "output folder of `subcell embed`."
        )
    found: dict[str, bytes] = {}
    for picture in iterate_pictures(path):
        found[picture.cell_id] = picture.composite
        if len(found) == MOST_SHOWN:
            break
    return found


def make_page(session: AnnotationSession, pictures: Mapping[str, bytes], title: str) -> PageContent:
    """Lay the cells out on a map and fill the template.

    Args:
        session: With the table.
        pictures: Id of a cell → PNG.
        title: Headline.

    Raises:
        InputError: If no cell of the table has a picture.
    """
    rows = np.array([row for row, cell in enumerate(session.cell_ids) if cell in pictures], dtype=np.int64)
    if len(rows) == 0:
        raise InputError("No cell of the table has a picture. Give the output folder of one run of `subcell embed`.")
    cells = session.table.cells.iloc[rows].reset_index(drop=True)
    layout = project_cells(session.table.embeddings[rows], session.settings.seed)
    x, y = (np.round(axis * 10_000).astype(int).tolist() for axis in layout.positions.T)
    data = {
        "ids": [session.cell_ids[row] for row in rows],
        "x": x,
        "y": y,
        "columns": page_columns(cells),
        "annotator": session.annotator,
        "strategies": list(STRATEGIES),
        "key": sha256(f"{session.file.path.absolute()}".encode()).hexdigest()[:16],
    }
    html = render_page(
        _TEMPLATES,
        "annotate.html.j2",
        title=title,
        data=data,
        map_method=layout.method,
        cells=len(session.table),
        shown=len(rows),
        encoder=str(session.encoder),
        other_encoders=session.other_encoders(),
    )
    return PageContent(html, rows, [pictures[session.cell_ids[row]] for row in rows])


def page_state(session: AnnotationSession, content: PageContent) -> dict[str, Any]:
    """What the page knows of labels and classifier, as JSON has it.

    Labels are those of this moment; predictions, estimate and proposals those of the last training.

    Args:
        session: With labels.
        content: Of the page; cells are numbered by their place in it.
    """
    state, merged = session.state, session.merged()
    number_of = {session.cell_ids[row]: number for number, row in enumerate(content.rows)}
    place = {name: number for number, name in enumerate(merged.classes)}
    undone = {record.undoes for record in session.records() if record.action == UNDO}
    own = [
        {"id": one.id, "cell": number_of.get(one.cell_id, -1)}
        for one in session.records()
        if one.action in (LABEL, RENAME, REMOVE) and one.by == session.annotator and one.id not in undone
    ]
    counts = dict.fromkeys(merged.classes, 0)
    for name in merged.labels.values():
        counts[name] += 1
    return {
        "classes": [{"name": name, "labels": count} for name, count in counts.items()],
        "labels": {number_of[cell]: place[name] for cell, name in merged.labels.items() if cell in number_of},
        "labelled": len(merged.records),
        "undoable": own[-50:],
        "disagreements": [
            {"cell": number_of[cell], "said": dict(said)}
            for cell, said in merged.disagreements.items()
            if cell in number_of
        ],
        "compared": merged.compared,
        "strategy": session.strategy,
        "elsewhere": len([cell for cell in merged.records if cell not in session.row_of]),
        **_prediction(state, content, place),
    }


def _prediction(state: TrainedState, content: PageContent, place: Mapping[str, int]) -> dict[str, Any]:
    """What follows from the last training."""
    number_of_row = {int(row): number for number, row in enumerate(content.rows)}
    proposals = [
        {"cell": number_of_row[one.row], "reason": one.reason} for one in state.proposals if one.row in number_of_row
    ]
    if state.classifier is None or state.probabilities is None:
        return {"proposals": proposals, "predicted": [], "probability": [], "estimate": None}
    shown = state.probabilities[content.rows]
    best = shown.argmax(axis=1)
    numbers = np.array([place.get(name, -1) for name in state.classifier.classes])
    found = state.estimate
    estimate = None
    if found is not None:
        estimate = {
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "accuracy": found.accuracy,
            "cells": found.cells,
            "groups": found.groups,
            "groupedBy": "antibodies" if found.grouped_by == "antibody" else "fields",
            "random": found.chosen_at_random,
            "recall": dict(found.recall),
            "support": dict(found.support),
            "notEstimated": list(found.not_estimated),
        }
    return {
        "proposals": proposals,
        "predicted": numbers[best].tolist(),
        "probability": np.round(shown[np.arange(len(best)), best].astype(float), 3).tolist(),
        "estimate": estimate,
    }
