"""Published weights are fetched from a server of the published layout, whatever happens on the way."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from subcell_hf.errors import InputError
from subcell_hf.hub.weights import downloads, fetching
from subcell_hf.hub.weights.conversion import convert
from subcell_hf.hub.weights.downloads import FileFacts, download_file
from subcell_hf.hub.weights.fetching import fetch_weights, fetched_folder, published_variants
from tests.model.published import draw_published_weights


class Bucket:
    """A server of files that can fail on purpose.

    Attributes:
        files: Path → content.
        cut_after: Path → how many bytes of it come before the connection breaks, once.
        requests: Path and range of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: dict[str, int] = {}
        self.redirected: dict[str, str] = {}
        self.broken = False
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                bucket.requests.append((path, self.headers.get("Range", "")))
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
                self.wfile.write(content[start : bucket.cut_after.pop(path, None)])

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    served = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), served.handler())
    served.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.01)
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small weights of all published names."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    for number, variant in enumerate(published_variants().values()):
        generator = torch.Generator().manual_seed(number)
        encoder, members = draw_published_weights(
            generator, channels=len(variant.channels), width=64, layers=1, heads_of_pool=2, patch=16, grid=(4, 4),
            members=10,
        )  # fmt: skip
        for name, content in zip(variant.files, (encoder, *members), strict=True):
            torch.save(content, folder / "file")
            files[name] = (folder / "file").read_bytes()
    return files


def test_a_variant_loads_and_gives_the_numbers_of_its_files(
    bucket: Bucket, weights: dict[str, bytes], tmp_path: Path
) -> None:
    bucket.files = weights
    fetched = fetch_weights("mae-rybg", source=bucket.url, cache=tmp_path / "cache", progress=False)
    assert fetched.new
    assert fetched.folder == fetched_folder("mae-rybg", tmp_path / "cache")
    variant = published_variants()["mae-rybg"]
    for name in variant.files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(weights[name])
    by_hand = convert(
        tmp_path / variant.encoder, tmp_path / "by_hand", "rybg", [tmp_path / name for name in variant.classifiers]
    )
    models = [AutoModelForImageClassification.from_pretrained(folder) for folder in (fetched.folder, by_hand)]
    inputs = AutoImageProcessor.from_pretrained(by_hand)(torch.randint(0, 255, (1, 4, 64, 64), dtype=torch.uint8))
    with torch.no_grad():
        torch.testing.assert_close(models[0](**inputs).logits, models[1](**inputs).logits, rtol=0, atol=0)
    asked = len(bucket.requests)
    assert not fetch_weights("mae-rybg", source=bucket.url, cache=tmp_path / "cache").new
    assert len(bucket.requests) == asked  # nothing is asked for twice


def test_a_broken_transfer_goes_on_where_it_broke(bucket: Bucket, tmp_path: Path) -> None:
    bucket.files["a"] = bytes(range(256)) * 40_000
    bucket.cut_after["a"] = 3_000_000
    facts = download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == bucket.files["a"]
    assert [asked for _, asked in bucket.requests] == ["", "bytes=3000000-"]
    assert facts.sha256 == hashlib.sha256(bucket.files["a"]).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_a_network_what_came_is_kept(bucket: Bucket, tmp_path: Path) -> None:
    bucket.files["a"] = bytes(2_000_000)
    bucket.cut_after["a"] = 500_000
    bucket.redirected["b"] = "a"
    original = bucket.files["a"]

    class Gone(dict[str, int]):
        """The server breaks down after the first transfer."""

        def pop(self, *args: Any) -> Any:
            bucket.broken = True
            return super().pop(*args)

    bucket.cut_after = Gone(bucket.cut_after)
    with pytest.raises(InputError, match="500,000 bytes are kept in"):
        download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    bucket.broken, bucket.cut_after = False, {}
    download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == original
    assert bucket.requests[-1] == ("a", "bytes=500000-")
    download_file(f"{bucket.url}/b", tmp_path / "b", progress=False)
    assert (tmp_path / "b").read_bytes() == original


