"""The server behind the annotation page: who may ask, what is refused, and that an answer means it is on the disk."""

import contextlib
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation import AnnotationSession, read_labels
from subcell_hf.hub import AnnotationServer, make_page
from subcell_hf.tables.cell_pictures import CellPicture, write_pictures
from subcell_hf.tables.files import write_parquet
from subcell_hf.workflows import AnnotationInput, AnnotationPage, open_annotation
from tests.evaluation.annotation.sorted_cells import sorted_cells
from tests.forked import Forked

PICTURE = b"\x89PNG picture"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnnotationServer]:
    table, _ = sorted_cells(60)
    shown = {f"cell {number}": PICTURE for number in range(40)}
    session = AnnotationSession(table, tmp_path_factory.mktemp("labels") / "l.jsonl", annotator="ann", shown=shown)
    content = make_page(session, shown, "A <b>title</b>")
    with AnnotationServer(session, content, lambda: ["out contains labels.csv."]) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def ask(
    server: AnnotationServer,
    path: str = "state",
    body: Any = None,
    headers: dict[str, str] | None = None,
    token: str | None = None,
) -> tuple[int, Any, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    sent = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} if sent is not None else {}
    address = f"/{server.token if token is None else token}/{path}"
    connection.request("GET" if sent is None else "POST", address, sent, kind | (headers or {}))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    is_json = answer.headers["Content-Type"] == "application/json"
    return answer.status, json.loads(content) if is_json else content, answer.headers


def test_labels_are_on_the_disk_when_the_answer_comes(server: AnnotationServer) -> None:
    record = {"id": "1", "action": "label", "cell_id": "cell 3", "class_name": "</script>", "chosen_by": "random"}
    for _ in range(2):  # a second time, as after a lost answer
        status, state, _ = ask(server, "labels", {"records": [record]})
        assert status == 200
        assert [one.cell_id for one in read_labels(server.session.file.path)] == ["cell 3"]
    assert state["classes"] == [{"name": "</script>", "labels": 1}]
    assert state["labels"] == {"3": 0}
    assert [one["id"] for one in state["undoable"]] == ["1"]
    other = {"id": "2", "action": "label", "cell_id": "cell 50", "class_name": "dots"}
    assert ask(server, "labels", {"records": [other]})[1]["labelled"] == 2
    for _ in range(200):
        state = ask(server)[1]
        if not state["training"]:
            break
        time.sleep(0.05)
    assert len(state["predicted"]) == 40
    assert {one["cell"] for one in state["proposals"]} <= {*range(40)} - {3}
    assert state["error"] == ""


def test_the_page_escapes_and_allows_itself_nothing_else(server: AnnotationServer) -> None:
    status, page, headers = ask(server, "")
    assert status == 200
    assert b"A &lt;b&gt;title&lt;/b&gt;" in page
    assert b"connect-src 'self'" in page
    assert headers["Referrer-Policy"] == "no-referrer"
    assert ask(server, "picture/39.png")[1] == PICTURE
    assert ask(server, "export", {})[1] == {"written": ["out contains labels.csv."]}
    assert ask(server, "strategy", {"strategy": "random"})[1]["strategy"] == "random"


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"token": "guessed"}, 403, "no valid token"),
        ({"token": ""}, 403, "no valid token"),
        ({"headers": {"Host": "evil.example:80"}}, 403, "another host"),
        ({"path": "picture/40.png"}, 404, "no such picture"),
        ({"path": "picture/../l.jsonl"}, 404, "no such picture"),
        ({"path": "files"}, 404, "no such page"),
        ({"path": "labels", "body": b"{"}, 400, "not JSON"),
        ({"path": "labels", "body": []}, 400, "no JSON object"),
        ({"path": "labels", "body": {}}, 400, "no list of records"),
        ({"path": "labels", "body": {"records": [{"action": "label"}]}}, 400, "no cell_id"),
        ({"path": "labels", "body": {"records": [3]}}, 400, "expected an object"),
        ({"path": "labels", "body": {"records": []}, "headers": {"Content-Type": "text/plain"}}, 415, "not JSON"),
        ({"path": "labels", "body": b"{}", "headers": {"Content-Length": "99999999"}}, 413, "expected at most"),
        ({"path": "strategy", "body": {"strategy": "best"}}, 400, "expected one of mixed"),
    ],
)
def test_what_is_refused(server: AnnotationServer, request_: dict[str, Any], status: int, reason: str) -> None:
    before = len(server.session.records())
    found, content, _ = ask(server, **request_)
    assert (found, reason in content["error"]) == (status, True), content
    assert len(server.session.records()) == before
    assert ask(server)[0] == 200


def test_a_port_in_use_is_named(server: AnnotationServer, tmp_path: Path) -> None:
    table, _ = sorted_cells(60)
    write_parquet(table, tmp_path / "embeddings.parquet")
    write_pictures([CellPicture("cell 1", PICTURE, b"", None)], tmp_path / "pictures.parquet")
    page = AnnotationPage(port=server.server_port, browser=False)
    with pytest.raises(InputError, match=f"{server.server_port} cannot be opened .* another --port"):
        open_annotation(tmp_path, AnnotationInput(tmp_path / "l.jsonl"), page)


def test_kill_9_of_the_page_loses_no_label(tmp_path: Path) -> None:
    write_parquet(sorted_cells(60)[0], tmp_path / "embeddings.parquet")
    write_pictures([CellPicture(f"cell {row}", PICTURE, b"", None) for row in range(4)], tmp_path / "pictures.parquet")
    words = ("annotate", str(tmp_path), "--labels", str(tmp_path / "l.jsonl"), "--port", "0", "--no-browser")
    page = Forked("-m", "subcell_hf.cli", *words, log=tmp_path / "log")
    while not (address := re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/", page.output)):
        assert page.poll() is None, page.output
        time.sleep(0.02)
    confirmed: list[str] = []

    def give_labels() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=20)
        with contextlib.suppress(OSError, http.client.HTTPException):  # the page is killed
            for turn in range(10_000):
                record = {"id": str(turn), "action": "label", "cell_id": f"cell {turn % 60}", "class_name": "dots"}
                body = json.dumps({"records": [record]})
                connection.request("POST", f"/{address[2]}/labels", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                confirmed.append(str(turn))

    labelling = Thread(target=give_labels)
    labelling.start()
    while len(confirmed) < 30:
        assert labelling.is_alive()
        time.sleep(0.001)
    os.kill(page.pid, signal.SIGKILL)
    labelling.join()
    assert page.wait() == -signal.SIGKILL
    assert [record.id for record in read_labels(tmp_path / "l.jsonl")][: len(confirmed)] == confirmed
