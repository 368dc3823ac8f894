"""Inspection finds whatever is not as the index says."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from subcell_hf.shards.inspection import inspect_shards
from subcell_hf.shards.reader import ShardReader
from tests.cells.synthetic_crops import write_synthetic


def rewrite(path: Path, change: str) -> None:
    """Write a tar anew with a member taken out, doubled or added."""
    with tarfile.open(path) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    if change == "missing":
        del members[4]
    elif change == "duplicate":
        members.append(members[3])
    elif change == "pickle":
        members.append((tarfile.TarInfo("000000-00000-000.payload.pickle"), b"\x80\x04."))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks: 000000-00000-001.pixels.dzst"),
        ("duplicate", "has twice: 000000-00000-001.mask.pzst"),
        ("pickle", "unexpected members, which may be unsafe to open: 000000-00000-000.payload.pickle"),
    ],
)
def test_inspection_finds_members_that_are_wrong(tmp_path: Path, change: str, message: str) -> None:
    write_synthetic(tmp_path)
    rewrite(tmp_path / "shard-000000.tar", change)
    problems = "\n".join(inspect_shards(tmp_path, progress=False).problems)
    assert message in problems
    assert "shard-000000.tar has sha256" in problems
    assert "shard-000001.tar" not in problems


def test_inspection_finds_truncation_flips_and_strangers(tmp_path: Path) -> None:
    write_synthetic(tmp_path)
    assert inspect_shards(tmp_path, progress=False).problems == ()
    first, second, third = (tmp_path / f"shard-{number:06d}.tar" for number in range(3))
    shutil.copy(first, tmp_path / "shard-000009.tar")
    first.write_bytes(first.read_bytes()[:40_000])
    content = bytearray(second.read_bytes())
    content[int(ShardReader(tmp_path, compare_files=False).cells.offset[30]) + 3] ^= 1
    second.write_bytes(content)
    third.unlink()
    problems = "\n".join(inspect_shards(tmp_path, progress=False, workers=2).problems)
    assert "shard-000009.tar is not in the index" in problems
    assert "shard-000002.tar is missing" in problems
    assert "shard-000000.tar has 40000 bytes, expected" in problems
    assert "shard-000000.tar breaks off after" in problems or "shard-000000.tar lacks" in problems
    assert "the shard is truncated" in problems
    assert "shard-000001.tar has sha256" in problems
    assert "its checksum differs" in problems
