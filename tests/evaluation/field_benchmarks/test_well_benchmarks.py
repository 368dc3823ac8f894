"""MorphoHELM, and the JUMP pilot as in CHAMMI-75, on simulated wells, against naive loops and copairs."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from copairs import map as copairs_map
from copairs.matching import assign_reference_index
from scipy.stats import permutation_test
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.field_benchmarks.jump_activity import sphere_by_controls
from subcell_hf.evaluation.field_benchmarks.morphohelm import (
    RESTRICTIONS,
    CompoundChoice,
    choose_wells,
    normalize_wells,
    score_mechanisms,
    score_replicates,
)
from subcell_hf.evaluation.perturbation.table import ProfileTable
from subcell_hf.tables.files import EmbeddingTable, write_parquet
from subcell_hf.workflows.evaluation.run_field_benchmark import run_field_benchmark
from tests.evaluation.perturbation.simulated_profiles import simulate_wells, write_wells

DMSO = "JCP2022_033924"


def jump_wells(*, compounds: int = 20, features: int = 80, seed: int = 0) -> ProfileTable:
    """Wells of three sources with two batches of two plates, the second one in another layout.

    The last source has half of the compounds, of pairs of compounds with one mechanism.
    """
    random = np.random.default_rng(seed)
    of_mechanism, of_compound = random.normal(size=(2, compounds, features))
    rows, profiles = [], []
    for plate in range(12):
        source, batch, layout = plate // 4, plate // 2, plate % 2
        shift = random.normal(size=features)
        for well in range(compounds + 6):
            compound = (well + 3 * layout) % compounds if well < compounds else None
            if compound is not None and ((source == 2 and compound >= compounds // 2) or random.random() < 0.2):
                continue
            effect = 0 if compound is None else of_mechanism[compound // 2] + of_compound[compound]
            profiles.append(effect + shift + random.normal(size=features))
            rows.append(
                {
                    "Metadata_JCP2022": DMSO if compound is None else f"compound {compound:02d}",
                    "Metadata_MoA": None if compound is None else f"mechanism {compound // 2}",
                    "Metadata_Source": f"source_{source + 8}",
                    "Metadata_Batch": f"batch {batch}",
                    "Metadata_Plate": f"plate {plate}",
                    "Metadata_Well": f"A{well:02d}",
                    "Metadata_cell_count": str(100 + len(rows)),
                }
            )
    names = tuple(f"feature_{number}" for number in range(features))
    return ProfileTable(pd.DataFrame(rows, dtype=object).replace({np.nan: None}), np.array(profiles), names)


@pytest.fixture(scope="module")
def wells() -> ProfileTable:
    return jump_wells()


def controls_of(wells: ProfileTable) -> np.ndarray:
    return np.asarray(wells.column("Metadata_JCP2022") == DMSO)


def groups_of(wells: ProfileTable) -> np.ndarray:
    return np.where(controls_of(wells), None, wells.column("Metadata_JCP2022"))


def cosines(features: np.ndarray) -> np.ndarray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T


def test_the_processing_of_profiles(wells: ProfileTable) -> None:
    control, plates = controls_of(wells), wells.column("Metadata_Plate")
    expected = wells.features.copy()
    for plate in set(plates):
        own = expected[plates == plate]
        expected[plates == plate] = (own - own.mean(axis=0)) / own.std(axis=0)
    expected = PCA(64, svd_solver="full").fit_transform(expected)
    for plate in set(plates):
        own = expected[(plates == plate) & control]
        median = np.median(own, axis=0)
        expected[plates == plate] -= median
        expected[plates == plate] /= 1.4826 * np.median(np.abs(own - median), axis=0)
    found = normalize_wells(wells, control)
    assert found.names == tuple(f"PC_{number}" for number in range(64))
    np.testing.assert_allclose(cosines(found.features), cosines(expected), atol=1e-6)
    with pytest.raises(InputError, match="None of the wells is a negative control"):
        normalize_wells(wells, np.zeros(len(wells), dtype=bool))


def test_replicates_equal_a_naive_loop(wells: ProfileTable) -> None:
    groups, control = groups_of(wells), controls_of(wells)
    similarity = cosines(wells.features)
    random = np.random.RandomState(42)
    compounds = sorted({group for group in groups if group is not None})
    drawn = [random.choice(np.flatnonzero(groups == name)) for name in compounds]
    found = score_replicates(wells, groups, control).set_index("restriction")
    assert list(found.index) == list(RESTRICTIONS)
    for restriction, columns in RESTRICTIONS.items():
        differ = ~np.eye(len(wells), dtype=bool)
        for column in columns:
            values = wells.column(column)
            differ &= values[:, None] != values[None, :]
        hits, scores, against_controls = [], [], []
        for query in np.flatnonzero(~control):
            pool = np.flatnonzero(differ[query] & ~control)
            ranked = pool[np.argsort(-similarity[query, pool])]
            matches = groups[ranked] == groups[query]
            if matches.any():
                hits.append(matches[0])
            if matches.any() and query in drawn:
                scores.append(np.mean(np.arange(1, matches.sum() + 1) / (np.flatnonzero(matches) + 1)))
                positives = np.sort(similarity[query, ranked[matches]])[::-1]
                above = [(similarity[query, control & differ[query]] > one).sum() for one in positives]
                order = np.arange(1, len(positives) + 1)
                against_controls.append(np.mean(order / (above + order)))
        row = found.loc[restriction]
        assert row["recall_at_1"] == pytest.approx(np.mean(hits))
        assert row["map"] == pytest.approx(np.mean(scores))
        assert row["map_against_controls"] == pytest.approx(np.mean(against_controls))
        assert (row["wells"], row["compounds"]) == (len(hits), len(scores))


def test_compounds_of_a_large_collection_are_drawn(wells: ProfileTable) -> None:
    groups = groups_of(wells)
    counts = pd.Series(groups).value_counts()
    choice = CompoundChoice(("compound 00",), int(counts.max()) - 1, 2, 5)
    chosen = choose_wells(wells, groups, choice)
    frame = wells.metadata[chosen]
    assert frame["Metadata_JCP2022"].nunique() == 5
    assert not set(frame["Metadata_JCP2022"]) & {"compound 00", DMSO, *counts.index[counts == counts.max()]}
    assert frame.groupby(["Metadata_JCP2022", "Metadata_Source"]).size().max() == 2
    assert (choose_wells(wells, groups, choice) == chosen).all()
    one_source = wells.select(np.asarray(wells.column("Metadata_Source") == "source_8"))
    with pytest.raises(InputError, match="No compound has wells in two batches, two sources"):
        choose_wells(one_source, groups_of(one_source), choice)


def test_mechanisms_equal_a_naive_loop(wells: ProfileTable) -> None:
    treated = wells.select(~controls_of(wells))
    whole = score_mechanisms(treated, "Metadata_JCP2022", "Metadata_MoA", dense_until=None)
    frame = pd.DataFrame(treated.features).groupby(groups_of(treated)).mean()
    similarity = cosines(frame.to_numpy())
    mechanisms = np.array([int(name.split()[1]) // 2 for name in frame.index])
    odds = []
    for query in range(len(frame)):
        ranked = [other for other in np.argsort(-similarity[query]) if other != query]
        matches = mechanisms[ranked] == mechanisms[query]
        a, c = matches[:2].sum(), matches[2:].sum()
        b, d = 2 - a, len(matches) - 2 - c
        half = 0.5 * (0 in (a, b, c, d))
        odds.append((a + half) * (d + half) / ((b + half) * (c + half)))
    assert whole["geometric_mean_odds_ratio"][0] == pytest.approx(np.exp(np.mean(np.log(odds))))
    # One partner among 19 candidates: it is one of the nearest two by chance in 2 of 19 draws, which is above 0.05.
    assert whole["fraction_significant"][0] == 0


def test_mechanisms_of_other_batches_and_sources(wells: ProfileTable) -> None:
    treated = wells.select(~controls_of(wells))
    found = score_mechanisms(treated, "Metadata_JCP2022", "Metadata_MoA", dense_until="source_10").set_index(
        "restriction"
    )
    assert list(found.index) == ["no restriction", "not same batch", "not same source"]
    assert (found["compounds"] == 20).all()
    assert found["queries"]["not same batch"] > found["compounds"]["not same batch"]
    assert (found["geometric_mean_odds_ratio"] > 1).all()
    assert (found.loc["no restriction", "geometric_mean_odds_ratio"] == found["geometric_mean_odds_ratio"]).sum() == 1
    with pytest.raises(InputError, match="No well is of 'source_1'"):
        score_mechanisms(treated, "Metadata_JCP2022", "Metadata_MoA", dense_until="source_1")
    with pytest.raises(InputError, match="has as many mechanisms as the other sources"):
        score_mechanisms(treated.select(np.asarray(treated.column("Metadata_Source") == "source_8")),
                         "Metadata_JCP2022", "Metadata_MoA", dense_until="source_8")  # fmt: skip


def test_the_p_value_is_that_of_permutations() -> None:
    """Three mechanisms of 67 compounds each; the nearest two are always of the query's own."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 67)
    profiles = ProfileTable(
        pd.DataFrame({"compound": [f"c{n:03d}" for n in range(201)], "mechanism": labels.astype(str)}, dtype=object),
        np.eye(3)[labels] + random.normal(0, 0.01, (201, 3)),
        ("a", "b", "c"),
    )
    (row,) = score_mechanisms(profiles, "compound", "mechanism", dense_until=None).to_dict("records")
    near, far = np.ones(2), np.repeat([1, 0], [64, 134])
    test = permutation_test((near, far), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=2000,
                            alternative="greater", vectorized=True, random_state=0)  # fmt: skip
    assert test.pvalue == pytest.approx((66 / 200) * (65 / 199), abs=0.03)
    assert row["fraction_significant"] == 0
    assert row["geometric_mean_odds_ratio"] == pytest.approx(2.5 * 134.5 / (0.5 * 64.5))


