"""A screen from wells to hits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.perturbation.postprocessing import describe, post_process
from subcell_hf.evaluation.perturbation.table import ProfileTable
from subcell_hf.evaluation.screening.activity import add_curves, fit_curves, measure_activity, nearest_mechanisms
from subcell_hf.evaluation.screening.annotations import Annotations, annotate
from subcell_hf.evaluation.screening.batch_correction import BatchComparison, compare_corrections
from subcell_hf.evaluation.screening.cell_counts import count_ratios, fit_count_model
from subcell_hf.evaluation.screening.dose_response import DoseCurve
from subcell_hf.evaluation.screening.locations import LocationChanges, measure_locations
from subcell_hf.evaluation.screening.permutation import Features, Pool, make_pool
from subcell_hf.evaluation.screening.positions import PositionTest, correct_positions, position_tests
from subcell_hf.evaluation.screening.quality import Mask, describe_plates, failed_controls
from subcell_hf.evaluation.screening.settings import NO_COUNTS, ScreenSettings
from subcell_hf.evaluation.screening.wells import PLATE, WELL, WellTable

_POSITION_PERMUTATIONS = 199


@dataclass(frozen=True)
class ScreenResult:
    """What was found in a screen.

    Attributes:
        hits: One row per treatment, best first; see `measure_activity` and `add_curves`.
        wells: One row per well.
        plates: One row per plate; see `describe_plates`.
        mechanisms: Nearest reference treatments of the active ones.
        curves: Treatment → fitted dose response.
        points: Treatment → dose and response of its wells.
        positions: Tests of edge, row and column, before any correction; empty where wells have no places.
        corrected_positions: The same after the correction, if it was asked for.
        batches: Comparison of batch corrections, or None.
        locations: How active treatments change locations, or None where there is no classifier.
        processed: Profiles that were compared, with metadata.
        summary: Everything else as plain data.
    """

    hits: pd.DataFrame
    wells: pd.DataFrame
    plates: pd.DataFrame
    mechanisms: pd.DataFrame
    curves: Mapping[str, DoseCurve]
    points: Mapping[str, pd.DataFrame]
    positions: tuple[PositionTest, ...]
    corrected_positions: tuple[PositionTest, ...]
    batches: BatchComparison | None
    locations: LocationChanges | None
    processed: ProfileTable
    summary: dict[str, Any] = field(default_factory=dict)


def evaluate_screen(
    table: WellTable, settings: ScreenSettings, others: Mapping[str, WellTable] | None = None
) -> ScreenResult:
    """Find the hits of a screen.

    Args:
        table: Wells with treatments.
        settings: What the columns mean and what is done.
        others: Name → other profiles of the same wells, such as classical features, tested beside the own ones.

    Raises:
        InputError: If columns are missing or wrong, or nothing can be tested.
    """
    known = annotate(table, settings)
    plates = np.unique(known.plates, return_inverse=True)[1].astype(np.intp)
    fitting, compared = _divide_controls(known, plates, settings)
    places = table.positions()
    processed, before, after = _process(table.profiles, known, fitting, places, plates, settings)
    failed = failed_controls(processed.features, compared)
    sound = compared & ~failed
    counts = table.counts if settings.count_column != NO_COUNTS else None
    profiles = {"profile": processed.features}
    ratios, share = None, None
    if counts is not None:
        usable = np.isin(plates, plates[sound])
        ratios = np.zeros(len(counts))
        ratios[usable] = count_ratios(counts[usable], plates[usable], sound[usable])
        model = fit_count_model(processed.features, ratios, known.groups())
        profiles["beyond_count"] = processed.features - model.effect()
        share = model.share
    for name, other in (others or {}).items():
        profiles[name], _, _ = _other_features(other, table, known, fitting, places, plates, settings)
    pools, left_out = _pools(known, sound, plates)
    activity = measure_activity(pools, profiles, ratios, known.doses, settings)
    main = profiles.get("beyond_count", processed.features)
    curves, points = fit_curves(activity, pools, main, known.doses, settings.level)
    hits = add_curves(activity, curves)
    locations = None
    if table.shares is not None:
        active = list(map(str, hits.loc[hits["active"], "treatment"]))
        locations = measure_locations(active, pools, table.shares, table.classes, known.doses, settings.level)
    batches = None
    if settings.judge_batches and len(set(plates)) > 1:
        treated = known.treatments.copy()
        treated[~known.treated] = None
        batches = compare_corrections(table.profiles.features, known.plates, treated, sound, settings.seed)
    quality = describe_plates(processed.features, plates, known.plates, (compared, failed, known.positive), counts)
    wells = _describe_wells(table, known, processed.features, (sound, failed, fitting), ratios, left_out, settings)
    summary = _summarize(table, known, settings, hits, wells, processed, share)
    mechanisms = nearest_mechanisms(hits, pools, main, known.mechanisms())
    found = (hits, wells, quality, mechanisms, curves, points, before, after, batches, locations, processed)
    return ScreenResult(*found, summary)


def _divide_controls(known: Annotations, plates: npt.NDArray[np.intp], settings: ScreenSettings) -> tuple[Mask, Mask]:
    """Controls that steps are fitted on, and controls that treatments are compared with: never the same ones.

    Where no step is fitted on controls, all are compared with.
    """
    steps = settings.steps
    if steps.sphering == "none" and (steps.normalization == "none" or steps.reference == "all"):
        return np.zeros(len(plates), dtype=bool), known.control
    generator = np.random.default_rng([settings.seed, 5])
    fitting = np.zeros(len(plates), dtype=bool)
    for plate in np.unique(plates):
        there = generator.permutation(np.flatnonzero(known.control & (plates == plate)))
        fitting[there[: len(there) // 2]] = True
    return fitting, known.control & ~fitting


def _process(
    profiles: ProfileTable,
    known: Annotations,
    fitting: Mask,
    places: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None,
    plates: npt.NDArray[np.intp],
    settings: ScreenSettings,
) -> tuple[ProfileTable, tuple[PositionTest, ...], tuple[PositionTest, ...]]:
    """Processed profiles, and tests of positions before and after their correction."""
    processed = post_process(profiles, known.plates, fitting, settings.steps)
    if places is None:
        if settings.correct_position:
            raise InputError(
                "--correct-position needs wells such as A01, but some have other names. Name wells by row and column."
            )
        return processed, (), ()
    rows, columns = places
    options: dict[str, Any] = {"permutations": _POSITION_PERMUTATIONS, "seed": settings.seed}
    before = position_tests(processed.features, rows, columns, plates, **options)
    if not settings.correct_position:
        return processed, before, ()
    corrected = processed.with_features(correct_positions(processed.features, rows, columns, plates))
    return corrected, before, position_tests(corrected.features, rows, columns, plates, **options)


def _other_features(
    other: WellTable,
    table: WellTable,
    known: Annotations,
    fitting: Mask,
    places: Any,
    plates: Any,
    settings: ScreenSettings,
) -> tuple[Features, Any, Any]:
    """Other profiles of the same wells, in the same order and processed in the same way."""
    own = {place: row for row, place in enumerate(_places(other))}
    missing = [place for place in _places(table) if place not in own]
    if missing:
        raise InputError(
            f"The other profiles lack {counted(len(missing), 'well')} of the screen, such as {'/'.join(missing[0])}; "
            "expected the same wells. Name plates and wells alike in both."
        )
    aligned = other.profiles.select(np.array([own[place] for place in _places(table)], dtype=np.intp))
    processed, before, after = _process(aligned, known, fitting, places, plates, settings)
    return processed.features, before, after


def _places(table: WellTable) -> list[tuple[str, str]]:
    return list(zip(map(str, table.profiles.column(PLATE)), map(str, table.profiles.column(WELL)), strict=True))


def _pools(
    known: Annotations, sound: Mask, plates: npt.NDArray[np.intp]
) -> tuple[dict[str, Pool], npt.NDArray[np.object_]]:
    """The pool of every treatment that can be tested, and why other wells were left out (text, empty where not)."""
    reasons = np.where(known.treated | known.control | known.positive, "", "no treatment").astype(object)
    has_controls = np.isin(plates, plates[sound])
    reasons[known.treated & ~has_controls] = "no sound control on its plate"
    usable = known.treated & has_controls
    pools = {}
    controls = np.flatnonzero(sound)
    rows_of = pd.Series(np.flatnonzero(usable)).groupby(known.treatments[usable].astype(str)).agg(list)
    for name, rows in rows_of.items():
        if len(rows) < 2:
            reasons[rows] = "the only well of its treatment"
            continue
        pools[str(name)] = make_pool(np.array(rows, dtype=np.intp), controls, plates)
    if not pools:
        found = next((reason for reason in reasons if reason), "no treated wells")
        raise InputError(
            f"No treatment can be tested ({found}); expected at least two wells of a treatment on plates with controls."
        )
    return pools, reasons


def _describe_wells(
    table: WellTable,
    known: Annotations,
    features: Features,
    controls: tuple[Mask, Mask, Mask],
    ratios: Features | None,
    left_out: npt.NDArray[np.object_],
    settings: ScreenSettings,
) -> pd.DataFrame:
    """One row per well."""
    sound, failed, fitting = controls
    centre = np.median(features[sound], axis=0)
    distances = np.linalg.norm(features - centre, axis=1)
    roles = np.select(
        [failed, sound, fitting, known.positive, known.treated],
        ["failed control", "control", "control (fitted on)", "positive control", "treated"],
        "other",
    )
    wells = pd.DataFrame(
        {
            "plate": known.plates,
            "well": table.profiles.column(WELL),
            "treatment": known.treatments,
            "dose": known.doses,
            "role": roles,
            "distance": distances / max(float(np.median(distances[sound])), 1e-300),
        }
    )
    if table.counts is not None:
        wells["cell_count"] = table.counts
        wells["few_cells"] = table.counts < settings.min_cells
    if ratios is not None:
        wells["count_ratio"] = 2**ratios
    wells["left_out"] = left_out
    return wells


def _summarize(
    table: WellTable,
    known: Annotations,
    settings: ScreenSettings,
    hits: pd.DataFrame,
    wells: pd.DataFrame,
    processed: ProfileTable,
    share: float | None,
) -> dict[str, Any]:
    """Numbers of the screen as plain data."""
    few = wells[wells["few_cells"]] if "few_cells" in wells else wells.iloc[:0]
    return {
        "wells": len(wells),
        "plates": len(set(known.plates)),
        "control_wells": int(known.control.sum()),
        "positive_control_wells": int(known.positive.sum()),
        "treatments": len(hits),
        "hits": int(hits["active"].sum()),
        "explained_by_count": sum(value is True for value in hits["explained_by_count"]),
        "features": len(table.profiles.names),
        "features_compared": len(processed.names),
        "rows_are_cells": table.rows_are_cells,
        "counts_known": share is not None,
        "count_share": share,
        "steps": describe(settings.steps),
        "position_corrected": settings.correct_position,
        "level": settings.level,
        "permutations": settings.permutations,
        "seed": settings.seed,
        "failed_controls": [f"{row.plate}/{row.well}" for row in wells[wells["role"] == "failed control"].itertuples()],
        "wells_with_few_cells": [f"{row.plate}/{row.well}" for row in few.itertuples()],
        "min_cells": settings.min_cells,
        "left_out": {str(k): int(v) for k, v in wells.loc[wells["left_out"] != "", "left_out"].value_counts().items()},
    }