def test_a_file_that_changed_meanwhile_is_brought_anew(bucket: Bucket, tmp_path: Path) -> None:
    bucket.files["a"] = b"old" * 1000
    (tmp_path / "a.download").write_bytes(b"old" * 500)
    (tmp_path / "a.download.json").write_text(f'{{"url": "{bucket.url}/a", "etag": "\\"of the old file\\""}}')
    download_file(f"{bucket.url}/a", tmp_path / "a", progress=False)
    assert (tmp_path / "a").read_bytes() == bucket.files["a"]


@pytest.mark.parametrize("wrong", ["size", "sum"])
def test_a_file_that_is_not_the_expected_one_is_refused(bucket: Bucket, tmp_path: Path, wrong: str) -> None:
    bucket.files["a"] = b"content"
    expected = FileFacts(7 if wrong == "sum" else 9, "0" * 64)
    with pytest.raises(InputError, match="7 bytes came, expected 9" if wrong == "size" else "SHA-256"):
        download_file(f"{bucket.url}/a", tmp_path / "a", expected, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_later_fetches_must_match_the_first(bucket: Bucket, weights: dict[str, bytes], tmp_path: Path) -> None:
    bucket.files = dict(weights)
    cache = tmp_path / "cache"
    fetched = fetch_weights("vit-bg", source=bucket.url, cache=cache, progress=False)
    (fetched.folder / "fetched.json").unlink()
    encoder = published_variants()["vit-bg"].encoder
    (cache / "files" / encoder).unlink()
    poisoned = bytearray(weights[encoder])
    poisoned[-100] ^= 1
    bucket.files[encoder] = bytes(poisoned)
    with pytest.raises(InputError, match="SHA-256"):
        fetch_weights("vit-bg", source=bucket.url, cache=cache, progress=False)
    assert fetched_folder("vit-bg", cache) is None


def test_bad_sources_leave_no_folder_that_loads(bucket: Bucket, weights: dict[str, bytes], tmp_path: Path) -> None:
    cache, variants = tmp_path / "cache", published_variants()
    rybg, bg = variants["mae-rybg"], variants["mae-bg"]
    cases = {
        "not there": {key: content for key, content in weights.items() if key != rybg.classifiers[4]},
        "damaged|truncated|not a torch": {**weights, rybg.encoder: weights[rybg.encoder][:2000]},
        "same content": {**weights, rybg.classifiers[1]: weights[rybg.classifiers[0]]},
        "channels": {**weights, rybg.encoder: weights[bg.encoder]},
    }
    for number, (said, files) in enumerate(cases.items()):
        bucket.files = files
        with pytest.raises(InputError, match=said):
            fetch_weights("mae-rybg", source=bucket.url, cache=cache / str(number), progress=False)
        assert fetched_folder("mae-rybg", cache / str(number)) is None
        assert not list((cache / str(number)).glob("models/*"))
    # What was bad is not kept: the right files are taken afterwards.
    bucket.files = weights
    assert fetch_weights("mae-rybg", source=bucket.url, cache=cache / "1", progress=False).new


def test_weights_copied_by_hand_and_unknown_names(weights: dict[str, bytes], tmp_path: Path) -> None:
    for name in published_variants()["mae-bg"].files:
        path = tmp_path / "copied" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(weights[name])
    assert fetch_weights("mae-bg", source=tmp_path / "copied", cache=tmp_path / "cache", progress=False).new
    with pytest.raises(InputError, match=r"seed|is not there\. Expected the published files"):
        fetch_weights("vit-bg", source=tmp_path / "copied", cache=tmp_path / "cache", progress=False)
    with pytest.raises(InputError, match="no published model of SubCell, expected one of mae-rybg"):
        fetch_weights("rybg", cache=tmp_path / "cache")


def test_offline_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setenv(fetching.MIRROR_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"could not be downloaded: .*run the same command again when the network"):
        fetch_weights("mae-bg", cache=tmp_path / "cache", progress=False)
