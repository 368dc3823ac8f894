"""Files of a server that are kept: downloaded again only when they have changed, and used without the server."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from subcell_hf.errors import InputError
from subcell_hf.storage.downloads import files
from subcell_hf.storage.downloads.cached_files import keep_current
from tests.cells.published.bucket import Bucket


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(files, "_FIRST_WAIT_S", 0.001)
    with Bucket({"table.csv": b"a,b\n1,2\n"}).serve() as served:
        yield served


def test_a_file_is_downloaded_again_only_if_it_has_changed(bucket: Bucket) -> None:
    path, facts = keep_current(f"{bucket.url}/table.csv", progress=False)
    assert path.read_bytes() == b"a,b\n1,2\n"
    assert keep_current(f"{bucket.url}/table.csv", progress=False) == (path, facts)
    assert bucket.requests == ["GET table.csv", "HEAD table.csv"]
    bucket.files["table.csv"] = b"a,b\n3,4\n"
    assert keep_current(f"{bucket.url}/table.csv", progress=False)[1].sha256 != facts.sha256
    assert path.read_bytes() == b"a,b\n3,4\n"


def test_without_a_network_the_earlier_copy_is_used(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="is not there"):
        keep_current(f"{bucket.url}/missing.csv", progress=False)
    path, facts = keep_current(f"{bucket.url}/table.csv", progress=False)
    bucket.down = True
    with caplog.at_level(logging.WARNING):
        assert keep_current(f"{bucket.url}/table.csv", progress=False) == (path, facts)
    assert "the copy of an earlier run is used" in caplog.text
    before = list(bucket.requests)
    assert keep_current(f"{bucket.url}/table.csv", ask=False, progress=False) == (path, facts)
    assert bucket.requests == before
    path.write_bytes(b"cut")  # a copy that is not what was downloaded is no copy
    with pytest.raises(InputError, match="could not be downloaded"):
        keep_current(f"{bucket.url}/table.csv", progress=False)
