"""Baselines that an evaluation kept are checked before the next one uses them; damaged ones are made again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from subcell_hf.tables.files import read_table
from subcell_hf.workflows.evaluation.table_baselines import BASELINES, find_baselines
from tests.inference.embedding_runs import save_tiny_model, write_fields
from tests.outside.test_damaged_parts import cut, tables
from tests.workflows.evaluation.test_table_baselines import embed


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the baselines of its cells."""
    home = tmp_path_factory.mktemp("home")
    write_fields(home / "images", 8)
    save_tiny_model(home / "model")
    run = embed(home, home / "run")
    find(run)
    return run


def find(run: Path) -> dict[str, Path]:
    found = find_baselines(run, read_table(run), BASELINES, images=None, output=run.parent / "out", workers=0)
    assert found.missing == ()
    return dict(found.tables)


def flip_page(path: Path) -> None:
    """Flip one bit of the last column's values, which lie before the footer."""
    content = bytearray(path.read_bytes())
    content[-8 - int.from_bytes(content[-8:-4], "little") - 100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("untrained/embeddings.parquet", flip_page),
        ("untrained/run.json", cut),
        ("features.parquet", flip_page),
        ("pixels.parquet", Path.unlink),
    ],
)
def test_damaged_baselines_are_made_again(
    damage: Callable[[Path], None], name: str, kept: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(kept, tmp_path / "run")
    damage(run / "baselines" / name)
    find(run)
    assert tables(run / "baselines") == tables(kept / "baselines")
