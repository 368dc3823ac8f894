"""Splits of antibodies into training, validation and test sets.

Cells of one antibody always stay together. By gene, two antibodies against one protein stay together too, which is the
stricter test of whether a model has learnt proteins rather than reagents.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.plain_files import read_lines

SPLIT_METHODS = ("gene", "antibody")
"""Units that stay in one split: all antibodies of a gene, or each antibody."""

DEFAULT_FRACTIONS = "train=0.8,validation=0.1,test=0.1"


def split_antibodies(
    genes: Mapping[str, str],
    locations: Mapping[str, Collection[str]],
    *,
    by: str,
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[str]]:
    """Split antibodies so that every location is spread over the splits in proportion.

    Iterative stratification: the location with the fewest antibodies left is dealt out first, each antibody (or gene)
    to the split that still wants most of that location, ties to the split that wants most antibodies, then at random. A
    split that has its share of antibodies gets no more while another has not, so that the fractions hold where most
    locations have few antibodies; and no split stays empty where there are enough antibodies or genes.

    Args:
        genes: Antibody → gene, empty where unknown; an antibody of an unknown gene is a separate group.
        locations: Antibody → names of its locations; an antibody may be absent.
        by: `"gene"` or `"antibody"`: what must not straddle two splits.
        fractions: Split name → its share of the antibodies, adding up to 1.
        seed: Seed of the random order and the ties.

    Returns:
        Split name → its antibodies, sorted. The same arguments give the same splits, in any order.

    Raises:
        InputError: If the method is unknown, or the fractions are not positive numbers that add up to 1.

    Source:
        Sechidis, Tsoumakas, Vlahavas: On the stratification of multi-label data. ECML PKDD 2011.
    """
    check_split_request(by, fractions)
    shares = np.array(list(fractions.values()), np.float64)
    groups: dict[str, list[str]] = {}
    for antibody in sorted(genes):
        # An unknown gene gets a name that no gene has.
        group = genes[antibody] or f"\0{antibody}" if by == "gene" else antibody
        groups.setdefault(group, []).append(antibody)
    members = [groups[name] for name in sorted(groups)]
    names = sorted({location for antibody in genes for location in locations.get(antibody, ())})
    counts = np.zeros((len(members), len(names) + 1))  # [groups, locations + all]
    for row, antibodies in enumerate(members):
        counts[row, -1] = len(antibodies)
        for antibody in antibodies:
            counts[row, [names.index(location) for location in set(locations.get(antibody, ()))]] += 1
    chosen = _stratify(counts, shares, np.random.default_rng(seed))
    return {
        split: sorted(antibody for row in np.flatnonzero(chosen == number) for antibody in members[row])
        for number, split in enumerate(fractions)
    }


def check_split_request(by: str, fractions: Mapping[str, float]) -> None:
    """Refuse a way of splitting that is unknown, and fractions that are no shares of a whole.

    Raises:
        InputError: If the method is unknown, or the fractions are not positive numbers that add up to 1.
    """
    if by not in SPLIT_METHODS:
        raise InputError(f"Antibodies cannot be split by {by!r}: expected {' or '.join(SPLIT_METHODS)}.")
    shares = np.array(list(fractions.values()), np.float64)
    if not len(shares) or not (shares > 0).all() or not np.isclose(shares.sum(), 1):
        raise InputError(f"Fractions must be positive and add up to 1, got {dict(fractions)}.")


def _stratify(
    counts: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Choose a split for every group.

    Args:
        counts: `[groups, labels]`, how often a group has a label; the last label counts the antibodies themselves.
        shares: `[splits]`, adding up to 1.
        rng: Order and ties.

    Returns:
        `[groups]`, number of the split.
    """
    wanted = shares[:, None] * counts.sum(0)  # [splits, labels], what each split still wants
    chosen = np.full(len(counts), -1)
    while (open_rows := chosen < 0).any():
        left = counts[open_rows, :-1].sum(0)
        # The last label is on every group: it is dealt out when no location is left.
        label = int(np.argmin(np.where(left > 0, left, np.inf))) if (left > 0).any() else -1
        for row in rng.permutation(np.flatnonzero(open_rows & (counts[:, label] > 0))):
            empty = np.bincount(chosen[chosen >= 0], minlength=len(shares)) == 0
            # The last groups go to splits that would otherwise stay empty.
            barred = ~empty if (chosen < 0).sum() <= empty.sum() else wanted[:, -1] < counts[row, -1] / 2
            order = np.lexsort((rng.random(len(shares)), -wanted[:, -1], -wanted[:, label], barred))
            chosen[row] = order[0]
            wanted[order[0]] -= counts[row]
    return chosen


