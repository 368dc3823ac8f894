"""Small weights of all published names, and a server of them that can fail on purpose."""

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from subcell_hf.model.positions_subcell import sincos_position_embeddings
from subcell_hf.weights.published_variants import published_variants
from tests.model.published import draw_published_weights

GRID = (4, 4)
WIDTH = 64


def draw_published_files() -> dict[str, bytes]:
    """Name in the bucket → content: every encoder with the position embeddings of its method."""
    files = {}
    for number, variant in enumerate(published_variants().values()):
        generator = torch.Generator().manual_seed(number)
        encoder, members = draw_published_weights(
            generator, channels=len(variant.channels), width=WIDTH, layers=1, heads_of_pool=2, patch=16, grid=GRID,
            members=10,
        )  # fmt: skip
        if variant.position_embedding_type == "sincos":
            encoder["encoder.embeddings.position_embeddings"] = sincos_position_embeddings(WIDTH, *GRID)
        for name, content in zip(variant.files, (encoder, *members), strict=True):
            file = io.BytesIO()
            torch.save(content, file)
            files[name] = file.getvalue()
    return files


def write_files(files: dict[str, bytes], folder: Path, *, flat: bool = False) -> Path:
    """Write files as they lie in the bucket, or all into one folder."""
    for name, content in files.items():
        path = folder / (Path(name).name if flat else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


class Bucket:
    """A server of files.

    Attributes:
        files: Path → content.
        cut_after: Path → how many bytes of it come before the connection breaks, once.
        gone_after: Path → how many bytes of it come before the server breaks down.
        stall_after: Path → how many bytes of it come before the server sends nothing more for a while, once.
        redirected: Path → other path.
        broken: Whether the server has broken down: every request gets status 503.
        answers_head: Whether it answers questions about files.
        requests: Path and range of every download.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: dict[str, int] = {}
        self.gone_after: dict[str, int] = {}
        self.stall_after: dict[str, int] = {}
        self.redirected: dict[str, str] = {}
        self.broken = False
        self.answers_head = True
        self.requests: list[tuple[str, str]] = []
        self.url = ""
        self.closing = threading.Event()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                if not bucket.answers_head:
                    self.send_error(405)
                else:
                    self.answer()

            def do_GET(self) -> None:
                bucket.requests.append((self.path.lstrip("/"), self.headers.get("Range", "")))
                self.answer()

            def answer(self) -> None:
                path = self.path.lstrip("/")
                if bucket.broken:
                    self.send_error(503)
                elif path in bucket.redirected:
                    self.send_response(302)
                    self.send_header("Location", f"{bucket.url}/{bucket.redirected[path]}")
                    self.end_headers()
                elif path not in bucket.files:
                    self.send_error(404)
                else:
                    self.send_file(bucket.files[path], path)

            def send_file(self, content: bytes, path: str) -> None:
                etag = f'"{hashlib.md5(content).hexdigest()}"'
                start = 0
                if self.headers.get("If-Range") == etag:
                    start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                self.send_response(206 if start else 200)
                self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                if self.command == "HEAD":
                    return
                end = bucket.cut_after.pop(path, None)
                if path in bucket.gone_after:
                    end, bucket.broken = bucket.gone_after.pop(path), True
                if path in bucket.stall_after:
                    self.wfile.write(content[start : bucket.stall_after.pop(path)])
                    bucket.closing.wait(20)
                    return
                self.wfile.write(content[start:end])

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


@contextmanager
def serve_bucket(files: dict[str, bytes]) -> Iterator[Bucket]:
    """Serve files while the block runs."""
    served = Bucket()
    served.files = dict(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), served.handler())
    served.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        served.closing.set()
        server.shutdown()
        server.server_close()
