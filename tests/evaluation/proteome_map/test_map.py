import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.interactive import draw_page
from subcell_hf.evaluation.proteome_map.map import MapSettings, ProteomeMap, make_map, parse_resolutions
from subcell_hf.evaluation.proteome_map.thumbnails import find_pictures, read_thumbnails
from subcell_hf.tables.files import EmbeddingTable, write_parquet
from tests.evaluation.proteome_map.simulated_cells import COARSE, simulate_cells

FILES = {
    "map.html", "map.pdf", "map.png", "map.h5ad", "genes.csv", "antibodies.csv", "enrichment.csv", "report.json",
    "nodes.tsv", "edges.tsv", "hierarchy.cx2", "hierarchy.gml", "hierarchy.nwk",
}  # fmt: skip
EVIL = "</script><script>document.title='broken'</script><b>&amp;"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `subcell embed` leaves: a table, and pictures of some cells."""
    table, _, _ = simulate_cells()
    folder = tmp_path_factory.mktemp("embedded")
    write_parquet(table, folder / "embeddings.parquet")
    picture = io.BytesIO()
    Image.new("RGB", (128, 128), (0, 200, 0)).save(picture, "PNG")
    cells = table.cells["cell_id"][::4].tolist()
    pq.write_table(
        pa.table({"cell_id": cells, "composite": [picture.getvalue()] * len(cells)}), folder / "pictures.parquet"
    )
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> ProteomeMap:
    return make_map(folder, MapSettings())


def test_the_map_recovers_what_was_planted(made: ProteomeMap) -> None:
    _, coarse, fine = simulate_cells()
    scores = [
        (float(adjusted_rand_score(coarse, level)), float(adjusted_rand_score(fine, level)))
        for level in made.hierarchy.levels
    ]
    for resolution, (of_places, of_parts) in zip(made.hierarchy.resolutions, scores, strict=True):
        print(f"resolution {resolution:g}: adjusted Rand index {of_places:.3f} with places, {of_parts:.3f} with parts")
    assert max(score for score, _ in scores) > 0.95
    assert max(score for _, score in scores) > 0.9
    reported = [level["agreement_with_locations"] for level in made.summary["levels"]]
    assert reported == pytest.approx([score for score, _ in scores])


def test_the_reliable_antibody_stands_for_its_gene(made: ProteomeMap) -> None:
    assert set(made.genes["reliability"]) == {"Supported"}
    assert made.genes["gene"].is_monotonic_increasing
    assert made.summary["genes"] == 240
    assert made.summary["antibodies"] == 252
    assert made.summary["cells"] == 240 * 12
    assert made.summary["cells_of_other_antibodies"] == 12 * 12
    assert made.example_cells["GENE0000"][0] == "HPA000000_0_0"


def test_plates_are_corrected_for_and_the_effect_is_told(made: ProteomeMap) -> None:
    effect = made.summary["correction"]["effect"]["plate"]
    assert effect["share_of_variance_before"] > 0.4
    assert effect["share_of_variance_after"] < 0.25
    assert made.summary["correction"]["columns"] == ["plate"]


def test_clusters_are_explained_by_the_tables_locations(made: ProteomeMap) -> None:
    top = [c for c in made.hierarchy.clusters if c.parents == ("all",)]
    assert len(top) == 4
    assert {made.labels[cluster.name] for cluster in top} == set(COARSE)
    assert (made.enrichment["background_size"] == 240).all()


def test_shuffled_genes_hold_no_hierarchy(folder: Path, tmp_path: Path) -> None:
    table, coarse, _ = simulate_cells()
    order = np.random.default_rng(0).permutation(len(table))
    write_parquet(EmbeddingTable(table.cells, table.embeddings[order]), tmp_path / "t.parquet")
    shuffled = make_map(tmp_path / "t.parquet", MapSettings(correct=()))
    for level in shuffled.hierarchy.levels:
        assert abs(adjusted_rand_score(coarse, level)) < 0.06
    assert (shuffled.enrichment["q_value"] < 0.05).mean() < 0.1


def test_settings_that_cannot_be_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="Unknown hierarchy 'ward'"):
        make_map(folder, MapSettings(hierarchy="ward"))
    with pytest.raises(InputError, match="no column 'microscope' to correct for"):
        make_map(folder, MapSettings(correct=("microscope",)))
    with pytest.raises(InputError, match="at least 5 genes"):
        make_map(folder, MapSettings(where={"gene": "GENE0001"}))
    with pytest.raises(InputError, match="'1,x' are not comma-separated numbers"):
        parse_resolutions("1,x")


def test_the_command_writes_every_file_and_the_same_bytes_twice(folder: Path, tmp_path: Path) -> None:
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("first\t\t" + "\t".join(f"GENE{number:04d}" for number in range(20)) + "\n")
    digests = []
    for name in ("one", "two"):
        arguments = ["map", str(folder), "--output", str(tmp_path / name), "--gene-sets", str(gmt)]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert "adjusted Rand index with locations 1.000" in result.output
        files = sorted((tmp_path / name).iterdir())
        digests.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert digests[0].keys() == FILES
    assert digests[0] == digests[1]
    table = anndata.read_h5ad(tmp_path / "one" / "map.h5ad")
    assert table.shape[0] == 240
    assert table.obsm["X_umap"].shape == (240, 2)
    assert table.obsp["connectivities"].shape == (240, 240)
    assert "leiden_1" in table.obs
    enrichment = pd.read_csv(tmp_path / "one" / "enrichment.csv")
    assert "first" in set(enrichment.loc[enrichment["q_value"] < 1e-6, "term"])
    assert json.loads((tmp_path / "one" / "report.json").read_text())["enrichment"]["background_genes"] == 240


def test_thumbnails_belong_to_the_genes(folder: Path, made: ProteomeMap) -> None:
    file = find_pictures(folder)
    assert file == find_pictures(folder / "embeddings.parquet") == folder / "pictures.parquet"
    pictures = read_thumbnails(file, made.example_cells)
    assert set(pictures) == set(made.example_cells)
    assert max(len(found) for found in pictures.values()) == 3
    with Image.open(io.BytesIO(pictures["GENE0000"][0])) as image:
        assert image.size == (96, 96)
        assert image.getpixel((48, 48))[1] > 190
    assert find_pictures(folder / "other.parquet") is None


def renamed(made: ProteomeMap) -> ProteomeMap:
    """The same map with a gene, an antibody and a term that would break a careless page."""
    genes = made.genes.copy()
    genes.loc[0, ["gene", "antibody", "locations"]] = [EVIL, EVIL, EVIL]
    return replace(made, genes=genes, labels={"1": EVIL})


def test_names_never_become_markup(made: ProteomeMap) -> None:
    page = draw_page(renamed(made), EVIL)
    assert EVIL not in page
    assert page.count("</script>") == 2
    assert "innerHTML" not in page
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    assert json.loads(data)["genes"]["name"][0] == EVIL
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
def test_the_page_works_in_a_browser(made: ProteomeMap, folder: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium to open the page with")
    page = draw_page(renamed(made), EVIL, read_thumbnails(folder / "pictures.parquet", made.example_cells))
    script = """<script>{
      const query = document.getElementById("query");
      query.value = "gene0007"; query.dispatchEvent(new Event("input"));
      query.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
    }</script></body>"""
    policy = re.search('<meta http-equiv="Content-Security-Policy".*>', page)
    assert policy is not None
    (tmp_path / "map.html").write_text(page.replace(policy[0], "").replace("</body>", script), encoding="utf-8")
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000", "--dump-dom", f"file://{tmp_path / 'map.html'}",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    details = shown.split('<section id="details"')[1].split("</section>")[0]
    assert "GENE0007" in details
    assert "HPA000007" in details
    assert "data:image/jpeg;base64," in details
    assert "<title>broken</title>" not in shown
    assert '<h1 id="title">&lt;/script&gt;&lt;script&gt;' in shown