def check_leakage(
    splits: Mapping[str, Collection[str]],
    genes: Mapping[str, str] | None = None,
    cells: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Refuse splits that share an antibody, a gene or a cell.

    Args:
        splits: Split name → antibodies.
        genes: Antibody → gene, empty where unknown; None does not compare genes, as for splits by antibody.
        cells: Split name → cell ids; None does not compare cells.

    Raises:
        InputError: If something straddles two splits; it names what and where.
    """
    _refuse_straddling("antibody", splits)
    if genes is not None:
        by_gene = {
            name: {genes[antibody] for antibody in antibodies if genes.get(antibody)}
            for name, antibodies in splits.items()
        }
        _refuse_straddling("gene", by_gene)
    if cells is not None:
        _refuse_straddling("cell", cells)


def _refuse_straddling(what: str, splits: Mapping[str, Collection[str]]) -> None:
    where: dict[str, list[str]] = {}
    for split, names in splits.items():
        for name in set(names):
            where.setdefault(name, []).append(split)
    shared = sorted(name for name, found in where.items() if len(found) > 1)
    if shared:
        examples = ", ".join(f"{name} ({', '.join(where[name])})" for name in shared[:10])
        raise InputError(
            f"The splits leak: {len(shared)} {what}{'' if len(shared) == 1 else 's'} in more than one split: {examples}"
            f"{', …' if len(shared) > 10 else ''}. Keep each {what} in one split only"
            f"{'; split by gene' if what == 'gene' else ''}."
        )


def read_antibody_lists(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """Read splits from text files with one antibody per line.

    Args:
        files: Split name → text file; empty lines are ignored.

    Returns:
        Split name → its antibodies, sorted.

    Raises:
        InputError: If a list cannot be read, is empty or names an antibody twice, or two lists share one.
    """
    splits = {}
    for split, path in files.items():
        names = read_lines(path)
        if not names or len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})[:10]
            raise InputError(
                f"{path}: expected one antibody per line, each once, got {len(names)} lines"
                f"{' with repeats of ' + ', '.join(twice) if twice else ''}."
            )
        splits[split] = sorted(names)
    check_leakage(splits)
    return splits


def read_published_splits(folder: Path) -> dict[str, list[str]]:
    """Read the antibody lists that the published models were trained, validated and tested on.

    Args:
        folder: Folder that holds the published files; `annotations/splits/published.json` has their names and origin.

    Returns:
        `train`, `validation` and `test` → antibodies, sorted.

    Raises:
        InputError: If a file is missing or not byte-identical to the published one.
    """
    published = json.loads((shipped_folder("annotations") / "splits" / "published.json").read_text(encoding="utf-8"))
    files = {}
    for split, entry in published["lists"].items():
        path = folder / entry["file"]
        if not path.is_file():
            raise InputError(f"{path} is missing: expected the {split} list of {published['source']}.")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != entry["sha256"]:
            raise InputError(
                f"{path} has sha256 {found}, expected {entry['sha256']} ({entry['antibodies']} antibodies of "
                f"{published['source']}). Fetch the file again, or import your own list with --list."
            )
        files[split] = path
    return read_antibody_lists(files)


def parse_named(texts: Sequence[str], what: str) -> dict[str, str]:
    """Read `NAME=VALUE` texts of a command line.

    Raises:
        InputError: If a text has no `=`, or a name occurs twice.
    """
    pairs = [text.partition("=") for text in texts]
    named = {name: value for name, _, value in pairs}
    if len(named) < len(pairs) or not all(name and value for name, _, value in pairs):
        raise InputError(f"{what} must be given as NAME=VALUE, each name once; got {' '.join(texts)}.")
    return named


def parse_fractions(text: str) -> dict[str, float]:
    """Read fractions such as `train=0.8,validation=0.1,test=0.1`.

    Raises:
        InputError: If the text is no such list.
    """
    named = parse_named(text.split(","), "Fractions")
    try:
        return {name: float(value) for name, value in named.items()}
    except ValueError as error:
        raise InputError(f"Fractions must be numbers such as train=0.8,test=0.2; got {text!r}.") from error


def keep_known(
    splits: Mapping[str, Sequence[str]], antibodies: Collection[str]
) -> tuple[dict[str, list[str]], int, int]:
    """Cut splits down to the antibodies at hand.

    Args:
        splits: Split name → antibodies.
        antibodies: Those at hand.

    Returns:
        The splits without unknown antibodies, how many of the listed ones are not at hand, and how many at hand are in
        no split.
    """
    known = set(antibodies)
    kept = {split: [name for name in names if name in known] for split, names in splits.items()}
    listed = sum(map(len, splits.values()))
    used = sum(map(len, kept.values()))
    return kept, listed - used, len(known) - used
