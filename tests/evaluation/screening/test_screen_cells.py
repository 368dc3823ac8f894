"""A screen of cells that have probabilities of locations and pictures."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subcell_hf.evaluation.screening import ScreenSettings, measure_locations, read_wells
from subcell_hf.evaluation.screening.permutation import make_pool
from subcell_hf.tables import EmbeddingTable, draw_picture, write_parquet, write_pictures
from subcell_hf.workflows import ScreenReport, screen_plates

CLASSES = ("Cytosol", "Nucleoli", "Vesicles")
DOSES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
CELLS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plates: a drug that moves the protein from cytosol to nucleoli, one that does nothing, and 12 controls."""
    folder = tmp_path_factory.mktemp("cells")
    generator = np.random.default_rng(0)
    treatment = ["drug"] * 12 + ["nothing"] * 12 + ["DMSO"] * 12
    places = pd.DataFrame({"well": [f"{row}{column:02d}" for row in "ABC" for column in range(1, 13)]})
    plate_map = places.assign(
        treatment=treatment,
        dose=[*DOSES, *DOSES, *DOSES, *DOSES, *[""] * 12],
        control_type=[""] * 24 + ["negcon"] * 12,
    )
    plate_map.to_csv(folder / "map.csv", index=False)
    wells = pd.concat([plate_map.assign(plate=plate) for plate in ("p1", "p2")], ignore_index=True)
    cells = wells.loc[np.repeat(wells.index, CELLS), ["plate", "well", "treatment", "dose"]].reset_index(drop=True)
    strength = np.zeros(len(cells))
    drug = (cells["treatment"] == "drug").to_numpy()
    strength[drug] = 1 / (1 + 2 / cells["dose"][drug].astype(float))
    embeddings = generator.normal(size=(len(cells), 8)).astype(np.float32)
    embeddings[:, 0] += 6 * strength
    nucleoli = 0.2 + 0.5 * strength + generator.normal(scale=0.02, size=len(cells))
    probabilities = np.stack([0.9 - nucleoli, nucleoli, np.full(len(cells), 0.1)], axis=1).astype(np.float32)
    ids = [f"cell{number}" for number in range(len(cells))]
    frame = pd.DataFrame({"cell_id": ids, "field_of_view": "", "plate": cells["plate"], "well": cells["well"]})
    write_parquet(EmbeddingTable(frame, embeddings, probabilities, CLASSES), folder / "embeddings.parquet")
    plane = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    pictures = [draw_picture(cell, {"protein": plane}, None, None) for cell in ids[::2]]
    write_pictures(pictures, folder / "pictures.parquet")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ScreenReport:
    settings = ScreenSettings(permutations=199, judge_batches=False)
    return screen_plates([folder], tmp_path_factory.mktemp("out"), settings, plate_maps=[folder / "map.csv"])


def test_changes_of_locations_are_those_of_a_plain_difference_of_means(report: ScreenReport, folder: Path) -> None:
    found = pd.read_csv(report.page.parent / "locations.csv").set_index("location")
    assert set(found["treatment"]) == {"drug"}  # the other treatment is no hit
    wells = read_wells([folder], [folder / "map.csv"])
    assert wells.shares is not None
    shares = pd.DataFrame(100 * wells.shares, columns=list(CLASSES)).assign(
        plate=wells.profiles.column("plate"), treatment=wells.profiles.column("treatment"),
        dose=wells.profiles.column("dose"),
    )  # fmt: skip
    top = shares[(shares["treatment"] == "drug") & (shares["dose"] == "30.0")]
    controls = shares[shares["treatment"] == "DMSO"]
    for name in CLASSES:
        change = [
            top[top["plate"] == p][name].mean() - controls[controls["plate"] == p][name].mean() for p in ("p1", "p2")
        ]
        assert found["change"][name] == pytest.approx(np.mean(change), abs=1e-4)
        assert found["treated"][name] == pytest.approx(top[name].mean(), abs=1e-4)
    assert found["change_low"]["Nucleoli"] > 40
    assert found["change_high"]["Cytosol"] < -40
    # The true EC50 of both is 2; one rises, one falls. Nothing changes in vesicles.
    for name in ("Nucleoli", "Cytosol"):
        assert found["ec50_low"][name] < 2 < found["ec50_high"][name]
    assert np.isnan(found["ec50"]["Vesicles"])


def test_the_page_shows_cells_beside_controls_and_the_locations_that_change(report: ScreenReport) -> None:
    page = report.page.read_text(encoding="utf-8")
    assert page.count('src="data:image/webp;base64,') == 2
    assert "<strong>drug</strong> – dose 30" in page
    assert "Dose response of drug: Nucleoli" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)


def test_a_table_without_classifier_has_no_locations(folder: Path, tmp_path: Path) -> None:
    from subcell_hf.tables import read_table

    table = read_table(folder)
    write_parquet(EmbeddingTable(table.cells, table.embeddings), tmp_path / "plain.parquet")
    settings = ScreenSettings(permutations=199, judge_batches=False)
    report = screen_plates([tmp_path / "plain.parquet"], tmp_path / "out", settings, plate_maps=[folder / "map.csv"])
    assert report.result.locations is None
    assert not (tmp_path / "out" / "locations.csv").exists()
    assert "<h2>Locations</h2>" not in report.page.read_text(encoding="utf-8")


def test_intervals_of_changes_hold_where_nothing_changes() -> None:
    generator = np.random.default_rng(1)
    plates = np.repeat([0, 1, 2], 12)
    treated = np.array([0, 12, 24])
    pool = make_pool(treated, np.setdiff1d(np.arange(36), treated), plates)
    held = 0
    for _ in range(200):
        shares = 0.3 + 0.05 * generator.normal(size=(36, 2)) + 0.1 * generator.normal(size=3)[plates][:, None]
        found = measure_locations(["a"], {"a": pool}, shares, ["x", "y"], np.full(36, np.nan), 0.05).table
        held += int(((found["change_low"] <= 0) & (found["change_high"] >= 0)).sum())
    # Three standard errors of the binomial distribution.
    assert held / 400 > 0.95 - 3 * (0.05 * 0.95 / 400) ** 0.5
