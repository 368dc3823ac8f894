import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.enrichment import (
    GeneSets,
    over_representation,
    read_background,
    read_corum,
    read_gmt,
    read_hpa_locations,
)


def test_equals_fishers_exact_test_with_every_test_corrected_for() -> None:
    generator = np.random.default_rng(0)
    genes = [f"g{number}" for number in range(60)]
    background = frozenset(genes[:50])
    clusters = {f"c{n}": generator.choice(genes, size=12, replace=False).tolist() for n in range(3)}
    sets = {f"t{n}": frozenset(generator.choice(genes, size=9, replace=False).tolist()) for n in range(4)}
    table = over_representation(clusters, [GeneSets("sets", sets)], background, min_overlap=0)
    assert len(table) == 12
    expected = []
    for row in table.itertuples():
        cluster, term = set(clusters[row.cluster]) & background, sets[row.term] & background
        both = len(cluster & term)
        counts = [[both, len(cluster) - both], [len(term) - both, len(background - cluster - term)]]
        expected.append(fisher_exact(counts, alternative="greater").pvalue)
        assert (row.overlap, row.cluster_size, row.term_size) == (both, len(cluster), len(term))
        assert row.fold == pytest.approx(both * 50 / (len(cluster) * len(term)))
    np.testing.assert_allclose(table["p_value"], expected, rtol=1e-9)
    np.testing.assert_allclose(table["q_value"], false_discovery_control(expected), rtol=1e-9)


def test_rows_with_little_in_common_are_hidden_but_corrected_for() -> None:
    sets = GeneSets("sets", {"hit": frozenset("abc"), **{f"miss {n}": frozenset(["z"]) for n in range(9)}})
    background = frozenset("abcdefghijklmnopqrstuvwxyz")
    table = over_representation({"c": list("abc")}, [sets], background)
    assert table["term"].tolist() == ["hit"]
    assert table["q_value"][0] == pytest.approx(table["p_value"][0] * 10)
    assert table["genes"][0] == "a b c"


def test_the_background_decides() -> None:
    sets = [GeneSets("sets", {"t": frozenset("abcd")})]
    narrow = over_representation({"c": list("abcd")}, sets, frozenset("abcdef"))
    wide = over_representation({"c": list("abcd")}, sets, frozenset("abcdefghijklmnopqrst"))
    assert wide["p_value"][0] < narrow["p_value"][0]
    with pytest.raises(InputError, match="No gene of the map is in the background"):
        over_representation({"c": ["a"]}, sets, frozenset(["ENSG1"]))


def test_locations_and_complexes(label_tables: Path) -> None:
    corum = read_corum(label_tables / "processed_human_corum.csv.gz", ["PSMA1", "PSMB1"])
    proteasome = [name for name, genes in corum.sets.items() if {"PSMA1", "PSMB1", "PSMC1"} <= genes]
    assert proteasome
    locations = read_hpa_locations(label_tables / "hpa_subcellular_location.tsv.gz", ["TSPAN6", "SCYL3"])
    assert "TSPAN6" in locations.sets["Cell Junctions"]
    assert "SCYL3" in locations.sets["Nuclear bodies"]  # an additional location
    by_id = read_hpa_locations(label_tables / "hpa_subcellular_location.tsv.gz", ["ENSG00000000003"])
    assert "ENSG00000000003" in by_id.sets["Cell Junctions"]
    background = frozenset().union(*locations.sets.values())
    nucleoli = sorted(locations.sets["Nucleoli"])[:60]
    table = over_representation({"c": nucleoli}, [locations, corum], background)
    assert table["term"][0] == "Nucleoli"
    assert table["q_value"][0] < 1e-20
    shuffled = np.random.default_rng(0).choice(sorted(background), size=60, replace=False).tolist()
    assert (over_representation({"c": shuffled}, [locations, corum], background)["q_value"] > 0.05).all()


def test_gmt_files(tmp_path: Path) -> None:
    text = "GO:1 nucleus\thttp://x\tA\tB\t\n\nGO:2\t\tC\r\n"
    path = tmp_path / "go.gmt.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_gmt(path) == GeneSets("go", {"GO:1 nucleus": frozenset("AB"), "GO:2": frozenset("C")})
    plain = tmp_path / "bad.gmt"
    plain.write_text("GO:1\tdescription\n")
    with pytest.raises(InputError, match="line 1: expected a term, a description and genes"):
        read_gmt(plain)
    plain.write_text("GO:1\t\tA\nGO:1\t\tB\n")
    with pytest.raises(InputError, match="line 2: the term 'GO:1' occurs twice"):
        read_gmt(plain)


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("complex,genes\n1,A\n")
    with pytest.raises(InputError, match="no column 'gene_names'; its columns are complex, genes"):
        read_corum(path, ["A"])
    path.write_text("complex,gene_names\n1,A\n")
    with pytest.raises(InputError, match="contains none of the genes of the map, such as ENSG1"):
        read_corum(path, ["ENSG1"])
    path.write_text("\n")
    with pytest.raises(InputError, match="contains no genes"):
        read_background(path)
    with pytest.raises(InputError, match="does not exist"):
        read_background(tmp_path / "none.txt")
