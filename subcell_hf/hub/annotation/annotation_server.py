"""The annotation page and the small server behind it: standard library, one user, an address with a token.

Every path begins with the token; requests that name another host are refused, so that no other page in the browser
reaches the server. There is no TLS: to use it from another machine, forward the port through SSH.
"""

import hmac
import json
import logging
import secrets
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation.annotation_session import AnnotationSession
from subcell_hf.evaluation.annotation.proposals import STRATEGIES
from subcell_hf.hub.annotation.annotation_page import PageContent, page_state

_MOST_BYTES = 4 << 20
_TOKEN_BYTES = 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

_logger = logging.getLogger(__name__)


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class AnnotationServer(ThreadingHTTPServer):
    """Serves the page of one session, and trains its classifier behind the scenes.

    Args:
        session: Takes the labels.
        content: What the page shows.
        export: Writes the results; returns sentences for the page.
        host: Address to listen on.
        port: Port; 0 for a free one, see `server_port`.

    Attributes:
        url: Address of the page, with its token.

    Raises:
        OSError: If the port cannot be opened.
    """

    daemon_threads = True

    def __init__(
        self,
        session: AnnotationSession,
        content: PageContent,
        export: Callable[[], Sequence[str]],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.session, self.content, self.export = session, content, export
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.exporting = threading.Lock()
        self._changed, self._stopped = threading.Event(), threading.Event()
        self.training_error, self._is_busy = "", False
        self._trainer = threading.Thread(target=self._train_when_changed, daemon=True)
        super().__init__((host, port), _Connection)  # closes itself where the port is in use
        names = {host, *(_LOOPBACK if host in _LOOPBACK else ())}
        self.hosts = None if host in ("", "0.0.0.0", "::") else {f"{name}:{self.server_port}" for name in names}
        shown = "127.0.0.1" if self.hosts is None else host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self.server_port}/{self.token}/"
        self._trainer.start()

    @property
    def is_training(self) -> bool:
        """Whether labels have come that the classifier has not seen."""
        return self._changed.is_set() or self._is_busy

    def note_change(self) -> None:
        """Train the classifier again soon."""
        self._changed.set()

    def serve(self, *, browser: bool = False) -> None:
        """Answer requests until Ctrl-C.

        Args:
            browser: Whether to open the page in a browser.
        """
        if browser:
            threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()
        with suppress(KeyboardInterrupt):
            self.serve_forever()

    def server_close(self) -> None:
        """Close the port and end the training."""
        self._stopped.set()
        self._changed.set()
        super().server_close()
        if self._trainer.is_alive():
            self._trainer.join()

    def _train_when_changed(self) -> None:
        while True:
            self._changed.wait()
            if self._stopped.is_set():
                return
            self._is_busy = True
            self._changed.clear()  # before the labels are read: one that comes now is seen in the next turn
            try:
                self.session.train()
                self.training_error = ""
            except Exception as error:  # labels are still taken, and the page says so
                _logger.exception("Training the classifier of the labels failed.")
                self.training_error = f"Training failed ({error}). Labels are still stored."
            self._is_busy = False


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60.0
    server: AnnotationServer

    def log_message(self, *_: Any) -> None:
        """Requests are not logged: their addresses contain the token."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True  # the browser has gone

    def do_GET(self) -> None:
        """Page, pictures and state."""
        self._answer({"": self._page, "state": self._state, "picture": self._picture})

    def do_POST(self) -> None:
        """Labels, strategy and export."""
        self._answer({"labels": self._take_labels, "strategy": self._set_strategy, "export": self._export})

    def _answer(self, routes: Mapping[str, Callable[[list[str]], None]]) -> None:
        try:
            body = self._read_body() if self.command == "POST" else {}
            self.body: Any = body
            if self.server.hosts is not None and self.headers.get("Host", "") not in self.server.hosts:
                raise _RefusedError(403, "The request is for another host. Open the address that was printed.")
            _, token, *parts = urlsplit(self.path).path.split("/")
            if not hmac.compare_digest(token.encode(), self.server.token.encode()) or not parts:
                raise _RefusedError(403, "The address has no valid token. Open the one that was printed last.")
            if parts[0] not in routes:
                raise _RefusedError(404, "There is no such page.")
            routes[parts[0]](parts[1:])
        except _RefusedError as error:
            self._send_json({"error": str(error)}, error.status)
        except InputError as error:
            self._send_json({"error": str(error)}, 400)
        except ConnectionError:
            raise
        except OSError as error:
            self._send_json({"error": f"Files cannot be written: {error}."}, 500)
        except Exception:  # one request must not end the server
            _logger.exception("A request of the annotation page failed.")
            self._send_json({"error": "The request failed; see the terminal."}, 500)

    def _read_body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        self.close_connection = True  # unless the whole body is read
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            raise _RefusedError(413, f"The request has {length[:20] or 'no'} bytes, expected at most {_MOST_BYTES:,}.")
        content = self.rfile.read(int(length))
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        # What other pages can send without asking first is never of this type.
        if self.headers.get("Content-Type", "").split(";")[0] != "application/json":
            raise _RefusedError(415, "The request is not JSON.")
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _RefusedError(400, f"The request is not JSON ({error}).") from error
        if not isinstance(body, dict):
            raise _RefusedError(400, "The request is no JSON object.")
        return body

    def _page(self, parts: list[str]) -> None:
        self._send(200, "text/html; charset=utf-8", self.server.content.html.encode(), {"Cache-Control": "no-store"})

    def _picture(self, parts: list[str]) -> None:
        name = parts[0].removesuffix(".png") if parts else ""
        pictures = self.server.content.pictures
        if not name.isdecimal() or int(name) >= len(pictures):
            raise _RefusedError(404, "There is no such picture.")
        self._send(200, "image/png", pictures[int(name)], {"Cache-Control": "private, max-age=86400"})

    def _state(self, parts: list[str]) -> None:
        if self.server.session.refresh():
            self.server.note_change()
        state = page_state(self.server.session, self.server.content)
        more = {"training": self.server.is_training, "error": self.server.training_error}
        self._send_json({**state, **more})

    def _take_labels(self, parts: list[str]) -> None:
        records = self.body.get("records")
        if not isinstance(records, list):
            raise _RefusedError(400, "The request has no list of records.")
        self.server.session.add_records(records)
        self.server.note_change()
        self._state(parts)

    def _set_strategy(self, parts: list[str]) -> None:
        strategy = self.body.get("strategy")
        if strategy not in STRATEGIES:
            raise InputError(f"The strategy is {strategy!r}, expected one of {', '.join(STRATEGIES)}.")
        self.server.session.strategy = strategy
        self.server.session.train()
        self._state(parts)

    def _export(self, parts: list[str]) -> None:
        with self.server.exporting:
            self._send_json({"written": list(self.server.export())})

    def _send_json(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        self._send(status, "application/json", body, {"Cache-Control": "no-store"})

    def _send(self, status: int, kind: str, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **_HEADERS, **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
