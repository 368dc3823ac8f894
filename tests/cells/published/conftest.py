"""One simulated bucket for all tests of published cells."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from subcell_hf.storage.downloads import files as downloads
from subcell_hf.storage.downloads import persistence
from tests.cells.published.bucket import Bucket, small_bucket


@pytest.fixture(scope="session")
def published() -> Bucket:
    """The files; take `bucket` to serve them."""
    return small_bucket()


@pytest.fixture
def bucket(published: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A server of the files, a cache of its own, and pauses that do not last."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.001)
    with Bucket(published.files).serve() as served:
        yield served
