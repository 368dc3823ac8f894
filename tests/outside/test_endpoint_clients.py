"""The endpoint takes what programs send, refuses what is no request, and lets no slow client delay another."""

import base64
import http.client
import json
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from subcell_hf.hub.endpoint.endpoint_clients import Clients
from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint.endpoint_images import Limits, RequestError
from subcell_hf.hub.endpoint.endpoint_server import MAX_ANSWERED, EndpointServer
from tests.hub.test_endpoint import cell_of, make_crop, npy, post
from tests.hub.tiny_models import save_tiny

CELL = cell_of(make_crop())


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> EndpointHandler:
    folder = save_tiny("SubCellForImageClassification", tmp_path_factory.mktemp("endpoint") / "model")
    return EndpointHandler(str(folder), Limits(max_request_bytes=500_000), trust_remote_code=False)


@contextmanager
def serving(handler: EndpointHandler, **options: Any) -> Iterator[EndpointServer]:
    with EndpointServer(handler, **options) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def server(handler: EndpointHandler) -> Iterator[EndpointServer]:
    with serving(handler) as server:
        yield server


def connect(server: EndpointServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=30)


def talk(server: EndpointServer, content: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes as they are; status and content of the first answer."""
    with connect(server) as client:
        client.sendall(content)
        return read_answer(client)


def read_answer(client: socket.socket) -> tuple[int, dict[str, Any]]:
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.status, json.loads(answer.read() or b"{}")


def head(*lines: str, method: str = "POST /") -> bytes:
    return "\r\n".join([f"{method} HTTP/1.1", "Host: here", *lines, "", ""]).encode()


# ---- What is sent ----


def encodings(content: bytes) -> dict[str, str]:
    plain = base64.b64encode(content).decode()
    return {
        "lines of `base64 FILE`": "\n".join(textwrap.wrap(plain, 76)) + "\n",
        "lines of Windows": "\r\n".join(textwrap.wrap(plain, 64)) + "\r\n",
        "MIME": base64.encodebytes(content).decode(),
        "without padding": plain.rstrip("="),
        "URL-safe": base64.urlsafe_b64encode(content).decode(),
        "URL-safe, without padding": base64.urlsafe_b64encode(content).decode().rstrip("="),
        "data URL": f"data:application/octet-stream;base64,{plain}",
        "data URL in capitals": f"DATA:image/tiff;charset=x;BASE64,{plain}",
        "data URL, percent-encoded": f"data:image/tiff;base64,{quote(plain, safe='')}",
    }


@pytest.mark.parametrize("kind", encodings(b""))
def test_base64_as_programs_write_it(kind: str, handler: EndpointHandler) -> None:
    content = npy(make_crop())
    content += b"\0" * (1 - len(content) % 3)  # so that there is padding
    image = encodings(content)[kind]
    assert handler({"inputs": {"image": image}}) == handler({"inputs": CELL})


@pytest.mark.parametrize(
    "image",
    ["data:text/plain,hello", "data:", "data:image/png;base64", "AAAAA", "äöü", "\ud800", "=", "/etc/passwd", " "],
)
def test_other_text_is_refused(image: str, handler: EndpointHandler) -> None:
    with pytest.raises(RequestError) as caught:
        handler({"inputs": {"image": image}})
    assert caught.value.status in (400, 415)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_know(value: float, server: EndpointServer) -> None:
    crop = make_crop().astype(np.float32)
    crop[0, 3, 3] = value
    assert post(server, {"inputs": cell_of(crop)})[0] == 422
    body = json.dumps({"inputs": {**CELL, "pixel_size_um": value}, "parameters": {"threshold": 0.1}})
    assert post(server, body.encode())[0] == 400


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"inputs": ', b"[" * 200_000, b'{"inputs": ' + b"9" * 5000 + b"}",
        b'{"inputs": {"image": {"image": {"image": ' + b"[" * 500, b"\x00" * 9, "ä".encode("latin-1"),
    ],
)  # fmt: skip
def test_what_is_no_json(body: bytes, server: EndpointServer) -> None:
    status, answer = post(server, body)
    assert status == 400
    assert len(answer["error"]) <= 1000


def test_json_in_any_unicode(server: EndpointServer) -> None:
    for encoding in ("utf-8", "utf-16", "utf-32"):
        assert post(server, json.dumps({"inputs": CELL}).encode(encoding))[0] == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((f"Content-Length: {'9' * 5000}",), 400),
        (("Content-Length: 99999999999999999",), 413),
        (("Content-Length: -1",), 411),
        (("Content-Length: +5",), 411),
        (("Content-Length: 0x10",), 411),
        (("Content-Length: 1_0",), 411),
        (("Content-Length: \u0663",), 411),
        ((), 411),
        (("Content-Length: 3", "Content-Length: 4"), 400),
        (("Content-Length: 3", "Transfer-Encoding: chunked"), 400),
        (("Transfer-Encoding: gzip",), 501),
        (tuple(f"X-{number}: 1" for number in range(200)), 431),
        ((f"X: {'y' * 70_000}",), 431),
    ],
)
def test_headers_that_are_wrong(lines: tuple[str, ...], status: int, server: EndpointServer) -> None:
    found, answer = talk(server, head(*lines))
    assert (found, list(answer)) == (status, ["error"])


def test_request_lines_that_are_wrong(server: EndpointServer) -> None:
    for line in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"):
        status, answer = talk(server, line)
        assert status in (400, 414, 505)
        assert list(answer) == ["error"]


def test_other_methods(server: EndpointServer) -> None:
    for method, status in (("HEAD", 200), ("GET", 200), ("OPTIONS", 405), ("PUT", 405)):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.request(method, "/health?x=1")
        answer = connection.getresponse()
        assert answer.status == status
        assert bool(answer.read()) is (method != "HEAD")
        assert (answer.getheader("Allow") is not None) is (status == 405)


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: 1\r\n\r\n"


def test_a_body_in_chunks_and_another_request_after_it(server: EndpointServer) -> None:
    body = json.dumps({"inputs": CELL}).encode()
    with connect(server) as client:
        for _ in range(2):
            client.sendall(head("Transfer-Encoding: chunked") + chunked(body))
            assert read_answer(client)[0] == 200
        client.sendall(head("Content-Length: 2") + b"{}")
        assert read_answer(client)[0] == 400
        client.sendall(head(f"Content-Length: {len(body)}") + body)
        assert read_answer(client)[0] == 200


@pytest.mark.parametrize("body", [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n0\r\n\r\n", b"f" * 300, b"\r\n", b"1e9\r\n"])
def test_chunks_that_are_wrong(body: bytes, server: EndpointServer) -> None:
    with connect(server) as client:
        client.sendall(head("Transfer-Encoding: chunked") + body)
        client.shutdown(socket.SHUT_WR)
        assert read_answer(client)[0] == 400


def test_too_much_in_chunks_is_refused_and_read_by_the_client(server: EndpointServer) -> None:
    assert talk(server, head("Transfer-Encoding: chunked") + chunked(b"a" * 1_500_000, 50_000))[0] == 413


def test_what_is_too_large_is_not_invited(server: EndpointServer) -> None:
    """`curl` asks before it sends much."""
    with connect(server) as client:
        client.sendall(head("Content-Length: 999999999", "Expect: 100-continue"))
        assert read_answer(client)[0] == 413
    body = json.dumps({"inputs": CELL}).encode()
    with connect(server) as client:
        client.sendall(head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert read_answer(client)[0] == 200


# ---- Slow clients ----


@pytest.mark.parametrize("begun", [b"PO", head("X: y")[:-2], head("Content-Length: 400000") + b'{"inputs": '])
def test_half_sent_requests_delay_nobody(begun: bytes, server: EndpointServer) -> None:
    """More of them than are answered at once: none takes a place before it is complete."""
    with ExitStack() as stack:
        for _ in range(3 * MAX_ANSWERED):
            stack.enter_context(connect(server)).sendall(begun)
        assert post(server, {"inputs": CELL})[0] == 200  # and not when those have been given up


def test_whoever_takes_too_long_is_told(handler: EndpointHandler) -> None:
    """Bytes that drip in do not prolong it."""
    with serving(handler, patience_s=0.4) as server, connect(server) as slow, connect(server) as silent:
        slow.sendall(head("Content-Length: 400000"))
        began, answered = time.monotonic(), threading.Event()

        def drip() -> None:
            while not answered.wait(0.02) and time.monotonic() - began < 20:
                try:
                    slow.sendall(b" ")
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        status, answer = read_answer(slow)
        answered.set()
        assert (status, "too slowly" in answer["error"]) == (408, True)
        assert silent.recv(1) == b""  # its connection was closed
        assert post(server, {"inputs": CELL})[0] == 200


def test_the_slowest_connection_makes_room(handler: EndpointHandler) -> None:
    with serving(handler, max_connections=8) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(8)]
        for client in clients:
            client.sendall(b"POST / HT")
        assert post(server, {"inputs": CELL})[0] == 200
        with suppress(http.client.RemoteDisconnected):  # where nothing of its request was read yet
            assert read_answer(clients[0])[0] == 408


def test_the_slowest_body_makes_room() -> None:
    clients = Clients(patience_s=60, max_bytes=100, max_connections=99)
    pairs = [socket.socketpair() for _ in range(4)]
    first, second, third, empty = (clients.join(pair[0]) for pair in pairs)
    assert clients.hold(first, 50)
    clients.answer(first)
    assert clients.hold(second, 40)
    assert clients.hold(third, 20)
    assert [client.cut_off for client in (first, second, third, empty)] == [False, True, False, False]
    assert pairs[1][0].recv(1) == b""  # its reader sees the end
    assert not clients.hold(third, 90)  # nobody slower is left: the first is being answered
    clients.wait_for(first)
    assert clients.hold(empty, 10)
    for pair in pairs:
        pair[0].close()
        pair[1].close()


def test_a_client_that_goes_away_leaves_nothing(handler: EndpointHandler) -> None:
    with serving(handler) as server:
        for begun in (b"", b"PO", head("Content-Length: 40") + b"{"):
            with connect(server) as client:
                client.sendall(begun)
        body = json.dumps({"inputs": CELL}).encode()
        with connect(server) as client:
            client.sendall(head(f"Content-Length: {len(body)}") + body)  # and does not wait for the answer
        assert post(server, {"inputs": CELL})[0] == 200
        deadline = time.monotonic() + 30
        while server.clients._clients and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server.clients._clients
