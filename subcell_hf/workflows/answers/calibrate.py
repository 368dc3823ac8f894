"""Sets of locations with a guarantee, and novelty: a classifier's folder, calibrated on held-out antibodies."""

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from subcell_hf.cells.field_statistics import P_VALUE
from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.localization.labels import ClassScheme, location_targets
from subcell_hf.evaluation.localization.location_sets import LocationSets, choose_location_sets
from subcell_hf.evaluation.localization.novelty import calibrate_fields, calibrate_novelty
from subcell_hf.ontology import training_locations
from subcell_hf.settings import Setting
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.plain_files import read_json
from subcell_hf.tables.files import EmbeddingTable, read_table
from subcell_hf.tables.run_record import refuse_averaged

_TRAINING_SPLITS = {"train", "training", "validation", "valid", "val"}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationSettings:
    """What is guaranteed, and by which cells.

    Attributes:
        recall: Mean share of a cell's locations that are in its set, at least.
        precision: Instead of --recall: mean share of a set that is right, at least.
        confidence: Probability of this over the choice of calibration antibodies, at least.
        split: Split of the table to calibrate on; a table without splits must contain only cells that were not used
            for training.
    """

    recall: Annotated[float | None, Setting(minimum=0)] = None
    precision: Annotated[float | None, Setting(minimum=0)] = None
    confidence: Annotated[float, Setting(minimum=0)] = 0.95
    split: str = "test"


@dataclass(frozen=True)
class CalibratedClassifier:
    """A classifier whose folder carries sets of locations.

    Attributes:
        model: The folder.
        sets: Threshold and guarantee.
        cells: Number of cells that it was calibrated on.
        novelty_antibodies: Number of antibodies that p-values of novelty are calibrated on; None: there are none.
    """

    model: Path
    sets: LocationSets
    cells: int
    novelty_antibodies: int | None = None

    def describe(self) -> str:
        """The guarantee in one sentence."""
        sets = self.sets
        return (
            f"{self.model}: a location belongs to the set of a cell from a probability of {sets.threshold:.3f}; with "
            f"{sets.confidence:.0%} confidence the mean {sets.measure} over antibodies is at least {sets.target:g} "
            f"({sets.observed:.3f} on {counted(sets.antibodies, 'antibody', 'antibodies')}; median set size "
            f"{sets.median_set_size:g})."
            + (f" Novelty: p-values by {self.novelty_antibodies} antibodies." if self.novelty_antibodies else "")
        )


def calibrate(
    table: str | Path, output: str | Path, settings: CalibrationSettings, *, model: str | None = None
) -> CalibratedClassifier:
    """Calibrate sets of locations and novelty by antibody, and write both into a classifier's folder.

    Novelty is measured by the table's cells of the split `train`, or where it has none by those of half of the
    calibration antibodies, chosen at random. Too few cells or antibodies for it are a warning.

    Args:
        table: Table embedded by the classifier, with `locations` and `antibody`; see `read_table`.
        output: The classifier's folder, whose configuration is then changed, or a new folder for a copy.
        settings: What is guaranteed. Exactly one of `recall` and `precision` is set.
        model: The classifier: folder, Hub id or name; None: as the table says.

    Raises:
        InputError: If the table was not embedded by the classifier, or averages over orientations, lacks labels or
            antibodies, or has too few.
        OSError: If the folder cannot be written.
    """
    if (settings.recall is None) == (settings.precision is None):
        raise InputError("Exactly one of --recall and --precision is required, such as --recall 0.9.")
    from subcell_hf.inference.models.loading import find_models  # imports torch

    table, output = Path(table), Path(output)
    cells = read_table(table)
    named = [m for m in cells.provenance.get("models", ()) if isinstance(m, dict)]
    refuse_averaged(cells.provenance, table, "and a classifier is calibrated for cells in one orientation")
    if cells.probabilities is None or len(named) != 1:
        raise InputError(f"{table} has no probabilities of one classifier. Embed the cells with it first.")
    found = find_models(model or str(named[0]["name"]), revision=None if model else named[0].get("revision"))[0]
    if found.checksum != named[0]["weights_sha256"]:
        raise InputError(
            f"{table} was embedded by {named[0]['name']} ({named[0]['weights_sha256'][:12]}), and {found.name} is "
            f"another model ({found.checksum[:12]}). Give the classifier with --model, or embed the cells with it."
        )
    same = output.exists() and output.resolve() == found.folder.resolve()
    if not same and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not {found.folder}, the classifier: choose a new folder (--output).")
    chosen, targets = _calibration_cells(cells, table, settings.split)
    measure = "recall" if settings.recall is not None else "precision"
    sets = choose_location_sets(
        np.asarray(chosen.probabilities),
        targets,
        chosen.cells["antibody"].to_numpy(object),
        measure=measure,
        target=float(settings.recall if settings.recall is not None else settings.precision or 0),
        confidence=settings.confidence,
    )
    novelty = _calibrate_novelty(cells, chosen)
    content = {"location_sets": asdict(sets), "novelty": novelty}
    if same:
        _write_calibration(found.folder, found.folder, content)
    else:
        with write_folder_atomically(output) as folder:
            shutil.copytree(found.folder, folder, dirs_exist_ok=True)
            _write_calibration(found.folder, folder, content)
    return CalibratedClassifier(output, sets, len(chosen), novelty["antibodies"] if novelty else None)


