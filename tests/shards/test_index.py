"""An index that is odd is refused before anything is read."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from subcell_hf.errors import InputError
from subcell_hf.shards.index import ShardIndex
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten antibodies, three fields of five cells each."""
    path = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=10, fields_per_antibody=3, cells_per_field=5)
    write_synthetic(path, source, ShardSettings(fields_per_shard=6, split_fractions={"train": 0.8, "test": 0.2}))
    return path


def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_index(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize(
    "name", ["../secret.tar", "/etc/passwd", "pipe:id.tar", "http://x/y.tar", "a b.tar", ".tar", ""]
)
def test_shards_outside_of_the_folder_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copy = changed(folder, tmp_path)
    shards = json.loads((copy / "index.json").read_text())["shards"]
    edit_index(copy, shards=[{**shards[0], "file": name}, *shards[1:]])
    with pytest.raises(InputError, match=r"names the shard .*expected a plain file name"):
        ShardReader(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2, this subcell_hf reads version 1. Update subcell_hf"),
        ({"format": "other"}, 'is no index of shards: expected "format": "subcell-shards"'),
        ({"crop_size_px": 10**6}, "would decode to"),
        ({"dtype": "object"}, "dtype object cannot be stored"),
        ({"antibodies": ["A", "A"]}, "names a antibody twice: A"),
        ({"genes": ["G"]}, "has 1 genes for 10 antibodies"),
        ({"splits": {"train": ["nobody"]}}, "puts nobody into split 'train', but"),
        ({"splits": {"a": ["HPA000001"], "b": ["HPA000001"]}}, "HPA000001 into the splits 'a' and 'b'"),
        ({"shards": [{"file": "shard-000000.tar"}]}, "is incomplete"),
        ({"cells": "many"}, "index.json is incomplete or damaged (ValueError"),
        ({"shards": []}, "150 cells lie outside their shard"),
        ({"cells": 3}, "the index expects 3 rows"),
        ({"classes": ["Cytosol"]}, "Unknown location 'Nucleoplasm'"),
        ({"cell_lines": []}, "names the cell line"),
    ],
)
def test_odd_indexes_are_refused(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    copy = changed(folder, tmp_path)
    edit_index(copy, **changes)
    with pytest.raises(InputError, match=re.escape(message)):
        ShardReader(copy)


def test_other_text_than_an_index(folder: Path, tmp_path: Path) -> None:
    for text in (b"", b"[]", b"\x80\x04.", b"{"):
        with pytest.raises(InputError, match=r"not JSON|is no index of shards"):
            ShardIndex.from_json(text, "index.json")
    with pytest.raises(FileNotFoundError, match=r"has no index.json: it is not a finished folder of shards"):
        ShardReader(tmp_path)
