"""A small HTTP server around the endpoint's handler: to try a model locally, and to test what the Hub would run.

`POST /` takes a request as `handler.py` describes it and answers JSON; `GET /health` answers once the model is loaded.
Errors are JSON too: `{"error": reason}` with a status of 400 to 424 for what the request did wrong, 503 where too much
is waiting. It is no public server: put one that speaks TLS and knows its users in front of it.
"""

import json
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from subcell_hf.hub.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint_images import RequestError

MAX_REQUESTS_READ = 32
"""Requests whose bodies are in memory at once; others wait before theirs is read."""


class EndpointServer(ThreadingHTTPServer):
    """Serves one handler.

    Args:
        handler: Answers requests.
        host: Address to listen on.
        port: Port; 0 for a free one, see `server_port`.
    """

    daemon_threads = True
    request_queue_size = 256  # of connections that wait to be accepted

    def __init__(self, handler: EndpointHandler, host: str = "127.0.0.1", port: int = 0) -> None:
        self.handler = handler
        self.reading = threading.BoundedSemaphore(MAX_REQUESTS_READ)
        super().__init__((host, port), _Connection)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30.0  # seconds that a client may be silent
    server: EndpointServer

    def log_message(self, *_: Any) -> None:
        """Requests are not logged: they hold data of others."""

    def __getattr__(self, name: str) -> Any:
        """`do_GET`, `do_POST`, …: every method is routed alike."""
        if name.startswith("do_"):
            return self._route
        raise AttributeError(name)

    def _route(self) -> None:
        if self.command == "GET" and self.path == "/health":
            self._send(200, {"status": "ready"})
        elif self.command == "POST" and self.path == "/":
            self._answer()
        else:
            self.close_connection = True  # a body, if any, is not read
            status = 404 if self.command in ("GET", "POST") else 405
            self._send(status, {"error": "There are POST / and GET /health."})

    def _answer(self) -> None:
        with self.server.reading:
            try:
                status, content = 200, self.server.handler(self._read_json())
            except RequestError as error:
                status, content = error.status, {"error": str(error)}
            except TimeoutError:
                self.close_connection = True
                status, content = 408, {"error": f"The request's body did not come within {self.timeout:.0f} s."}
            except Exception:
                traceback.print_exc(file=sys.stderr)
                status, content = 500, {"error": "The endpoint failed; its log says more."}
        self._send(status, content)

    def _read_json(self) -> Any:
        length, limit = self.headers.get("Content-Length"), self.server.handler.limits.max_request_bytes
        if length is None or not length.isdecimal():
            self.close_connection = True
            raise RequestError("The request has no Content-Length.", 411)
        if int(length) > limit:
            self.close_connection = True
            raise RequestError(f"The request has {int(length):,} bytes; expected {limit:,} at most.", 413)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise RequestError(f"The request broke off after {len(body):,} of {int(length):,} bytes.")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"The request is no JSON ({error}).") from error

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has gone; nobody is left to tell