def _calibrate_novelty(table: EmbeddingTable, chosen: EmbeddingTable) -> dict[str, Any] | None:
    """Novelty by calibration cells; None, with a warning, where that is impossible."""
    from subcell_hf.model.locations_subcell import novelty_p_values  # the island imports torch

    antibodies = chosen.cells["antibody"].to_numpy(object)
    training = (table.cells["split"] == "train").to_numpy(bool) if "split" in table.cells else np.zeros(0, np.bool_)
    used = np.ones(len(chosen), np.bool_)
    if training.any():
        known = table.select(training)
    else:
        names = np.random.default_rng(0).permutation(np.unique(antibodies.astype(str)))
        used = np.isin(antibodies.astype(str), names[len(names) // 2 :])
        known = chosen.select(~used)
    others = chosen.select(used)
    try:
        novelty = calibrate_novelty(known.embeddings, others.embeddings, antibodies[used])
    except InputError as error:
        _logger.warning("%s Tables will have no novelty_p_value.", error)
        return None
    cells = [part.cells.assign(novelty_p_value=novelty_p_values(part.embeddings, novelty)) for part in (known, others)]
    try:
        novelty["fields"] = calibrate_fields(*cells)
    except InputError as error:
        _logger.warning("%s Only cells will be compared.", error)
        return novelty
    if novelty["fields"]["columns"] == [P_VALUE]:
        _logger.warning(
            "The table has no focus of channels (qc_focus_<channel>): blur and noise will hardly be noticed. Crop the "
            "cells again, and embed them."
        )
    return novelty


def _calibration_cells(
    table: EmbeddingTable, path: Path, split: str
) -> tuple[EmbeddingTable, np.ndarray[tuple[int, int], np.dtype[np.uint8]]]:
    """Cells of the split with a location that the classifier predicts, and their targets."""
    for name in ("locations", "antibody"):
        if name not in table.cells:
            raise InputError(f"{path} has no column {name}, expected one: sets are calibrated by antibody.")
    used = np.ones(len(table), np.bool_)
    splits = table.cells["split"].astype(str) if "split" in table.cells else None
    if splits is not None and (splits != "").any():
        if split in _TRAINING_SPLITS:
            raise InputError(f"The classifier was trained on the split {split}; calibrate on another one (--split).")
        used = (splits == split).to_numpy(bool)
        if not used.any():
            raise InputError(f"{path} has no cell of the split {split!r}; it has {', '.join(sorted(set(splits)))}.")
    else:
        _logger.warning("%s has no splits: none of its antibodies may have been used to train the classifier.", path)
    classes = table.classes
    scheme = ClassScheme("the model", classes, {n: n for n in classes}, frozenset({*classes, *training_locations()}))
    targets = location_targets(table.cells["locations"].tolist(), scheme)
    labelled = used & targets.any(axis=1)
    kept = labelled & (table.cells["antibody"].astype(str) != "").to_numpy(bool)
    if not kept.any():
        raise InputError(f"{path} has no cell with an antibody and one of the {len(classes)} locations of the model.")
    if left_out := int(used.sum() - kept.sum()):
        _logger.warning(
            "%s without an antibody or a location that the model predicts left out.", counted(left_out, "cell")
        )
    return table.select(kept), targets[kept]


def _write_calibration(source: Path, folder: Path, calibration: dict[str, Any]) -> None:
    """Put a calibration into a configuration, in place of an earlier one; the weights, and so their checksum, stay."""
    from subcell_hf.model.locations_subcell import CALIBRATED  # the island imports torch

    config = read_json(source / "config.json", "Fetch the model again.")
    content = {name: value for name, value in config.items() if name not in CALIBRATED}
    content |= {name: value for name, value in calibration.items() if value is not None}
    with write_atomically(folder / "config.json") as file:
        file.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
