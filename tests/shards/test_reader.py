"""Any cell from anywhere, and nothing that is damaged."""

import functools
import http.server
import json
import logging
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from subcell_hf.errors import InputError, UnreachableError
from subcell_hf.shards.batch_plan import BatchSettings, InOrderPlan
from subcell_hf.shards.reader import ShardReader, Span, merge_spans
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.shards.streaming import ShardBatch, ShardDataset, in_order_loader, training_loader
from subcell_hf.storage.downloads import persistence
from tests.cells.synthetic_crops import SyntheticCrops, expected_pixels, write_synthetic

SETTINGS = BatchSettings(antibodies_per_batch=4, cells_per_antibody=6, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten antibodies, three fields of five cells each."""
    path = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=10, fields_per_antibody=3, cells_per_field=5)
    write_synthetic(path, source, ShardSettings(fields_per_shard=6, split_fractions={"train": 0.8, "test": 0.2}))
    return path


@pytest.fixture
def reader(folder: Path) -> ShardReader:
    return ShardReader(folder)


def ids(batches: list[ShardBatch]) -> list[list[str]]:
    return [batch["cell_ids"] for batch in batches]


def whole(reader: ShardReader, epoch: int = 0, settings: BatchSettings = SETTINGS, **options: Any) -> list[ShardBatch]:
    """All batches of an epoch."""
    loader = training_loader(reader, settings, split=None, **options)
    loader.set_epoch(epoch)
    return list(loader)


def test_splits_are_chosen_by_name(reader: ShardReader) -> None:
    trained = {name for batch in in_order_loader(reader, 32, split="train") for name in batch["cell_ids"]}
    tested = {name for batch in in_order_loader(reader, 32, split="test") for name in batch["cell_ids"]}
    assert len(trained) == 120
    assert len(tested) == 30
    assert {f"HPA{int(name.split('_')[0]):06d}" for name in tested} == set(reader.index.splits["test"])
    with pytest.raises(InputError, match="no split 'validation'; it has train, test"):
        reader.split_rows("validation")


def test_reader_goes_to_other_processes(reader: ShardReader) -> None:
    copy = pickle.loads(pickle.dumps(ShardDataset(reader, InOrderPlan(reader.split_rows(None), 4))))
    assert copy[0, 3]["cell_ids"] == reader.cells.names(np.arange(12, 16))


def test_any_fsspec_url(folder: Path, reader: ShardReader) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/shards", recursive=True)
    expected = whole(reader)
    for url in ("memory://shards", "simplecache::memory://shards", f"file://{folder}"):
        remote = ShardReader(url)
        found = whole(remote)
        assert ids(found) == ids(expected)
        assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(found, expected, strict=True))
    memory.rm("/shards", recursive=True)


def test_shards_on_s3(folder: Path, reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that speaks S3's protocol, on the loopback; found through the environment, as a real one is."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "for-the-loopback")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir("cells")
        store.put(str(folder), "cells/shards", recursive=True)
        expected = whole(reader)
        for workers in (0, 2):
            found = whole(ShardReader("s3://cells/shards"), workers=workers)
            assert ids(found) == ids(expected)
            assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(found, expected, strict=True))
        with pytest.raises(FileNotFoundError, match=r"s3://cells/nothing has no index\.json"):
            ShardReader("s3://cells/nothing")
    finally:
        server.stop()


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with the range requests that http.server lacks; fails now and then."""

    failures = 0
    with_ranges = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or not self.with_ranges:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        start, end = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        self.wfile.write(content[start : end + 1])


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[RangeHandler]]]:
    """The folder's URL and the handler, whose class attributes say how it behaves."""
    handler = type("Handler", (RangeHandler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.01)
    yield f"http://127.0.0.1:{server.server_port}/{folder.name}", handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_http(served: tuple[str, type[RangeHandler]], reader: ShardReader, workers: int) -> None:
    url, handler = served
    handler.failures = 2
    found = whole(ShardReader(url), workers=workers)
    expected = whole(reader)
    assert ids(found) == ids(expected)
    assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(found, expected, strict=True))


def test_http_that_stays_broken_or_has_no_such_folder(served: tuple[str, type[RangeHandler]]) -> None:
    url, handler = served
    with pytest.raises(FileNotFoundError, match=r"has no index.json: it is not a finished folder of shards"):
        ShardReader(url + "x")
    handler.failures = 1000
    with pytest.raises(UnreachableError, match="network read failed 4 times"):
        ShardReader(url)


def test_http_without_ranges_is_named(served: tuple[str, type[RangeHandler]]) -> None:
    url, handler = served
    reader = ShardReader(url)
    handler.with_ranges = False
    with pytest.raises(InputError, match=r"does not answer range requests: .* Read it as simplecache::http://127"):
        reader.read(np.arange(4))
    cached = ShardReader(f"simplecache::{url}")
    np.testing.assert_array_equal(cached.read(np.arange(1))[0][0], expected_pixels("0_A1_0_1", 8, "uint8"))


def test_neighbours_are_fetched_together() -> None:
    spans = [Span(0, 5_000, 6_000), Span(0, 0, 1_000), Span(1, 0, 1_000), Span(0, 200_000, 200_010), Span(0, 0, 1_000)]
    assert merge_spans(spans) == {Span(0, 0, 6_000): [1, 4, 0], Span(0, 200_000, 200_010): [3], Span(1, 0, 1_000): [2]}
    large = [Span(0, k * 10_000_000, (k + 1) * 10_000_000) for k in range(3)]
    assert list(merge_spans(large)) == large
    assert merge_spans([]) == {}


def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_index(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**record, **changes}))


def test_flipped_bit_is_found_when_its_cell_is_read(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    cells = ShardReader(copy).cells
    path = copy / "shard-000001.tar"
    row = int(np.flatnonzero(cells.shard == 1)[3])
    content = bytearray(path.read_bytes())
    content[int(cells.offset[row] + cells.pixels_start[row]) + 10] ^= 4
    path.write_bytes(content)
    reader = ShardReader(copy)
    reader.read(np.array([row - 1, row + 1]))
    name = cells.names(np.array([row]))[0]
    with pytest.raises(
        InputError, match=rf"Cell {name} at byte {cells.offset[row]} of .*shard-000001.tar: its checksum"
    ):
        reader.read(np.array([row]))


def test_files_that_do_not_agree_with_the_index_are_named(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    path = copy / "shard-000002.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-5000])
    with pytest.raises(InputError, match=rf"shard-000002.tar has {len(content) - 5000} bytes, expected {len(content)}"):
        ShardReader(copy)
    rows = np.flatnonzero(ShardReader(copy, compare_files=False).cells.shard == 2)
    with pytest.raises(InputError, match="the shard is truncated"):
        ShardReader(copy, compare_files=False).read(rows)
    path.unlink()
    with pytest.raises(InputError, match=r"shard-000002.tar is missing"):
        ShardReader(copy)
    path.write_bytes(content)
    shutil.copy(path, copy / "other.tar")
    with pytest.raises(InputError, match=r"other.tar is not in the index"):
        ShardReader(copy)


def test_index_and_table_must_belong_together(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    (copy / "cells.parquet").write_bytes((copy / "cells.parquet").read_bytes()[:-1])
    with pytest.raises(InputError, match=r"cells.parquet has sha256 .*, but the index expects"):
        ShardReader(copy)


@pytest.mark.parametrize("url", ["pipe:cat shards", "simplecache::pipe:cat shards"])
def test_commands_are_never_run(url: str) -> None:
    with pytest.raises(InputError, match="commands are never run"):
        ShardReader(url)
