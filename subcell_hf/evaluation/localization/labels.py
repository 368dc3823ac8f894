"""Protein locations as targets: which classes, which cells have them, which split a cell is in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted
from subcell_hf.ontology import (
    GROUPINGS,
    challenge_locations,
    group_location,
    load_locations,
    reported_locations,
    training_locations,
)
from subcell_hf.shards.splits import check_leakage
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.storage.plain_files import read_lines
from subcell_hf.storage.text_values import text_values, warn_of_case

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"training": "train", "valid": "validation", "val": "validation", "testing": "test"}


@dataclass(frozen=True)
class ClassScheme:
    """The classes that are scored.

    Attributes:
        name: How to call the scheme.
        classes: Names of the classes, in order.
        class_of: Location as annotated → its class; locations without a class are absent.
        known: Names that may be annotated; None for any.
    """

    name: str
    classes: tuple[str, ...]
    class_of: Mapping[str, str]
    known: frozenset[str] | None = None


def class_scheme(text: str) -> ClassScheme:
    """Find a scheme by its name.

    Args:
        text: `31` (what the published classifiers report), `19` (Kaggle's challenge), `35` (all training targets),
            one of the ontology's groupings, or a text file with one class per line.

    Raises:
        InputError: If it is none of these, or the file names no class or one twice.
    """
    locations = load_locations()
    known = frozenset(training_locations())
    if text == "35":
        return ClassScheme(text, training_locations(), {name: name for name in known}, known)
    if text == "31":
        classes = reported_locations()
        return ClassScheme(text, classes, {name: name for name in classes}, known)
    if text == "19":
        classes = challenge_locations()
        class_of = {place.name: place.challenge_name for place in locations if place.challenge_name}
        return ClassScheme(text, classes, {name: name for name in classes} | class_of, known | set(classes))
    if text in GROUPINGS:
        grouped = {name: group for name in training_locations() if (group := group_location(name, text))}
        return ClassScheme(text, tuple(sorted(set(grouped.values()))), grouped, known)
    if not Path(text).is_file():
        raise InputError(f"Unknown classes {text!r}: expected 31, 19, 35, {', '.join(GROUPINGS)}, or a text file.")
    classes = tuple(read_lines(Path(text)))
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"{text} must name each class once, one per line; it has {len(classes)} lines.")
    return ClassScheme(Path(text).name, classes, {name: name for name in classes})


def location_targets(locations: Sequence[str], scheme: ClassScheme) -> npt.NDArray[np.uint8]:
    """Multi-hot targets.

    Args:
        locations: Of each cell, names joined by `;`.
        scheme: The classes.

    Returns:
        `[cells, classes]` uint8.

    Raises:
        InputError: If a name is none that the scheme knows.
    """
    codes, distinct = pd.factorize(pd.Series(locations, dtype=object).fillna(""))
    position = {name: number for number, name in enumerate(scheme.classes)}
    rows = np.zeros((len(distinct), len(scheme.classes)), np.uint8)
    for row, text in enumerate(distinct):
        for name in filter(None, (part.strip() for part in str(text).split(";"))):
            if scheme.known is not None and name not in scheme.known:
                raise InputError(
                    f"Unknown location {name!r}. Correct the name, or give your own list of classes (--classes FILE)."
                )
            if name in scheme.class_of:
                rows[row, position[scheme.class_of[name]]] = 1
    targets: npt.NDArray[np.uint8] = rows[codes]
    return targets


@dataclass(frozen=True)
class LabelledCells:
    """The cells that a benchmark is about.

    Attributes:
        cells: One row per cell, with `cell_id`, `antibody`, `split` and whatever else is known.
        scheme: The classes.
        targets: `[cells, classes]` uint8.
        positions: `[cells]` int64, their rows in the given table.
        without_class: How many cells were left out since no class of the scheme is annotated.
        without_split: How many have a class and were left out since they are in no split that is evaluated.
        shared_genes: Genes that several splits have, where that was allowed.
    """

    cells: pd.DataFrame
    scheme: ClassScheme
    targets: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.int64]
    without_class: int
    without_split: int = 0
    shared_genes: tuple[str, ...] = ()

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Positions of the cells of a split."""
        return np.flatnonzero((self.cells["split"] == split).to_numpy())


def label_cells(cells: pd.DataFrame, scheme: ClassScheme, *, allow_shared_genes: bool = False) -> LabelledCells:
    """Choose the cells that have a class and a split, and refuse splits that leak.

    Args:
        cells: Metadata with `cell_id`, `antibody`, `locations`, `split` and, where known, `gene`.
        scheme: The classes.
        allow_shared_genes: Whether antibodies of one gene may lie in several splits, as in the published splits.

    Returns:
        The cells in the given order.

    Raises:
        InputError: If a column is missing, a split is missing or empty, or an antibody or gene straddles two splits.
    """
    needed = ("cell_id", "antibody", "locations", "split")
    missing = [name for name in needed if name not in cells]
    if missing:
        raise InputError(
            f"The table lacks the columns {', '.join(missing)}. Embed shards that have splits (`subcell splits`), or "
            "give a table of metadata by cell_id (--metadata)."
        )
    targets = location_targets(cells["locations"].tolist(), scheme)
    split = cells["split"].fillna("").astype(str).replace(_SPLIT_NAMES)
    used = split.isin(SPLITS).to_numpy()
    classed = targets.any(axis=1)
    kept = cells.assign(split=split)[used & classed].reset_index(drop=True)
    for name in SPLITS:
        if not (kept["split"] == name).any():
            found = ", ".join(sorted(set(split) - {""})) or "none"
            raise InputError(
                f"No cell of the split {name!r} has one of the classes ({scheme.name}); the table's splits: {found}. "
                "Expected train, validation and test; make them with `subcell splits`."
            )
    shared = _check_splits(kept, allow_shared_genes)
    positions = np.flatnonzero(used & classed)
    return LabelledCells(
        kept, scheme, targets[positions], positions, int((used & ~classed).sum()), int((~used & classed).sum()), shared
    )


def _check_splits(cells: pd.DataFrame, allow_shared_genes: bool) -> tuple[str, ...]:
    """Refuse leakage; returns the genes that straddle splits where that is allowed."""
    if (cells["antibody"] == "").any():
        raise InputError(
            f"{int((cells['antibody'] == '').sum())} labelled cells have no antibody, so leakage between splits cannot "
            "be checked. Add the column antibody (--metadata)."
        )
    warn_of_case(cells["antibody"], "Column antibody")
    splits = {name: set(found) for name, found in cells.groupby("split")["antibody"]}
    genes: dict[str, str] = {}
    if "gene" in cells:
        pairs = cells[["antibody", "gene"]].drop_duplicates()
        genes = dict(zip(pairs["antibody"], pairs["gene"].fillna("").astype(str), strict=True))
    try:
        check_leakage(splits, genes if genes and not allow_shared_genes else None)
    except InputError as error:
        remedy = " Genes may be shared on purpose (--allow-shared-genes)." if "gene" in str(error) else ""
        raise InputError(f"{error}{remedy}") from error
    by_gene: dict[str, set[str]] = {}
    for split, antibodies in splits.items():
        for antibody in antibodies:
            by_gene.setdefault(genes.get(antibody, ""), set()).add(split)
    return tuple(sorted(gene for gene, found in by_gene.items() if gene and len(found) > 1))


def add_metadata(cells: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add the columns of a table by `cell_id`; what it says wins.

    Args:
        cells: Metadata of cells.
        path: CSV or Parquet with a column `cell_id`.

    Raises:
        InputError: If the table cannot be read, lacks `cell_id`, names a cell twice, or lacks cells.
    """
    table = read_foreign_table(path)
    table.require(("cell_id",))
    added = pd.DataFrame({name: table.text(name) for name in table.columns})
    twice = added["cell_id"][added["cell_id"].duplicated()]
    if len(twice):
        raise InputError(f"{path} lists the cell {twice.iloc[0]!r} more than once, expected every cell once.")
    cells = cells.assign(cell_id=text_values(cells["cell_id"], "cell_id"))
    absent = ~cells["cell_id"].isin(added["cell_id"])
    if absent.any():
        raise InputError(
            f"{path} lacks {counted(int(absent.sum()), 'cell')} of the table, first "
            f"{cells['cell_id'][absent].iloc[0]!r}."
        )
    kept = cells.drop(columns=[name for name in added if name != "cell_id" and name in cells])
    return kept.merge(added, on="cell_id", how="left", validate="one_to_one")
