"""A plate behind a URL gives the table that it gives on a disk, also where its server fails in the middle."""

import csv
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from click.testing import Result
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.images.decoders import remote_paths
from subcell_hf.storage.downloads import persistence
from tests.images.layouts.written_plates import DYES, PLATE, Plate, simulate_plate, write_zarr
from tests.inference.embedding_runs import save_tiny_model


class Server(ThreadingHTTPServer):
    """Serves a folder; what it answers can be changed.

    Attributes:
        answer: From a path, and how often it was asked for before, to what is done instead of an answer: a status,
            `cut` for half of the content, `close` for none, `silent` for nothing at all; None answers.
        asked: Path → how often it was asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.answer: Callable[[str, int], int | str | None] = lambda path, before: None
        self.asked: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.closing = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no news."""


class _Handler(SimpleHTTPRequestHandler):
    server: Server

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        pass

    def log_error(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        before = self.server.asked[self.path]
        self.server.asked[self.path] += 1
        answer = self.server.answer(self.path, before)
        if isinstance(answer, int):
            self.send_error(answer)
        elif answer == "cut" and (content := self.send_head()) is not None:
            data = content.read()
            self.wfile.write(data[: len(data) // 2])
            content.close()
        elif answer == "silent":
            self.server.closing.wait(10)
        elif answer is None:
            super().do_GET()


@pytest.fixture(scope="module")
def plate() -> Plate:
    """Two fields without a pixel of 0, the value that chunks have that are not stored."""
    simulated = simulate_plate(sites=1)
    return {
        place: {dye: np.maximum(pixels, 1) for dye, pixels in planes.items()} for place, planes in simulated.items()
    }


@pytest.fixture(scope="module")
def folder(plate: Plate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_zarr(folder, plate)
    return folder


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0)
    served = Server(folder)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield served
    served.closing.set()
    served.shutdown()
    thread.join()
    served.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", tuple(DYES))


def embed(source: str, model: Path, output: Path) -> Result:
    words = ["embed", source, "--model", str(model), "--output", str(output), "--no-report", "--device", "cpu"]
    words += ["--precision", "fp32"]
    for colour, dye in DYES.items():
        words += ["--channel-mapping", f"{dye}={colour}"]
    return CliRunner().invoke(app, words)


def table_of(output: Path) -> pa.Table:
    return parquet.read_table(output / "embeddings.parquet").replace_schema_metadata()


@pytest.fixture(scope="module")
def expected(folder: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    output = tmp_path_factory.mktemp("expected") / "out"
    done = embed(str(folder / f"{PLATE}.zarr"), model, output)
    assert done.exit_code == 0, done.output
    return table_of(output)


@pytest.mark.parametrize("failure", [503, "cut", "close"])
def test_a_server_that_fails_now_and_then_gives_the_same_table(
    failure: int | str, server: Server, model: Path, expected: pa.Table, tmp_path: Path
) -> None:
    server.answer = lambda path, before: failure if before < 2 and path.endswith(("1.1.1", ".zattrs")) else None
    done = embed(f"{server.url}/{PLATE}.zarr", model, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert table_of(tmp_path / "out").equals(expected)
    asked = {path[-5:]: number for path, number in server.asked.items() if "/B/2/0/0/1." in path}
    assert asked["1.1.1"] == asked["1.1.0"] + 2


def test_a_server_that_falls_silent_is_asked_again(
    server: Server, model: Path, expected: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_paths, "SILENCE_S", 0.5)
    server.answer = lambda path, before: "silent" if path.endswith("1/0.1.1") and not before else None
    done = embed(f"{server.url}/{PLATE}.zarr", model, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert table_of(tmp_path / "out").equals(expected)


def test_a_server_that_stops_ends_the_run_which_is_resumed(
    server: Server, model: Path, expected: pa.Table, tmp_path: Path
) -> None:
    url = f"{server.url}/{PLATE}.zarr"
    server.answer = lambda path, before: 500 if "/C/11/0/0/1." in path else None
    done = embed(url, model, tmp_path / "out")
    assert done.exit_code == 2
    assert f"The network read of {url}/C/11/0/0/1." in done.output
    assert "failed 4 times" in done.output
    assert "Run the same command again later." in done.output
    assert not (tmp_path / "out" / "skipped.csv").exists()
    server.answer = lambda path, before: None
    done = embed(url, model, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert table_of(tmp_path / "out").equals(expected)


@pytest.mark.parametrize(
    ("failure", "place", "reason"),
    [
        (404, "/C/11/0/0/1.1.1", "1 of its 18 chunks are missing"),
        (403, "/C/11/0/0/1.1.1", "the server does not allow to read 0/1.1.1 (403 Forbidden)"),
        (404, "/C/11/0/.zattrs", "no OME-Zarr image that can be read"),
        (403, "/C/11/.zattrs", "no OME-Zarr image that can be read"),
    ],
)
def test_what_a_server_lacks_or_forbids_is_skipped_with_the_reason(
    failure: int, place: str, reason: str, server: Server, model: Path, expected: pa.Table, tmp_path: Path
) -> None:
    server.answer = lambda path, before: failure if path.endswith(place) else None
    done = embed(f"{server.url}/{PLATE}.zarr", model, tmp_path / "out")
    assert done.exit_code == 3, done.output
    with (tmp_path / "out" / "skipped.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["input"].startswith(f"{PLATE}_C11")
    assert reason in row["reason"]
    there = expected.filter(pa.compute.equal(expected["well"], "B02"))
    assert table_of(tmp_path / "out").equals(there)
