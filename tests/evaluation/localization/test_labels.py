"""Classes, targets and splits: every scheme, and refusal of what leaks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.alignment import align_cells, make_levels
from subcell_hf.evaluation.localization.labels import add_metadata, class_scheme, label_cells, location_targets
from subcell_hf.ontology import challenge_locations, reported_locations
from tests.evaluation.planted_tables import planted_cells, planted_table


@pytest.mark.parametrize(("name", "count"), [("31", 31), ("19", 19), ("35", 35), ("grouping_opencell", None)])
def test_schemes_of_the_ontology(name: str, count: int | None) -> None:
    scheme = class_scheme(name)
    assert count in (None, len(scheme.classes))
    assert set(scheme.class_of.values()) <= set(scheme.classes)


def test_targets_of_each_scheme() -> None:
    texts = ["Nucleoplasm;Cytosol", "Rods & Rings", "", "Cytosol; Nucleoplasm"]
    found = location_targets(texts, class_scheme("31"))
    assert [reported_locations()[i] for i in np.flatnonzero(found[0])] == ["Cytosol", "Nucleoplasm"]
    assert not found[[1, 2]].any()
    np.testing.assert_array_equal(found[0], found[3])
    challenge = location_targets(["Cytosol"], class_scheme("19"))
    assert [challenge_locations()[i] for i in np.flatnonzero(challenge[0])] == ["Cytosol"]
    with pytest.raises(InputError, match="Unknown location 'Nucleus'"):
        location_targets(["Nucleus"], class_scheme("31"))


def test_classes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Cytosol\nRing\n")
    np.testing.assert_array_equal(
        location_targets(["Ring;Elsewhere", "Cytosol"], class_scheme(str(tmp_path / "mine.txt"))), [[0, 1], [1, 0]]
    )
    (tmp_path / "mine.txt").write_text("Cytosol\nCytosol\n")
    with pytest.raises(InputError, match="each class once"):
        class_scheme(str(tmp_path / "mine.txt"))
    with pytest.raises(InputError, match="expected 31, 19, 35"):
        class_scheme("32")


def test_cells_without_class_or_split_are_not_scored() -> None:
    cells = planted_cells()
    cells.loc[0, "locations"], cells.loc[1, "split"], cells.loc[2, "split"] = "Rods & Rings", "", "valid"
    cells.loc[2, "antibody"] = "HPA000003"  # which is in validation
    cells.loc[2, "gene"] = "G3"
    labelled = label_cells(cells, class_scheme("31"))
    assert labelled.without_class == 1
    np.testing.assert_array_equal(labelled.positions, np.arange(2, len(cells)))
    assert labelled.cells["split"][0] == "validation"


def test_leaking_splits_are_refused() -> None:
    cells = planted_cells()
    leaking = cells.assign(split=np.where(cells.index == 0, "test", cells["split"]))
    with pytest.raises(InputError, match="HPA000000"):
        label_cells(leaking, class_scheme("31"))
    one_gene = cells.assign(gene=cells["gene"].replace({"G4": "G0"}))
    with pytest.raises(InputError, match=r"gene.*G0.*--allow-shared-genes"):
        label_cells(one_gene, class_scheme("31"))
    assert label_cells(one_gene, class_scheme("31"), allow_shared_genes=True).shared_genes == ("G0",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "train"}, "No cell of the split 'validation'"),
        ({"antibody": ""}, "have no antibody"),
        ({"split": None}, "lacks the columns split"),
    ],
)
def test_missing_metadata_is_explained(change: dict[str, str | None], message: str) -> None:
    cells = planted_cells()
    for name, value in change.items():
        cells = cells.drop(columns=name) if value is None else cells.assign(**{name: value})
    with pytest.raises(InputError, match=message):
        label_cells(cells, class_scheme("31"))


def test_metadata_by_cell_id(tmp_path: Path) -> None:
    cells = planted_cells(6)
    known = cells[["cell_id", "antibody", "split"]].sample(frac=1, random_state=0)
    known.to_csv(tmp_path / "known.csv", index=False)
    bare = cells[["cell_id", "field_of_view"]].assign(antibody="wrong")
    found = add_metadata(bare, tmp_path / "known.csv")
    pd.testing.assert_series_equal(found["antibody"], cells["antibody"])
    assert found["split"].tolist() == cells["split"].tolist()
    known.iloc[1:].to_csv(tmp_path / "known.csv", index=False)
    with pytest.raises(InputError, match="lacks 1 cell of"):
        add_metadata(bare, tmp_path / "known.csv")


def test_tables_in_another_order_are_aligned_and_lost_cells_listed() -> None:
    cells = planted_cells(6)
    one = planted_table(cells, 1.0)
    other = planted_table(cells, 2.0).select(np.arange(len(cells))[::-1][:-3])
    aligned = align_cells({"one": one, "other": other})
    assert aligned.cells["cell_id"].tolist() == cells["cell_id"].tolist()[3:]
    found = other.embeddings[aligned.rows["other"]]
    np.testing.assert_array_equal(found, planted_table(cells, 2.0).embeddings[3:])
    assert aligned.left_out["cell_id"].tolist() == cells["cell_id"].tolist()[:3]
    stranger = planted_table(cells.assign(cell_id="x" + cells["cell_id"]), 1.0)
    with pytest.raises(InputError, match="no cell in common"):
        align_cells({"one": one, "other": stranger})


def test_levels_join_probabilities_and_targets() -> None:
    cells = pd.DataFrame(
        {"antibody": ["a", "a", "b"], "field_of_view": ["f", "g", "f"], "gene": ["x", "x", "x"], "cell_id": list("123")}
    )
    levels, notes = make_levels(cells)
    assert not notes
    values = np.array([[0.2], [0.4], [0.9]], np.float32)
    joined = {level.name: level.join(values).ravel().tolist() for level in levels}
    assert joined["antibody"] == pytest.approx([0.3, 0.9])
    assert joined["gene"] == pytest.approx([0.5])
    assert joined["field"] == pytest.approx([0.2, 0.4, 0.9])  # the same field stained by another antibody
    targets = {level.name: level.join_targets(np.array([[0], [1], [0]], np.uint8)).ravel().tolist() for level in levels}
    assert targets["antibody"] == [1, 0]
    assert [level.cluster.tolist() for level in levels] == [[0, 0, 1], [0, 0, 1], [0, 1], [0]]
    _, notes = make_levels(cells.drop(columns="gene"))
    assert "level gene" in notes[0]
