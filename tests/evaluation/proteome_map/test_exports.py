import json
import re

import networkx
import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.exports import (
    cx2_text,
    edges_text,
    gml_text,
    newick_text,
    nodes_text,
    own_genes,
)
from subcell_hf.evaluation.proteome_map.hierarchy import ROOT, Cluster, Hierarchy

GENES = ["A", "B'1", "C\tx", "D", "E & <F>"]
TREE = Hierarchy(
    (
        Cluster(ROOT, (), np.arange(5), 0.0),
        Cluster("1", (ROOT,), np.array([0, 1, 2]), 0.5, 2),
        Cluster("1.1", ("1",), np.array([0, 1]), 1.0),
        Cluster("2", (ROOT,), np.array([3]), 0.5),
    ),
    np.zeros((0, 5), dtype=np.int64),
    (),
)
WOVEN = Hierarchy(
    (*TREE.clusters, Cluster("H9", ("1", "2"), np.array([2, 3]), 0.0)), np.zeros((0, 5), dtype=np.int64), ()
)
LABELS = {"1": 'Golgi "apparatus"\n& more'}


def test_nodes_and_edges_are_tables_whatever_the_names() -> None:
    rows = [line.split("\t") for line in nodes_text(TREE, GENES, LABELS).splitlines()]
    assert {len(row) for row in rows} == {8}
    assert rows[2] == ["1", "all", "1", "3", "0.5", "2", 'Golgi "apparatus" & more', "A B'1 C x"]
    edges = [line.split("\t") for line in edges_text(TREE, GENES).splitlines()][1:]
    assert ["1", "1.1", "cluster"] in edges
    assert ["1", "C x", "gene"] in edges
    assert sorted(child for _, child, kind in edges if kind == "gene") == ["A", "B'1", "C x", "D", "E & <F>"]


def test_genes_belong_to_their_smallest_clusters() -> None:
    assert own_genes(TREE) == {ROOT: [4], "1": [2], "1.1": [0, 1], "2": [3]}


def test_gml_is_read_back() -> None:
    graph = networkx.parse_gml(gml_text(TREE, GENES, LABELS))
    assert set(graph.edges) == {(ROOT, "1"), (ROOT, "2"), ("1", "1.1")}
    assert graph.nodes["1"]["size"] == 3
    assert graph.nodes["1"]["term"] == LABELS["1"]


def test_cx2_is_valid() -> None:
    document = json.loads(cx2_text(WOVEN, GENES, LABELS, "map"))
    assert document[0] == {"CXVersion": "2.0", "hasFragments": False}
    assert document[-1] == {"status": [{"success": True}]}
    parts = {name: value for part in document for name, value in part.items()}
    assert len(parts["nodes"]) == 5
    assert {(edge["s"], edge["t"]) for edge in parts["edges"]} == {(0, 1), (1, 2), (0, 3), (1, 4), (3, 4)}
    assert parts["nodes"][4]["v"]["genes"] == ["C\tx", "D"]
    counts = {item["name"]: item["elementCount"] for item in parts["metaData"]}
    assert counts == {"attributeDeclarations": 1, "networkAttributes": 1, "nodes": 5, "edges": 5}
    declared = parts["attributeDeclarations"][0]["nodes"]
    assert all(declared.keys() == node["v"].keys() for node in parts["nodes"])


def test_newick_holds_every_gene_once() -> None:
    text = newick_text(TREE, GENES)
    assert text == "((('A':1,'B''1':1)'1.1':1,'C\tx':1)'1':1,('D':1)'2':1,'E & <F>':1)'all';\n"
    assert text.count("(") == text.count(")") == 4
    assert len(re.findall(r"'(?:[^']|'')*':1", text)) == 5 + 3


def test_a_woven_hierarchy_has_no_newick() -> None:
    assert not WOVEN.is_tree()
    with pytest.raises(InputError, match="not a tree"):
        newick_text(WOVEN, GENES)
