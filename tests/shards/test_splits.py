"""Splits: no leakage, shares as asked for, published lists verified."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.shards.index_splits import import_splits, split_shards
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.splits import (
    check_leakage,
    parse_fractions,
    read_antibody_lists,
    read_published_splits,
    split_antibodies,
)
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def antibodies_of(count: int, seed: int = 0) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Antibodies against genes with one to three of them, and locations of very different frequency."""
    rng = random.Random(seed)
    genes, locations = {}, {}
    for number in range(count):
        name = f"HPA{number:06d}"
        genes[name] = f"GENE{rng.randrange(count // 2)}"
        locations[name] = [f"L{k}" for k in range(6) if rng.random() < 0.6**k * 0.5]
    return genes, locations


def test_by_gene_keeps_genes_together_and_covers_every_antibody() -> None:
    genes, locations = antibodies_of(300)
    splits = split_antibodies(genes, locations, by="gene", fractions=FRACTIONS, seed=0)
    check_leakage(splits, genes)
    assert sorted(name for names in splits.values() for name in names) == sorted(genes)
    for split, share in FRACTIONS.items():
        assert len(splits[split]) == pytest.approx(share * 300, abs=2)


def test_by_antibody_may_part_a_gene() -> None:
    genes, locations = antibodies_of(300)
    splits = split_antibodies(genes, locations, by="antibody", fractions=FRACTIONS, seed=0)
    check_leakage(splits)
    with pytest.raises(InputError, match="genes in more than one split: GENE"):
        check_leakage(splits, genes)


def test_every_location_is_spread_in_proportion() -> None:
    genes, locations = antibodies_of(1000)
    splits = split_antibodies(genes, locations, by="gene", fractions=FRACTIONS, seed=1)
    for name in (f"L{k}" for k in range(6)):
        total = sum(name in found for found in locations.values())
        for split, share in FRACTIONS.items():
            here = sum(name in locations[antibody] for antibody in splits[split])
            assert here == pytest.approx(share * total, abs=max(3, 0.15 * share * total)), (name, split)


def test_same_seed_same_splits_whatever_the_order() -> None:
    genes, locations = antibodies_of(100)
    first = split_antibodies(genes, locations, by="gene", fractions=FRACTIONS, seed=3)
    turned = dict(reversed(genes.items()))
    assert split_antibodies(turned, locations, by="gene", fractions=FRACTIONS, seed=3) == first
    assert split_antibodies(genes, locations, by="gene", fractions=FRACTIONS, seed=4) != first


def test_unknown_genes_do_not_stick_together() -> None:
    genes = {f"A{k}": "" for k in range(10)}
    splits = split_antibodies(genes, {}, by="gene", fractions={"train": 0.5, "test": 0.5}, seed=0)
    assert [len(names) for names in splits.values()] == [5, 5]


@pytest.mark.parametrize("count", [3, 4, 7, 12])
def test_no_split_stays_empty(count: int) -> None:
    genes = {f"A{k}": f"G{k}" for k in range(count)}
    splits = split_antibodies(genes, {name: ["L"] for name in genes}, by="gene", fractions=FRACTIONS, seed=0)
    assert all(splits.values())


def test_equal_digits_are_different_antibodies() -> None:
    genes = {"HPA000123": "A", "CAB000123": "B"}
    splits = split_antibodies(genes, {}, by="antibody", fractions={"train": 0.5, "test": 0.5}, seed=0)
    assert sorted(map(tuple, splits.values())) == [("CAB000123",), ("HPA000123",)]


@pytest.mark.parametrize("fractions", [{}, {"train": 0.8, "test": 0.1}, {"train": 1.1, "test": -0.1}])
def test_odd_fractions_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(InputError, match="add up to 1"):
        split_antibodies({"A": "G"}, {}, by="gene", fractions=fractions, seed=0)


def test_fractions_are_parsed_or_refused() -> None:
    assert parse_fractions("train=0.75,test=0.25") == {"train": 0.75, "test": 0.25}
    for text in ("train", "train=x", "train=0.5,train=0.5", ""):
        with pytest.raises(InputError, match="Fractions"):
            parse_fractions(text)


def test_leaks_are_named() -> None:
    with pytest.raises(InputError, match=r"1 antibody in more than one split: A \(train, test\)"):
        check_leakage({"train": ["A", "B"], "test": ["A"]})
    with pytest.raises(InputError, match=r"1 gene in more than one split: G \(train, test\)"):
        check_leakage({"train": ["A"], "test": ["B"]}, {"A": "G", "B": "G"})
    with pytest.raises(InputError, match=r"1 cell in more than one split: c1"):
        check_leakage({"train": ["A"], "test": ["B"]}, cells={"train": ["c1"], "test": ["c1", "c2"]})


def test_published_lists_are_verified(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = real_data("upstream_annotations/splits")
    splits = read_published_splits(folder)
    assert {name: len(names) for name, names in splits.items()} == {"train": 10433, "validation": 1487, "test": 3460}
    assert "CAB010184" in splits["train"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "test_antibodies.txt").write_bytes((folder / "test_antibodies.txt").read_bytes() + b"\n")
    with pytest.raises(InputError, match=r"test_antibodies.txt has sha256 .*, expected f6e85e4d"):
        read_published_splits(tmp_path)
    (tmp_path / "test_antibodies.txt").unlink()
    with pytest.raises(InputError, match=r"test_antibodies.txt is missing"):
        read_published_splits(tmp_path)


def test_own_lists_are_read_and_checked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("B\n\nA\n")
    (tmp_path / "b.txt").write_text("C\n")
    files = {"train": tmp_path / "a.txt", "test": tmp_path / "b.txt"}
    assert read_antibody_lists(files) == {"train": ["A", "B"], "test": ["C"]}
    (tmp_path / "b.txt").write_text("C\nC\n")
    with pytest.raises(InputError, match=r"b.txt: expected one antibody per line, .* repeats of C"):
        read_antibody_lists(files)
    (tmp_path / "b.txt").write_text("A\n")
    with pytest.raises(InputError, match="splits leak"):
        read_antibody_lists(files)


def test_splits_of_standing_shards_are_changed_in_the_index_alone(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SyntheticCrops(antibodies=6))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    report = split_shards(tmp_path, by="antibody", fractions={"train": 0.5, "test": 0.5}, seed=1)
    assert [len(names) for names in report.index.splits.values()] == [3, 3]
    assert ShardReader(tmp_path).index == report.index
    assert {p.name for p in tmp_path.iterdir() if p.read_bytes() != before[p.name]} == {"index.json"}


def test_lists_are_imported_cut_down_and_refused(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SyntheticCrops(antibodies=4))
    lists = {"train": ["HPA000000", "HPA999999"], "test": ["HPA000001"]}
    report = import_splits(tmp_path, lists, method="mine")
    assert report.index.splits == {"train": ("HPA000000",), "test": ("HPA000001",)}
    assert (report.unknown, report.unused) == (1, 2)
    with pytest.raises(InputError, match="1 gene in more than one split: GENE0"):
        import_splits(tmp_path, lists, method="mine", keep_genes_apart=True)
    with pytest.raises(InputError, match="None of the 1 antibodies"):
        import_splits(tmp_path, {"train": ["HPA999999"]}, method="mine")
    assert ShardReader(tmp_path).index == report.index
