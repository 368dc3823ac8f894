"""Files over connections that stay open: what answers mean, redirects, and proxies of the environment."""

import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from subcell_hf.storage.downloads.kept_connections import KeptConnections


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: a status, `moved`, `cut`, or a file; a proxy's requests hold the whole address."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str]] = []
    connections = 0

    def setup(self) -> None:
        Handler.connections += 1
        super().setup()

    def do_GET(self) -> None:
        Handler.asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
        name = self.path.rpartition("/")[2]
        self.send_response(302 if name == "moved" else int(name) if name.isdecimal() else 200)
        if name == "moved":
            self.send_header("Location", "/file")
        content = b"" if name == "moved" else name.encode()
        self.send_header("Content-Length", str(len(content) + 9 * (name == "cut")))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = name == "cut"

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    Handler.asked, Handler.connections = [], 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_answers_and_what_they_mean(url: str) -> None:
    server = KeptConnections(url, 2)
    assert [server.read(f"{url}/{name}") for name in ("file", "moved", "a%20b")] == [b"file", b"file", b"a%20b"]
    for status in (403, 404, 410):
        with pytest.raises(FileNotFoundError, match=f"HTTP {status}"):
            server.read(f"{url}/{status}")
    for status in (408, 429, 500, 503):
        with pytest.raises(OSError, match=f"HTTP {status}") as raised:
            server.read(f"{url}/{status}")
        assert not isinstance(raised.value, FileNotFoundError)
    with pytest.raises(OSError, match="3 bytes read, 9 more expected"):
        server.read(f"{url}/cut")
    with pytest.raises(OSError, match="Connection refused"):
        KeptConnections("http://127.0.0.1:9", 1).read("http://127.0.0.1:9/file")
    assert server.read(f"{url}/file") == b"file"
    assert Handler.connections == 2  # another one for what came after the cut


def test_a_proxy_of_the_environment_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", url.replace("http://", "http://me:p%40ss@"))
    assert KeptConnections("http://images.example", 1).read("http://images.example/1/file") == b"file"
    assert Handler.asked == [("http://images.example/1/file", f"Basic {b64encode(b'me:p@ss').decode()}")]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert KeptConnections(url, 1).read(f"{url}/file") == b"file"
    assert Handler.asked[-1] == ("/file", "")
