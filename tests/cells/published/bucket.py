"""A small public bucket: simulated cells in the layout of the published ones, behind a server that can fail."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.published_cells import published_files
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.simulation import SimulationSettings, plan_fields, simulate_planned_field
from subcell_hf.types import FieldOfView

SIZE_PX = 128
SMALL = CropSettings(crop_px=96, output_px=48)
"""Crops of 48 px out of published ones of 128 px, as the true ones are of 448 px out of 1024 px."""


def simulate_fields(fields: int, antibodies: int = 6) -> list[FieldOfView]:
    """Small fields of about ten cells each."""
    settings = SimulationSettings(size_px=256, pixel_size_um=0.32, antibodies=antibodies)
    planned = plan_fields(fields, antibodies=antibodies)
    return [simulate_planned_field(item, settings) for item in planned]


class Bucket:
    """A server of files that can fail on purpose.

    Attributes:
        files: Path → content.
        failing: Path → answers that come before the file itself does: an HTTP status, or `"cut"` for half of it.
        slow_s: Pause before each answer.
        held: Requests whose path contains this wait for their answer.
        down: Whether every request is answered by 503.
        requests: Path of every request, with its method.
        connections: How many connections were opened.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.failing: dict[str, list[int | str]] = {}
        self.slow_s = 0.0
        self.held = ""
        self.down = False
        self.requests: list[str] = []
        self.connections = 0
        self.url = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Handler of its requests."""
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                bucket.connections += 1
                super().setup()

            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                bucket.requests.append(f"{self.command} {path}")
                time.sleep(bucket.slow_s)
                while bucket.held and bucket.held in path:
                    time.sleep(0.05)
                failure = bucket.failing[path].pop(0) if bucket.failing.get(path) else None
                if bucket.down or isinstance(failure, int):
                    self.answer(503 if bucket.down else int(str(failure)), b"no")
                elif path not in bucket.files:
                    self.answer(404, b"no")
                else:
                    self.answer(200, bucket.files[path], cut=failure == "cut")

            def do_HEAD(self) -> None:
                self.do_GET()

            def answer(self, status: int, content: bytes, *, cut: bool = False) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                self.close_connection = cut

            def log_message(self, *args: Any) -> None:
                pass

        return Handler

    @contextmanager
    def serve(self) -> Iterator["Bucket"]:
        """Serve until the block ends."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, *request: Any) -> None:
                """Say nothing of clients that have gone away."""

        with Server(("127.0.0.1", 0), self.handler()) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield self
            server.shutdown()


def small_bucket(fields: int = 20) -> Bucket:
    """About 200 cells."""
    return Bucket(published_files(simulate_fields(fields), SIZE_PX))
