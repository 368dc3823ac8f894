"""A hierarchy for other tools: tab-separated nodes and edges, CX2 (Cytoscape), GML and Newick."""

import json
from collections.abc import Mapping, Sequence

import networkx

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.hierarchy import Hierarchy


def nodes_text(hierarchy: Hierarchy, genes: Sequence[str], labels: Mapping[str, str]) -> str:
    """One line per cluster: name, parents, depth, size, resolution, persistence, label and its genes."""
    lines = ["cluster\tparents\tdepth\tsize\tresolution\tpersistence\tlabel\tgenes"]
    for cluster in hierarchy.clusters:
        members = " ".join(_flat(genes[row]) for row in cluster.members)
        lines.append(
            f"{cluster.name}\t{' '.join(cluster.parents)}\t{hierarchy.depth(cluster.name)}\t{len(cluster.members)}\t"
            f"{cluster.resolution:g}\t{cluster.persistence}\t{_flat(labels.get(cluster.name, ''))}\t{members}"
        )
    return "\n".join(lines) + "\n"


def edges_text(hierarchy: Hierarchy, genes: Sequence[str]) -> str:
    """One line per edge from the root down: to clusters (`cluster`), and to the genes of no smaller one (`gene`)."""
    lines = ["parent\tchild\tkind"]
    lines += [f"{parent}\t{child}\tcluster" for parent, child in _edges(hierarchy)]
    for name, rows in own_genes(hierarchy).items():
        lines += [f"{name}\t{_flat(genes[row])}\tgene" for row in rows]
    return "\n".join(lines) + "\n"


def gml_text(hierarchy: Hierarchy, genes: Sequence[str], labels: Mapping[str, str]) -> str:
    """A directed GML graph of the clusters."""
    graph = networkx.DiGraph()
    for cluster in hierarchy.clusters:
        graph.add_node(
            cluster.name,
            size=len(cluster.members),
            resolution=float(cluster.resolution),
            persistence=int(cluster.persistence),
            term=labels.get(cluster.name, ""),
            genes=" ".join(genes[row] for row in cluster.members),
        )
    graph.add_edges_from(_edges(hierarchy))
    return "\n".join(networkx.generate_gml(graph)) + "\n"


def cx2_text(hierarchy: Hierarchy, genes: Sequence[str], labels: Mapping[str, str], name: str) -> str:
    """A CX2 document: clusters as nodes, containment as edges."""
    number = {cluster.name: place for place, cluster in enumerate(hierarchy.clusters)}
    nodes = [
        {
            "id": number[cluster.name],
            "v": {
                "name": cluster.name,
                "label": labels.get(cluster.name, ""),
                "size": len(cluster.members),
                "depth": hierarchy.depth(cluster.name),
                "resolution": float(cluster.resolution),
                "persistence": int(cluster.persistence),
                "genes": [genes[row] for row in cluster.members],
            },
        }
        for cluster in hierarchy.clusters
    ]
    edges = [
        {"id": place, "s": number[parent], "t": number[child], "v": {"interaction": "contains"}}
        for place, (parent, child) in enumerate(_edges(hierarchy))
    ]
    kinds = {
        "name": "string", "label": "string", "size": "integer", "depth": "integer", "resolution": "double",
        "persistence": "integer", "genes": "list_of_string",
    }  # fmt: skip
    document = [
        {"CXVersion": "2.0", "hasFragments": False},
        {
            "metaData": [
                {"name": "attributeDeclarations", "elementCount": 1},
                {"name": "networkAttributes", "elementCount": 1},
                {"name": "nodes", "elementCount": len(nodes)},
                {"name": "edges", "elementCount": len(edges)},
            ]
        },
        {
            "attributeDeclarations": [
                {
                    "nodes": {key: {"d": kind} for key, kind in kinds.items()},
                    "edges": {"interaction": {"d": "string"}},
                    "networkAttributes": {"name": {"d": "string"}},
                }
            ]
        },
        {"networkAttributes": [{"name": name}]},
        {"nodes": nodes},
        {"edges": edges},
        {"status": [{"success": True}]},
    ]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def newick_text(hierarchy: Hierarchy, genes: Sequence[str]) -> str:
    """The hierarchy with its genes as leaves, each edge of length 1.

    Raises:
        InputError: If a cluster has two parents.
    """
    if not hierarchy.is_tree():
        raise InputError("A hierarchy in which clusters have two parents is not a tree and has no Newick form.")
    children: dict[str, list[str]] = {cluster.name: [] for cluster in hierarchy.clusters}
    for parent, child in _edges(hierarchy):
        children[parent].append(child)
    own = own_genes(hierarchy)
    texts: dict[str, str] = {}
    for cluster in reversed(hierarchy.clusters):  # children come after their parents
        parts = [texts[child] for child in children[cluster.name]]
        parts += [f"{_quoted(genes[row])}:1" for row in own[cluster.name]]
        ending = "" if not cluster.parents else ":1"
        texts[cluster.name] = f"({','.join(parts)}){_quoted(cluster.name)}{ending}"
    return texts[hierarchy.clusters[0].name] + ";\n"


def own_genes(hierarchy: Hierarchy) -> dict[str, list[int]]:
    """Genes of each cluster that are in none of its children, by cluster name."""
    below: dict[str, set[int]] = {cluster.name: set() for cluster in hierarchy.clusters}
    for cluster in hierarchy.clusters:
        for parent in cluster.parents:
            below[parent].update(cluster.members.tolist())
    return {
        cluster.name: [row for row in cluster.members.tolist() if row not in below[cluster.name]]
        for cluster in hierarchy.clusters
    }


def _edges(hierarchy: Hierarchy) -> list[tuple[str, str]]:
    """Parent and child of every edge between clusters."""
    return [(parent, cluster.name) for cluster in hierarchy.clusters for parent in cluster.parents]


def _flat(text: str) -> str:
    """Text that breaks no line and no column."""
    return " ".join(text.split())


def _quoted(name: str) -> str:
    """A name as Newick has it."""
    return "'" + name.replace("'", "''") + "'"
