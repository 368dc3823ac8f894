"""New splits of an existing folder of shards: only its index is rewritten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.shards.index import INDEX_FILE, ShardIndex
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.splits import check_leakage, keep_known, split_antibodies
from subcell_hf.storage.atomic import write_atomically


@dataclass(frozen=True)
class SplitReport:
    """What became of the splits.

    Attributes:
        index: The new index of the folder.
        unknown: Antibodies of the lists that the shards do not hold.
        unused: Antibodies of the shards that are in no split.
    """

    index: ShardIndex
    unknown: int
    unused: int


def split_shards(folder: Path, *, by: str, fractions: Mapping[str, float], seed: int) -> SplitReport:
    """Split the antibodies of a folder of shards anew, stratified on their locations.

    Args:
        folder: Local folder of shards.
        by: `"gene"` or `"antibody"`.
        fractions: Split name → its share.
        seed: Seed of the splits.

    Raises:
        InputError: If the method or the fractions are wrong, or the folder holds no shards.
    """
    reader = ShardReader(folder)
    index, cells = reader.index, reader.cells
    found = np.zeros((len(index.antibodies), len(index.classes)), bool)
    np.logical_or.at(found, cells.antibody, cells.location_sets[cells.location_set] > 0)
    locations = {
        antibody: [index.classes[position] for position in np.flatnonzero(row)]
        for antibody, row in zip(index.antibodies, found, strict=True)
    }
    genes = dict(zip(index.antibodies, index.genes, strict=True))
    splits = split_antibodies(genes, locations, by=by, fractions=fractions, seed=seed)
    return _write(folder, index, splits, f"by {by}, seed {seed}")


def import_splits(
    folder: Path, lists: Mapping[str, Sequence[str]], *, method: str, keep_genes_apart: bool = False
) -> SplitReport:
    """Give a folder of shards the splits of someone's lists of antibodies.

    Args:
        folder: Local folder of shards.
        lists: Split name → antibodies; those that the shards do not hold are left out and counted.
        method: Where the lists come from, in words.
        keep_genes_apart: Whether to refuse lists in which two antibodies of one gene straddle two splits.

    Raises:
        InputError: If an antibody, or where asked for a gene, straddles two splits.
    """
    index = ShardReader(folder).index
    genes = dict(zip(index.antibodies, index.genes, strict=True))
    check_leakage(lists, genes if keep_genes_apart else None)
    return _write(folder, index, lists, method)


def _write(folder: Path, index: ShardIndex, splits: Mapping[str, Sequence[str]], method: str) -> SplitReport:
    kept, unknown, unused = keep_known(splits, index.antibodies)
    if not any(kept.values()):
        raise InputError(
            f"None of the {unknown} antibodies of the lists is in {folder}, which holds "
            f"{', '.join(index.antibodies[:3])}, …. The splits are unchanged."
        )
    changed = index.with_splits(kept, method)
    with write_atomically(folder / INDEX_FILE) as file:
        file.write(changed.to_json())
    return SplitReport(changed, unknown, unused)
