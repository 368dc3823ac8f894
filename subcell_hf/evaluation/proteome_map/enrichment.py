"""Over-representation of known gene sets in clusters: hypergeometric tests, Benjamini–Hochberg, explicit background."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.storage.text_files import read_text

COLUMNS = (
    "cluster", "collection", "term", "overlap", "cluster_size", "term_size", "background_size", "fold", "p_value",
    "q_value", "genes",
)  # fmt: skip


@dataclass(frozen=True)
class GeneSets:
    """A collection of named gene sets.

    Attributes:
        name: Of the collection, such as `"HPA locations"`.
        sets: Term → its genes.
    """

    name: str
    sets: Mapping[str, frozenset[str]]


def read_gmt(path: Path) -> GeneSets:
    """Read a GMT file (also `.gz`): per line a term, a description and its genes, separated by tabs.

    Args:
        path: The file.

    Raises:
        InputError: If a line has no genes or a term occurs twice.
    """
    sets: dict[str, frozenset[str]] = {}
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        parts = line.split("\t")
        if not line.strip():
            continue
        genes = frozenset(gene.strip() for gene in parts[2:] if gene.strip())
        if not genes:
            raise InputError(f"{path}, line {number}: expected a term, a description and genes, with tabs between.")
        if parts[0] in sets:
            raise InputError(f"{path}, line {number}: the term {parts[0]!r} occurs twice. Remove or rename one.")
        sets[parts[0]] = genes
    return GeneSets(path.name.removesuffix(".gz").removesuffix(".gmt"), sets)


def read_hpa_locations(path: Path, genes: Sequence[str]) -> GeneSets:
    """Read the Human Protein Atlas' table of subcellular locations (`subcellular_location.tsv`, also `.gz`).

    Main and additional locations make one set per location. Genes go by the column, `Gene name` or `Gene` (Ensembl),
    that knows more of the given genes.

    Args:
        path: The table.
        genes: Genes of the map.

    Raises:
        InputError: If a column is missing or no gene is known.
    """
    main, additional, *names = _read_columns(path, ("Main location", "Additional location", "Gene name", "Gene"))
    known = frozenset(genes)
    column = max(names, key=lambda values: len(known & set(values)))
    sets: dict[str, set[str]] = {}
    for gene, *locations in zip(column, main, additional, strict=True):
        for location in ";".join(locations).split(";"):
            if location.strip() and gene:
                sets.setdefault(location.strip(), set()).add(gene)
    return _known_sets("HPA locations", sets, known, path)


def read_corum(path: Path, genes: Sequence[str]) -> GeneSets:
    """Read protein complexes: a CSV with the columns `complex` and `gene_names`, one row per member (also `.gz`).

    Args:
        path: The file.
        genes: Genes of the map; others are left out.

    Raises:
        InputError: If a column is missing or no gene is known.
    """
    sets: dict[str, set[str]] = {}
    for complex_name, gene in zip(*_read_columns(path, ("complex", "gene_names")), strict=True):
        if complex_name and gene:
            sets.setdefault(f"complex {complex_name}", set()).add(gene)
    return _known_sets("CORUM complexes", sets, frozenset(genes), path)


def locations_of_table(locations: Mapping[str, Sequence[str]]) -> GeneSets:
    """Gene sets from the locations that the table itself gives its genes."""
    sets: dict[str, set[str]] = {}
    for gene, names in locations.items():
        for name in names:
            sets.setdefault(name, set()).add(gene)
    return GeneSets("table's locations", {name: frozenset(genes) for name, genes in sets.items()})


def over_representation(
    clusters: Mapping[str, Sequence[str]],
    collections: Sequence[GeneSets],
    background: frozenset[str],
    *,
    min_overlap: int = 2,
) -> pd.DataFrame:
    """Test every cluster against every gene set.

    Genes outside of the background count nowhere. With N genes in the background, K of them in the set and n in the
    cluster, p is the probability of the observed overlap or more when n genes are drawn without replacement. q-values
    are those of Benjamini and Hochberg over all tests of a collection, the tests with a small overlap among them.

    Args:
        clusters: Name → genes.
        collections: Gene sets to test.
        background: Every gene that could have been in a cluster.
        min_overlap: Rows with fewer genes in common are not listed.

    Returns:
        The columns of `COLUMNS`, by cluster, then q, p and term; `genes` are those in common.

    Raises:
        InputError: If the background shares no gene with the clusters.
    """
    from scipy.stats import false_discovery_control, hypergeom

    members = {name: frozenset(genes) & background for name, genes in clusters.items()}
    if not any(members.values()):
        raise InputError("No gene of the map is in the background. Use the same gene names in both.")
    rows: list[tuple[object, ...]] = []
    place = {name: number for number, name in enumerate(clusters)}
    for collection in collections:
        sets = {term: genes & background for term, genes in sorted(collection.sets.items())}
        sets = {term: genes for term, genes in sets.items() if genes}
        pairs = [(name, term) for name in members if members[name] for term in sets]
        if not pairs:
            continue
        common = [members[name] & sets[term] for name, term in pairs]
        overlap = np.array([len(genes) for genes in common])
        drawn = np.array([len(members[name]) for name, _ in pairs])
        marked = np.array([len(sets[term]) for _, term in pairs])
        p_values = np.minimum(hypergeom.sf(overlap - 1, len(background), marked, drawn), 1.0)
        q_values = false_discovery_control(p_values)
        fold = overlap * len(background) / (drawn * marked)
        rows += [
            (
                name, collection.name, term, int(overlap[i]), int(drawn[i]), int(marked[i]), len(background),
                float(fold[i]), float(p_values[i]), float(q_values[i]), " ".join(sorted(common[i])),
            )
            for i, (name, term) in enumerate(pairs)
            if overlap[i] >= min_overlap
        ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["place"] = table["cluster"].map(place)
    order = ["place", "q_value", "p_value", "collection", "term"]
    return table.sort_values(order, ignore_index=True).drop(columns="place")


def read_background(path: Path) -> frozenset[str]:
    """Read a list of genes, one per line.

    Args:
        path: The file.

    Raises:
        InputError: If the file names none.
    """
    genes = frozenset(filter(None, map(str.strip, _read_text(path).split("\n"))))
    if not genes:
        raise InputError(f"{path} contains no genes; expected one per line.")
    return genes


def _known_sets(name: str, sets: Mapping[str, set[str]], known: frozenset[str], path: Path) -> GeneSets:
    """The sets, if they know any of the genes."""
    if not any(known & genes for genes in sets.values()):
        raise InputError(f"{path} contains none of the genes of the map, such as {', '.join(sorted(known)[:3])}.")
    return GeneSets(name, {term: frozenset(genes) for term, genes in sets.items()})


def _read_columns(path: Path, names: Sequence[str]) -> list[list[str]]:
    """Columns of a table as texts."""
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    table = read_foreign_table(path)
    table.require(names)
    return [table.text(name) for name in names]


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path} does not exist.")
    return read_text(path)
