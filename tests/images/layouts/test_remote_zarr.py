"""OME-Zarr behind `https://` and `s3://`: read as on a disk, and refused in one sentence where nobody answers."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from subcell_hf.errors import UnreachableError
from subcell_hf.images.decoders.remote_paths import RemotePath, path_of
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, list_fields
from subcell_hf.storage.downloads import persistence
from tests.images.layouts.test_ome_zarr import _write_labels
from tests.images.layouts.test_spatialdata import MASK, _store, _tile
from tests.images.written_fields import COLOURS, label_mask
from tests.outside.written_zarr import stack, write_plate


class _Quiet(SimpleHTTPRequestHandler):
    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        pass

    def log_error(self, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("version", [2, 3])
def test_a_plate_behind_http(tmp_path: Path, served: str, version: int) -> None:
    write_plate(tmp_path / "a plate.zarr", [stack(1)], version, wells=["A/1", "B/2"])
    _write_labels(tmp_path / "a plate.zarr/B/2/0", {"cells": label_mask((64, 64))}, version)
    first, second = list_fields(f"{served}/a plate.zarr").fields
    assert (first.name, second.metadata) == ("a plate_A01_0", {"plate": "a plate", "well": "B02", "site": "0"})
    field = second.read()
    np.testing.assert_array_equal(field.pixels, stack(1))
    np.testing.assert_array_equal(field.label_mask, label_mask((64, 64)))
    assert (field.channels, first.read().label_mask) == (COLOURS, None)
    # One image, as a path that has lost a slash has it.
    (alone,) = list_fields(Path(f"{served}/a plate.zarr/B/2/0"), ReadingOptions(channels=(COLOURS[1],))).fields
    assert alone.name == "a plate_B02_0"
    np.testing.assert_array_equal(alone.read().pixels, stack(1)[1:2])


@pytest.mark.parametrize("version", [2, 3])
def test_a_spatialdata_store_behind_http(tmp_path: Path, served: str, version: int) -> None:
    images = {"a": _tile(0, "micrometer"), "b": _tile(1, "micrometer")}
    pixels = _store(tmp_path / "s.zarr", images, {"of b": images["b"]}, version)
    with pytest.raises(FieldError, match=r"does not list its images.*or give the URL of one image"):
        list_fields(f"{served}/s.zarr")
    (alone,) = list_fields(f"{served}/s.zarr/images/b").fields
    zarr.consolidate_metadata(tmp_path / "s.zarr")
    first, second = list_fields(f"{served}/s.zarr").fields
    assert (first.name, second.name, alone.name) == ("s_a", "s_b", "s_b")
    assert first.read().label_mask is None
    for item in (second, alone):
        field = item.read()
        assert field.pixel_size_um == pytest.approx(0.1)
        np.testing.assert_array_equal(field.pixels, pixels["b"])
        np.testing.assert_array_equal(field.label_mask, MASK)


def test_what_a_server_lacks_is_said(tmp_path: Path, served: str) -> None:
    with pytest.raises(FieldError, match=r"nothing\.zarr is no OME-Zarr"):
        list_fields(f"{served}/nothing.zarr")
    write_plate(tmp_path / "p.zarr", [stack(1)])
    (tmp_path / "p.zarr/A/1/0/0/1.0.1").unlink()
    with pytest.raises(FieldError, match="1 of its 16 chunks are missing"):
        list_fields(f"{served}/p.zarr").fields[0].read()


def test_without_a_network_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0)
    with pytest.raises(UnreachableError, match=r"read of http://127\.0\.0\.1:9/p\.zarr/\S+ failed 4 times"):
        list_fields("http://127.0.0.1:9/p.zarr")


def test_a_plate_in_s3_is_read_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        write_plate(tmp_path / "p.zarr", [stack(1)], 3)
        store = s3fs.S3FileSystem(key="testing", secret="testing", endpoint_url=address, skip_instance_cache=True)
        store.mkdir("bucket")
        store.put(str(tmp_path / "p.zarr"), "bucket/p.zarr", recursive=True)
        store.chmod("bucket/p.zarr", acl="public-read", recursive=True)
        (field,) = list_fields("s3://bucket/p.zarr").fields
        np.testing.assert_array_equal(field.read().pixels, stack(1))
    finally:
        server.stop()


def test_urls_are_paths_by_name() -> None:
    url = path_of("s3://bucket/p.zarr")
    assert isinstance(url / "A", RemotePath)
    assert str(url / "A/1") == "s3://bucket/p.zarr/A/1"
    assert str((url / "A").parent) == str(url)
    assert path_of("C:/images") == Path("C:/images")
