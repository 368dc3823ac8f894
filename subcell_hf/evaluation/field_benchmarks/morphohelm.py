"""MorphoHELM: retrieval of replicates and of mechanisms, with more and more of the technical likeness taken away.

Source: Lu, Hayir and Crawford 2026 (arXiv:2605.15383), and its code, microsoft/MorphoHELM at d79d2cf.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import hypergeom

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.normalization import normalize_plates
from subcell_hf.evaluation.perturbation.retrieval import average_precisions, nearest_neighbour_hits, unit_vectors
from subcell_hf.evaluation.perturbation.table import ProfileTable

PLATE, WELL, SOURCE, BATCH = "Metadata_Plate", "Metadata_Well", "Metadata_Source", "Metadata_Batch"

RESTRICTIONS = {
    "no restriction": (),
    "not same batch": (BATCH,),
    "not same source": (SOURCE,),
    "not same layout": (WELL,),
    "not same source layout": (SOURCE, WELL),
}
"""Restriction → columns in which a candidate has to differ from the query."""

COMPONENTS = 64
SIGNIFICANT = 0.05

_FEWEST_CONTROLS = 5
_SEED = 42
"""Of the published draws of queries, wells and compounds."""
_TOP_SHARE = 0.01
_SIMILARITIES_AT_ONCE = 2**23

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CompoundChoice:
    """Which compounds of a large collection take part.

    Attributes:
        excluded: Names of wells whose content is not known.
        most_wells: Compounds with more wells are controls, and are left out.
        wells_per_source: Wells of a compound that are taken from each source.
        compounds: Most compounds; more are drawn from.
    """

    excluded: tuple[str, ...]
    most_wells: int
    wells_per_source: int
    compounds: int


def normalize_wells(wells: ProfileTable, control: Mask) -> ProfileTable:
    """The published processing: plates standardized by all wells, 64 principal components, plates robustly by controls.

    Signs of components do not matter to what follows. Plates with fewer than 5 controls keep their components as they
    are, as in the published code.

    Args:
        wells: Profiles of wells.
        control: Which wells are negative controls, bool [wells].

    Raises:
        InputError: If there is no control, or a plate consists of equal wells.
    """
    from sklearn.decomposition import PCA

    if not control.any():
        raise InputError("None of the wells is a negative control; the protocol scales every plate by them.")
    plates = wells.column(PLATE)
    standardized, _ = normalize_plates(wells.features, plates, np.ones(len(wells), dtype=bool), "standardize")
    parts = PCA(min(COMPONENTS, *standardized.shape), svd_solver="covariance_eigh", random_state=_SEED).fit_transform(
        standardized
    )
    parts = parts[:, np.ptp(parts[control], axis=0) > 0]
    for plate in sorted(set(plates)):
        rows = plates == plate
        if (rows & control).sum() >= _FEWEST_CONTROLS:
            centre = np.median(parts[rows & control], axis=0)
            spread = 1.4826 * np.median(np.abs(parts[rows & control] - centre), axis=0)
            parts[rows] = (parts[rows] - centre) / np.maximum(spread, 1e-18)
    return wells.with_features(parts, [f"PC_{number}" for number in range(parts.shape[1])])


def choose_wells(wells: ProfileTable, groups: npt.NDArray[np.object_], choice: CompoundChoice) -> Mask:
    """Draw compounds and wells of a large collection, as the published code does.

    Compounds take part that have a candidate under every restriction, among at most two wells of each source.

    Args:
        wells: Profiles of wells.
        groups: Compound of each well; None for controls.
        choice: The numbers.

    Returns:
        Which wells take part; controls do not, bool [wells].

    Raises:
        InputError: If no compound remains.
    """
    frame = pd.DataFrame({"group": groups, **{name: wells.column(name) for name in (SOURCE, BATCH, WELL)}})
    frame = frame[frame["group"].notna() & ~frame["group"].isin(choice.excluded)]
    counts = frame["group"].value_counts()
    frame = frame[frame["group"].isin(counts.index[counts <= choice.most_wells])]
    drawn = frame.loc[_draw_wells(frame, choice)]
    eligible = sorted(name for name, own in drawn.groupby("group") if _has_candidates(own))
    if not eligible:
        raise InputError(
            "No compound has wells in two batches, two sources and two positions of the plate, which the protocol asks "
            "for. Give the profiles of all plates."
        )
    if len(eligible) > choice.compounds:
        eligible = sorted(np.random.RandomState(_SEED).choice(eligible, choice.compounds, replace=False))
    chosen = np.zeros(len(wells), dtype=bool)
    chosen[_draw_wells(frame[frame["group"].isin(eligible)], choice)] = True
    return chosen


def score_replicates(wells: ProfileTable, groups: npt.NDArray[np.object_], control: Mask) -> pd.DataFrame:
    """Retrieve wells of the same compound, under each of `RESTRICTIONS`.

    Args:
        wells: Normalized profiles of wells; cosine similarity.
        groups: Compound of each well; None for wells that take no part.
        control: Which wells are negative controls, bool [wells].

    Returns:
        One row for each restriction: `recall_at_1` over all wells that have a replicate among the candidates; `map` of
        one well of each compound, drawn, against the wells of all other compounds; `map_against_controls` of the same
        wells against the controls; and the number of wells of each, `wells`, `compounds`, `compounds_against_controls`.
        NaN where no well can be scored.

    Raises:
        InputError: If no compound has two wells, or a profile is all zeros.
    """
    vectors = unit_vectors(wells.features)
    treated = np.array([group is not None for group in groups]) & ~control
    codes = np.where(treated, pd.factorize(groups)[0], -1)
    drawn = _draw_queries(groups, treated)
    if not len(drawn):
        raise InputError("No compound has two wells, so there are no replicates to retrieve.")
    columns = {name: pd.factorize(wells.column(name))[0] for name in (SOURCE, BATCH, WELL)}
    rows = []
    for restriction, names in RESTRICTIONS.items():
        hits, precisions, against_controls = list[Numbers](), list[Numbers](), list[Numbers]()

        def candidates(queries: npt.NDArray[np.intp], names: Sequence[str] = names) -> Mask:
            allowed = np.ones((len(queries), len(vectors)), dtype=bool)
            allowed[np.arange(len(queries)), queries] = False
            for name in names:
                allowed &= columns[name][queries, None] != columns[name][None, :]
            return allowed

        for queries in _blocks(np.flatnonzero(treated), len(vectors)):
            same = codes[queries, None] == codes[None, :]
            hits.append(nearest_neighbour_hits(vectors[queries] @ vectors.T, same, candidates(queries) & treated))
        for queries in _blocks(drawn, len(vectors)):
            similarity, allowed = vectors[queries] @ vectors.T, candidates(queries)
            same = codes[queries, None] == codes[None, :]
            for scores, others in ((precisions, treated & ~same), (against_controls, control)):
                found = average_precisions(similarity, same & allowed, others & allowed)
                scores.append(np.where(found.candidates > found.positives, found.average_precision, np.nan))
        rows.append({"restriction": restriction, **_summarize(hits, precisions, against_controls)})
    return pd.DataFrame(rows)


class Enrichment(NamedTuple):
    """Whether the nearest compounds share a query's mechanism more often than the others.

    Attributes:
        compound: Of the query.
        odds_ratio: Of sharing the mechanism; 0.5 is added to all four counts if one of them is 0 (Haldane, Anscombe).
        p_value: Of as many or more of the nearest sharing it by chance, by the hypergeometric distribution. (The
            published code estimates it from 100 permutations.)
    """

    compound: str
    odds_ratio: float
    p_value: float


def score_mechanisms(wells: ProfileTable, group: str, mechanism: str, *, dense_until: str | None) -> pd.DataFrame:
    """Find compounds of the same mechanism among the nearest 1 %.

    Args:
        wells: Normalized profiles of treated wells; cosine similarity.
        group: Column of the compound.
        mechanism: Column of its mechanism; only equal texts are the same, and wells without one take no part.
        dense_until: Name of a source. The sources and mechanisms with the fewest of each other are left out one after
            the other, until this source is; and candidates from other batches and sources are scored too. None: all
            compounds, and no restriction.

    Returns:
        One row for each restriction: `fraction_significant` of the compounds (of several queries of a compound, more
        than half), `geometric_mean_odds_ratio` of the queries, `compounds`, `queries`.

    Raises:
        InputError: If no compound shares its mechanism with another, or the source is not among the wells.
    """
    named = np.array([value is not None for value in wells.column(mechanism)], dtype=bool)
    frame = pd.DataFrame({"compound": wells.column(group), "mechanism": wells.column(mechanism)})
    if dense_until is not None:
        frame = frame.assign(source=wells.column(SOURCE), batch=wells.column(BATCH))
    frame, features = frame[named].reset_index(drop=True), wells.features[named]
    if dense_until is None:
        frame, features = _means(frame, features, ["compound"])
        cutoff = max(2, (len(frame) - 1) // 100)
        return pd.DataFrame([_describe("no restriction", _enrich(frame, features, frame, features, cutoff))])
    frame, features = _means(frame, features, ["compound", "source", "batch"])
    dense = _dense(frame, dense_until)
    frame, features = frame[dense].reset_index(drop=True), features[dense]
    whole, means = _means(frame, features, ["compound"])
    cutoff = max(1, int((len(whole) - 1) * _TOP_SHARE))
    rows = [_describe("no restriction", _enrich(whole, means, whole, means, cutoff))]
    for restriction, column in (("not same batch", "batch"), ("not same source", "source")):
        found: list[Enrichment] = []
        for value in sorted(set(frame[column])):
            own = (frame[column] == value).to_numpy()
            found += _enrich(frame[own], features[own], frame[~own], features[~own], cutoff)
        rows.append(_describe(restriction, found))
    return pd.DataFrame(rows)


def _enrich(
    queries: pd.DataFrame, vectors: Numbers, candidates: pd.DataFrame, others: Numbers, cutoff: int
) -> list[Enrichment]:
    """Enrichment of each query whose mechanism another compound among the candidates has.

    A candidate compound is as similar as the most similar of its profiles.
    """
    if candidates.empty:
        return []
    codes, compounds = pd.factorize(candidates["compound"], sort=True)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(compounds)))
    mechanisms = candidates["mechanism"].to_numpy()[order[starts]]
    others = unit_vectors(others)[order]
    found = []
    vectors = unit_vectors(vectors)
    for rows in _blocks(np.arange(len(queries)), len(others)):
        similarity = np.maximum.reduceat(vectors[rows] @ others.T, starts, axis=1)
        for row, scores in zip(rows, similarity, strict=True):
            compound, mechanism = queries.iloc[row][["compound", "mechanism"]]
            candidate = np.flatnonzero(compounds != compound)
            matching = mechanisms[candidate] == mechanism
            if len(candidate) <= cutoff or not matching.any():
                continue
            nearest = matching[np.argsort(-scores[candidate], kind="stable")[:cutoff]].sum()
            found.append(Enrichment(compound, *_odds(int(nearest), cutoff, int(matching.sum()), len(candidate))))
    return found


def _odds(nearest: int, cutoff: int, matching: int, candidates: int) -> tuple[float, float]:
    """Odds ratio and p-value of so many matches among the nearest."""
    table = np.array([nearest, cutoff - nearest, matching - nearest, candidates - cutoff - matching + nearest], float)
    if not table.all():
        table += 0.5
    p_value = hypergeom.sf(nearest - 1, candidates, matching, cutoff)
    return float(table[0] * table[3] / (table[1] * table[2])), float(p_value)


def _describe(restriction: str, found: Sequence[Enrichment]) -> dict[str, object]:
    if not found:
        raise InputError(
            f"{restriction.capitalize()}: no compound shares its mechanism with another one, or there are too few "
            "compounds for a nearest 1 %."
        )
    frame = pd.DataFrame(found)
    significant = (frame["p_value"] < SIGNIFICANT).groupby(frame["compound"]).mean() > 0.5
    return {
        "restriction": restriction,
        "fraction_significant": float(significant.mean()),
        "geometric_mean_odds_ratio": float(np.exp(np.log(frame["odds_ratio"]).mean())),
        "compounds": len(significant),
        "queries": len(frame),
    }


def _dense(frame: pd.DataFrame, until: str) -> Mask:
    """Rows that remain when the sparsest sources and mechanisms are left out, until a certain source is."""
    if until not in set(frame["source"]):
        raise InputError(f"No well is of {until!r}, with which the protocol chooses sources and mechanisms.")
    has = pd.crosstab(frame["mechanism"], frame["source"]).gt(0)
    while until in has.columns:
        if has.empty:
            raise InputError(f"{until!r} has as many mechanisms as the other sources; expected fewer.")
        sources, mechanisms = has.mean(axis=0), has.mean(axis=1)
        if sources.min() < mechanisms.min():
            has = has.drop(columns=sources.idxmin())
        else:
            has = has.drop(index=mechanisms.idxmin())
    return np.asarray(frame["source"].isin(has.columns) & frame["mechanism"].isin(has.index))


def _means(frame: pd.DataFrame, features: Numbers, columns: Sequence[str]) -> tuple[pd.DataFrame, Numbers]:
    """The mean of the rows that agree in some columns, sorted by these; the mechanism is that of the first."""
    codes = frame.groupby(list(columns), sort=True).ngroup().to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 1))
    sums = np.add.reduceat(features[order], starts, axis=0) if len(starts) else features
    return frame.iloc[order[starts]].reset_index(drop=True), sums / np.diff([*starts, len(order)])[:, None]


def _summarize(hits: list[Numbers], precisions: list[Numbers], against_controls: list[Numbers]) -> dict[str, float]:
    names = (("recall_at_1", "wells"), ("map", "compounds"), ("map_against_controls", "compounds_against_controls"))
    row: dict[str, float] = {}
    for (score, number), parts in zip(names, (hits, precisions, against_controls), strict=True):
        values = np.concatenate(parts)
        values = values[~np.isnan(values)]
        row |= {score: float(values.mean()) if len(values) else np.nan, number: len(values)}
    return row


def _draw_queries(groups: npt.NDArray[np.object_], treated: Mask) -> npt.NDArray[np.intp]:
    """One well of each compound that has several."""
    rows = pd.Series(np.flatnonzero(treated)).groupby(groups[treated], sort=True)
    generator = np.random.RandomState(_SEED)
    return np.array([generator.choice(own.to_numpy()) for _, own in rows if len(own) > 1], dtype=np.intp)


def _draw_wells(frame: pd.DataFrame, choice: CompoundChoice) -> list[int]:
    """Rows of at most so many wells of each compound and source."""
    generator, kept = np.random.RandomState(_SEED), list[int]()
    for _, own in frame.groupby(["group", SOURCE], sort=True):
        rows = own.index.to_numpy()
        few = len(rows) <= choice.wells_per_source
        kept += list(rows if few else generator.choice(rows, choice.wells_per_source, replace=False))
    return kept


def _has_candidates(own: pd.DataFrame) -> bool:
    """Whether wells of a compound find each other under every restriction."""
    differ = {name: own[name].to_numpy()[:, None] != own[name].to_numpy()[None, :] for name in (SOURCE, BATCH, WELL)}
    return all(
        np.logical_and.reduce([differ[name] for name in names]).any() if names else len(own) > 1
        for names in RESTRICTIONS.values()
    )


def _blocks(rows: npt.NDArray[np.intp], width: int) -> list[npt.NDArray[np.intp]]:
    """Rows in blocks whose similarities to all profiles fit into memory."""
    size = max(1, _SIMILARITIES_AT_ONCE // max(1, width))
    return [rows[start : start + size] for start in range(0, len(rows), size)]