def test_morphohelm_by_the_command(wells: ProfileTable, tmp_path: Path) -> None:
    bare = ProfileTable(wells.metadata.drop(columns="Metadata_MoA"), wells.features, wells.names)
    write_wells(bare, str(tmp_path / "wells.csv"))
    labels = wells.metadata[["Metadata_JCP2022", "Metadata_MoA"]].dropna()
    labels.columns = ["JCP2022", "MoA"]
    labels.to_csv(tmp_path / "labels.csv", index=False)
    words = ["benchmark", "morphohelm-target2", str(tmp_path / "wells.csv"), "--output", str(tmp_path / "replicates")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "recall@1, not same source layout 0." in done.output
    kept = wells.select(np.asarray(wells.metadata["Metadata_cell_count"].astype(int) >= 100 + 0.05 * (len(wells) - 1)))
    normalized = normalize_wells(wells, controls_of(wells)).select(np.isin(
        wells.column("Metadata_cell_count").astype(str), kept.column("Metadata_cell_count").astype(str)
    ))  # fmt: skip
    expected = score_replicates(normalized, groups_of(normalized), controls_of(normalized))
    written = pd.read_csv(tmp_path / "replicates" / "replicates.csv")
    pd.testing.assert_frame_equal(written, expected)
    with pytest.raises(InputError, match=r"occurs several times with equal metadata \(\d+ rows too many\)"):
        run_field_benchmark("morphohelm-target2", [tmp_path / "wells.csv"] * 2, tmp_path / "none")
    with pytest.raises(InputError, match="has no column Metadata_MoA; a table of labels"):
        run_field_benchmark("morphohelm-moa", [tmp_path / "wells.csv"], tmp_path / "none")
    report = run_field_benchmark(
        "morphohelm-moa", [tmp_path / "wells.csv", tmp_path / "labels.csv"], tmp_path / "mechanisms"
    )
    assert set(report.scores) == {
        f"{score}, {restriction}"
        for score in ("fraction significant", "odds ratio")
        for restriction in ("no restriction", "not same batch", "not same source")
    }


def test_morphohelm_counts_cells_of_embedding_tables(
    wells: ProfileTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two cells of each well, one of the first: that well has the fewest."""
    rows = np.repeat(np.arange(len(wells)), 2)[1:]
    cells = wells.metadata.iloc[rows].drop(columns="Metadata_cell_count").fillna("").reset_index(drop=True)
    cells.insert(0, "cell_id", [f"cell {number}" for number in range(len(rows))])
    cells.insert(1, "field_of_view", "field")
    write_parquet(EmbeddingTable(cells, wells.features[rows].astype(np.float32)), tmp_path / "cells.parquet")
    caplog.set_level(logging.INFO, "subcell_hf")
    report = run_field_benchmark("morphohelm-compound", [tmp_path / "cells.parquet"], tmp_path / "out")
    assert "Left out: 1 well with the fewest cells." in caplog.messages
    assert report.left_out == 0
    assert min(value for name, value in report.scores.items() if name.startswith("replicate mAP")) > 0.5
    table = ProfileTable(
        wells.metadata.drop(columns="Metadata_cell_count"), wells.features[:, :8], tuple(f"PC_{n}" for n in range(8))
    )
    write_wells(table, str(tmp_path / "components.csv"))
    run_field_benchmark("morphohelm-target2", [tmp_path / "components.csv"], tmp_path / "components")
    assert any("they are not normalized again" in message for message in caplog.messages)
    assert any("wells of few cells are not left out" in message for message in caplog.messages)


def pilot(folder: Path) -> tuple[Path, Path, pd.DataFrame]:
    """Profiles and targets with the columns of the JUMP pilot; every other compound does nothing."""
    table = simulate_wells(compounds=16, features=20, plate_effect=0)
    idle = np.array(
        [value is not None and int(value.split()[1]) % 2 == 1 for value in table.column("Metadata_compound")]
    )
    features = table.features.copy()
    features[idle] = np.random.default_rng(1).normal(size=(idle.sum(), 20))
    frame = table.metadata.rename(columns={"Metadata_compound": "Metadata_broad_sample"}).drop(columns="Metadata_moa")
    frame = pd.concat([frame, pd.DataFrame(features, columns=list(table.names))], axis=1)
    frame["Cells_Texture_ZBF"] = np.arange(len(frame)) % 7
    frame.to_csv(folder / "profiles.csv", index=False)
    targets = pd.DataFrame({"broad_sample": [f"compound {n}" for n in range(16)]})
    targets["target_list"] = [f"gene {n % 4}|gene {n}" for n in range(16)]
    targets.to_csv(folder / "targets.tsv", index=False, sep="\t")
    return folder / "profiles.csv", folder / "targets.tsv", frame


def test_the_pilot_equals_copairs_as_chammi_75_calls_it(tmp_path: Path) -> None:
    profiles, targets, frame = pilot(tmp_path)
    name = "chammi75-jumpcp-cellprofiler"
    report = run_field_benchmark(name, [profiles, targets], tmp_path / "out", null_size=1000)
    frame["Metadata_broad_sample"] = frame["Metadata_broad_sample"].fillna("DMSO")
    frame = assign_reference_index(frame, "Metadata_control_type == 'negcon'", reference_col="own", default_value=-1)
    features = [column for column in frame.columns if column.startswith("feature_")]
    scored = copairs_map.average_precision(
        frame.drop(columns=features), frame[features].to_numpy(), ["Metadata_broad_sample"], [], ["Metadata_Plate"],
        ["own"], progress_bar=False,
    )  # fmt: skip
    scored = scored[scored["Metadata_control_type"] != "negcon"]
    expected = scored.groupby("Metadata_broad_sample")["average_precision"].mean()
    compounds = pd.read_csv(tmp_path / "out" / "compounds.csv", index_col=0)
    np.testing.assert_allclose(compounds["mean_average_precision"], expected, atol=1e-9)
    active = compounds.index[compounds["corrected_p_value"] < 0.05]
    assert {f"compound {n}" for n in range(0, 16, 2)} <= set(active)
    consensus = frame[frame["Metadata_broad_sample"].isin(active)].groupby("Metadata_broad_sample")[features].median()
    labels = pd.read_csv(targets, sep="\t", index_col=0)["target_list"].str.split("|")[consensus.index]
    multilabel = copairs_map.multilabel.average_precision(
        pd.DataFrame({"target": labels.to_numpy()}), consensus.to_numpy(), ["target"], [], [], ["target"],
        multilabel_col="target", progress_bar=False,
    )  # fmt: skip
    expected = multilabel.groupby("target")["average_precision"].mean()
    found = pd.read_csv(tmp_path / "out" / "targets.csv", index_col=0)
    np.testing.assert_allclose(found["mean_average_precision"], expected, atol=1e-9)
    consistent = found["corrected_p_value"] < 0.05
    assert report.scores["active fraction"] == len(active) / 16
    assert report.scores["consistent fraction of all targets"] == consistent.sum() / 16
    assert report.scores["consistent fraction of scored targets"] == consistent.mean() > 0


def test_embeddings_of_the_pilot_are_sphered(tmp_path: Path) -> None:
    profiles, targets, frame = pilot(tmp_path)
    report = run_field_benchmark("chammi75-jumpcp", [profiles, targets], tmp_path / "out", null_size=100)
    assert report.left_out == 0
    assert report.scores["activity mean average precision"] > 0.3
    features = frame.filter(regex="feature_").to_numpy()
    control = (frame["Metadata_control_type"] == "negcon").to_numpy()
    table = ProfileTable(pd.DataFrame(index=range(len(frame))), features, tuple(f"feature_{n}" for n in range(20)))
    sphered = sphere_by_controls(table, control, 1e-3).features[control]
    np.testing.assert_allclose(np.cov(sphered.T), np.eye(20), atol=1e-3)
    with pytest.raises(InputError, match="cannot be sphered by their 48 controls"):
        sphere_by_controls(table.with_features(np.zeros_like(features)), control, 1e-3)


def test_no_target_is_shared(tmp_path: Path) -> None:
    profiles, targets, _ = pilot(tmp_path)
    pd.read_csv(targets, sep="\t").assign(target_list=[f"gene {n}" for n in range(16)]).to_csv(targets, sep="\t")
    report = run_field_benchmark("chammi75-jumpcp", [profiles, targets], tmp_path / "out", null_size=100)
    assert report.scores["consistent fraction of all targets"] == 0
    assert not (tmp_path / "out" / "targets.csv").exists()
