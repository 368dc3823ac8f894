"""A small HTTP server around the endpoint's handler: to try a model locally, and to test what the Hub would run.

`POST /` takes a request as `handler.py` describes it, or the bytes of one image file, and answers JSON. As on the Hub,
`POST /pipeline/TASK` names the task, and `?top_k=3` sets a parameter. `GET /health` answers once the model is loaded.
Errors are JSON too: `{"error": reason}` with a status of 400 to 431 for what the request did wrong, 503 where too much
is waiting. It is no public server: put one that speaks TLS and knows its users in front of it.
"""

import json
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from subcell_hf.hub.endpoint.endpoint_clients import Clients
from subcell_hf.hub.endpoint.endpoint_handler import TASKS, EndpointHandler
from subcell_hf.hub.endpoint.endpoint_images import SIGNATURES, RequestError

MAX_ANSWERED = 32
"""Requests that are decoded and answered at once; others wait, complete as they are."""
PATIENCE_S = 300.0
"""How long a client may take to send a request."""

_PIECE_BYTES = 1 << 16
_PATHS = {"/": {}, **{f"/pipeline/{task}": {"task": task} for task in TASKS}}
"""Where requests are posted, and what the path says."""
_LONGEST_REASON = 1000
_DRAIN_S = 2.0


class EndpointServer(ThreadingHTTPServer):
    """Serves one handler.

    Args:
        handler: Answers requests.
        host: Address to listen on.
        port: Port; 0 for a free one, see `server_port`.
        patience_s: How long a client may take to send a request.
        max_connections: Connections at once; None for the default of `Clients`.
    """

    daemon_threads = True
    request_queue_size = 256  # of connections that wait to be accepted

    def __init__(
        self,
        handler: EndpointHandler,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        patience_s: float = PATIENCE_S,
        max_connections: int | None = None,
    ) -> None:
        self.handler = handler
        self.answering = threading.BoundedSemaphore(MAX_ANSWERED)
        self.clients = Clients(patience_s, MAX_ANSWERED * handler.limits.max_request_bytes, max_connections)
        super().__init__((host, port), _Connection)

    def service_actions(self) -> None:
        """Called by `serve_forever` all the time."""
        self.clients.cut_off_overdue()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30.0  # seconds that a client may be silent, or take to read its answer
    server: EndpointServer

    def setup(self) -> None:
        super().setup()
        self.client = self.server.clients.join(self.connection)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.clients.leave(self.client)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True  # the client has gone; nobody is left to tell
        self.server.clients.wait_for(self.client)

    def log_message(self, *_: Any) -> None:
        """Requests are not logged: they hold data of others."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` refuses by itself: request lines and headers that are wrong or too long."""
        self.close_connection = True
        self.request_version = self.protocol_version  # without one, no status would be sent
        if self.client.cut_off:
            code, message = 408, "The request arrived too slowly"
        self._send(code, {"error": f"{message or 'The request cannot be read'}."[:_LONGEST_REASON]})

    def handle_expect_100(self) -> bool:
        """Refuse a request that is too large before its body is sent."""
        try:
            self._announced_length()
        except RequestError:
            return True  # `_answer` refuses it, without an invitation to send more
        return super().handle_expect_100()

    def __getattr__(self, name: str) -> Any:
        """`do_GET`, `do_POST`, …: every method is routed alike."""
        if name.startswith("do_"):
            return self._route
        raise AttributeError(name)

    def _route(self) -> None:
        path = urlsplit(self.path).path if self.path.startswith("/") else self.path
        if path == "/health" and self.command in ("GET", "HEAD"):
            self._send(200, {"status": "ready"})
        elif path in _PATHS and self.command == "POST":
            self._answer(_PATHS[path])
        else:
            self.close_connection = True  # a body, if any, is not read
            status = 404 if self.command in ("GET", "HEAD", "POST") else 405
            expected = f"expected POST to {', '.join(_PATHS)}, or GET /health"
            self._send(status, {"error": f"Unknown path or method; {expected}."})
            self._drain()

    def _answer(self, said: dict[str, Any]) -> None:
        try:
            body = self._read_body()
            with self.server.answering:
                request = _read_request(body, self.headers.get("Content-Type", ""))
                said = said | _read_query(urlsplit(self.path).query)
                status, content = 200, self.server.handler(_with_parameters(request, said))
        except RequestError as error:
            status, content = error.status, {"error": str(error)[:_LONGEST_REASON]}
        except ConnectionError:
            raise
        except Exception:  # one request must not end the server
            traceback.print_exc(file=sys.stderr)
            status, content = 500, {"error": "The endpoint failed; see its log."}
        self._send(status, content)
        if self.close_connection and status != 200:
            self._drain()

    def _read_body(self) -> bytearray:
        """The body, once all of it is there; the connection is closed after one that is refused."""
        closing, self.close_connection = self.close_connection, True
        limit, body = self.server.handler.limits.max_request_bytes, bytearray()
        length = self._announced_length()
        try:
            for piece in self._read_pieces(length):
                body += piece
                if len(body) > limit:
                    raise RequestError(f"The request has more than {limit:,} bytes.", 413)
                if not self.server.clients.hold(self.client, len(piece)):
                    raise RequestError("Too many requests are waiting; try again in a moment.", 503)
        except TimeoutError:
            raise RequestError(f"The body of the request did not arrive within {self.timeout:.0f} s.", 408) from None
        if self.client.cut_off:
            raise RequestError(
                f"The body of the request arrived too slowly; at most {self.server.clients.patience_s:.0f} s "
                f"are allowed.",
                408,
            )
        if length is not None and len(body) < length:
            raise RequestError(f"The request ended after {len(body):,} of {length:,} bytes.")
        self.server.clients.answer(self.client)
        self.close_connection = closing
        return body

    def _announced_length(self) -> int | None:
        """Bytes of the body; None where it comes in chunks."""
        limit = self.server.handler.limits.max_request_bytes
        coding = self.headers.get("Transfer-Encoding")
        lengths = set(self.headers.get_all("Content-Length") or ())
        if coding is not None:
            if coding.strip().lower() != "chunked":
                raise RequestError(
                    f"Transfer-Encoding is {coding[:100]!r}; expected chunked, or a Content-Length.", 501
                )
            if lengths:
                raise RequestError("The request has both a Content-Length and a Transfer-Encoding.")
            return None
        text = lengths.pop().strip() if len(lengths) == 1 else ""
        if lengths:
            raise RequestError("The request has several different Content-Lengths.")
        if not re.fullmatch("[0-9]+", text):
            raise RequestError("The request has no Content-Length.", 411)
        if len(text) > 18:
            raise RequestError(f"Content-Length has {len(text):,} digits, more than allowed.")
        if int(text) > limit:
            raise RequestError(f"The request has {int(text):,} bytes; expected {limit:,} at most.", 413)
        return int(text)

    def _read_pieces(self, length: int | None) -> Iterator[bytes]:
        if length is not None:
            yield from self._read_exactly(length)
            return
        while size := self._read_chunk_size():
            yield from self._read_exactly(size)
            if self.rfile.readline(3).strip():
                raise RequestError("A chunk of the request does not have its announced length.")
        while self.rfile.readline(_PIECE_BYTES).strip():
            pass  # trailers mean nothing here

    def _read_exactly(self, count: int) -> Iterator[bytes]:
        while count > 0 and (piece := self.rfile.read1(min(count, _PIECE_BYTES))):
            count -= len(piece)
            yield piece

    def _read_chunk_size(self) -> int:
        line = self.rfile.readline(200)
        text = line.partition(b";")[0].strip()
        if self.client.cut_off:
            return 0
        if not line.endswith(b"\n") or not re.fullmatch(b"[0-9a-fA-F]{1,15}", text):
            raise RequestError("The request ended early, or a chunk has no length.")
        return int(text, 16)

    def _drain(self) -> None:
        """Read for a moment what a refused client is still sending; otherwise it would not receive the answer."""
        until = time.monotonic() + _DRAIN_S
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_DRAIN_S)
            while time.monotonic() < until and self.connection.recv(_PIECE_BYTES):
                pass
        except OSError:
            pass

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 405:
            self.send_header("Allow", "POST" if urlsplit(self.path).path in _PATHS else "GET, HEAD")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if getattr(self, "command", None) != "HEAD":
            self.wfile.write(body)


def _read_request(body: bytearray, content_type: str) -> Any:
    """What the handler takes: the content of JSON, or a file that was sent as it is, whatever its type is called."""
    if body.startswith(SIGNATURES) or content_type.lower().startswith("image/"):
        return {"inputs": bytes(body)}
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        kinds = "nor is its body a PNG, JPEG, TIFF or .npy file as it is"
        raise RequestError(f"The request is empty or not JSON ({error}), {kinds}.") from error


def _read_query(query: str) -> dict[str, Any]:
    """Parameters in an address; numbers, `true` and `false` as in JSON."""
    values = {}
    for name, text in parse_qsl(query[:_LONGEST_REASON], keep_blank_values=True):
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            values[name] = text
    return values


def _with_parameters(request: Any, said: dict[str, Any]) -> Any:
    """A request with what its address says; its own parameters win, and what is no request is left to the handler."""
    own = (request.get("parameters") or {}) if isinstance(request, dict) else None
    return {**request, "parameters": said | own} if said and isinstance(own, dict) else request
