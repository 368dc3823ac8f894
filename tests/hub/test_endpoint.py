"""The endpoint answers as the model does, shares forward passes, and refuses what is wrong, hostile or too much."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import threading
import tracemalloc
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint.endpoint_images import Budget, Limits, RequestError, decode_image, read_file
from subcell_hf.hub.endpoint.endpoint_server import EndpointServer
from tests.hub.tiny_models import save_tiny

CHANNELS = ("red", "yellow", "blue", "green")
BOMB_ALLOWANCE_BYTES = 40_000_000


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def npy(pixels: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def tiff(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("SubCellForImageClassification", tmp_path_factory.mktemp("endpoint") / "model")


@pytest.fixture(scope="module")
def handler(model_folder: Path) -> EndpointHandler:
    limits = Limits(max_request_bytes=2_000_000, max_edge_px=256, max_cells=4, max_batch=8)
    return EndpointHandler(str(model_folder), limits, trust_remote_code=False)


@pytest.fixture(scope="module")
def server(handler: EndpointHandler) -> Iterator[EndpointServer]:
    with EndpointServer(handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def make_crop(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 65535, (4, 64, 64), dtype=np.uint16)


def cell_of(crop: Any) -> dict[str, Any]:
    return {name: encode(npy(plane)) for name, plane in zip(CHANNELS, crop, strict=True)}


def post(server: EndpointServer, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/", content, headers)
    answer = connection.getresponse()
    status, text = answer.status, answer.read()
    connection.close()
    return status, json.loads(text)


def expected_of(folder: Path, crop: Any, **settings: Any) -> Any:
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return AutoModelForImageClassification.from_pretrained(folder).eval()(**processor(crop, **settings))


def test_an_answer_is_what_the_model_says(server: EndpointServer, model_folder: Path) -> None:
    crop = make_crop()
    outputs = expected_of(model_folder, crop)
    parameters = {"top_k": 3, "probabilities": True, "attention": True}
    status, answer = post(server, {"inputs": cell_of(crop), "parameters": parameters})
    assert status == 200
    np.testing.assert_allclose(answer["embedding"], outputs.pooler_output[0], atol=1e-6)
    np.testing.assert_allclose(list(answer["probabilities"].values()), outputs.logits[0].sigmoid(), atol=1e-6)
    np.testing.assert_allclose(answer["attention"], outputs.pooler_attentions[0], atol=1e-6)
    scores = [entry["score"] for entry in answer["locations"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == max(answer["probabilities"].values())
    assert set(post(server, {"inputs": cell_of(crop), "parameters": {"embedding": False}})[1]) == {"locations"}


@pytest.mark.parametrize(
    "image",
    [
        npy(make_crop()), npy(np.moveaxis(make_crop(), 0, 2)),
        tiff(make_crop(), photometric="minisblack"), tiff(make_crop(), photometric="minisblack", compression="zlib"),
        tiff(make_crop(), ome=True, metadata={"axes": "CYX"}), tiff(make_crop(), imagej=True, metadata={"axes": "CYX"}),
    ],
    ids=["npy", "npy last", "tiff", "tiff zlib", "ome", "imagej"],
)  # fmt: skip
def test_every_kind_of_file_gives_the_same(image: bytes, handler: EndpointHandler) -> None:
    answer = handler({"inputs": [{"image": encode(image)}, cell_of(make_crop())]})
    np.testing.assert_allclose(answer[0]["embedding"], answer[1]["embedding"], atol=1e-6)


def test_pngs_masks_pixel_sizes_and_names(handler: EndpointHandler, model_folder: Path) -> None:
    crop = (make_crop() >> 8).astype(np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    planes: dict[str, Any] = {name: encode(png(plane)) for name, plane in zip(CHANNELS, crop, strict=True)}
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[..., 2] = crop[2]
    planes["blue"] = "data:image/png;base64," + encode(png(blue))  # as pictures of the Human Protein Atlas are
    given = planes | {"cell_mask": encode(png(mask)), "pixel_size_um": 0.4}
    outputs = expected_of(model_folder, crop, cell_masks=mask > 0, pixel_size_um=0.4)
    np.testing.assert_allclose(handler({"inputs": given})["embedding"], outputs.pooler_output[0], atol=1e-6)
    shuffled = {"image": encode(npy(crop[::-1])), "channels": list(CHANNELS[::-1])}
    expected = expected_of(model_folder, crop).pooler_output[0]
    np.testing.assert_allclose(handler({"inputs": shuffled})["embedding"], expected, atol=1e-6)


class Poison:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/tmp/subcell-endpoint-was-poisoned",)


CELL = cell_of(make_crop())
TIFF_BOMB = tiff(np.zeros((200, 200), np.uint8), compression="zlib")


def png_header(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
        + width.to_bytes(4, "big")
        + height.to_bytes(4, "big")
        + b"\x08\0\0\0\0"
        + b"\0" * 40
    )


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        ([], 400, "must be JSON of the form"),
        ({"inputs": None}, 400, "is a NoneType"),
        ({"inputs": []}, 413, "has 0 cells"),
        ({"inputs": [CELL] * 5}, 413, "expected 1 to 4"),
        ({"inputs": "/etc/passwd"}, 400, "not base64 text .* paths are not read"),
        ({"inputs": 5}, 400, "is a int; expected a file, or an object"),
        ({"inputs": CELL | {"red": "/etc/passwd"}}, 400, "not base64 text .* paths are not read"),
        ({"inputs": CELL | {"red": "/etc/group12"}}, 415, "not a .npy, TIFF, PNG or JPEG file"),
        ({"inputs": CELL | {"red": 5}}, 400, r"inputs\[0\].red is a int"),
        ({"inputs": CELL | {"red": "https://example.org/a.png"}}, 403, "opens no URLs"),
        ({"inputs": CELL | {"red": "file:///etc/passwd"}}, 403, "opens no URLs"),
        ({"inputs": CELL | {"purple": CELL["red"]}}, 400, "wrong channels purple;"),
        ({"inputs": {"red": CELL["red"]}}, 400, "wrong channels"),
        ({"inputs": CELL | {"pixel_size_um": "0.1"}}, 400, "expected micrometres"),
        ({"inputs": CELL | {"pixel_size_um": 900}}, 422, "more than 16-fold"),
        ({"inputs": CELL | {"cell_mask": CELL["red"]}}, 422, "other values than 0 and 1"),
        ({"inputs": CELL | {"red": encode(npy(np.zeros((8, 8), np.uint16)))}}, 422, "planes of shapes"),
        ({"inputs": {"image": encode(npy(np.zeros((3, 8, 8))))}}, 422, "expected planes of red"),
        ({"inputs": {"image": CELL["red"], "channels": "red"}}, 400, "expected a list with red"),
        ({"inputs": CELL, "parameters": []}, 200, ""),
        ({"inputs": CELL, "parameters": "x"}, 400, "expected an object"),
        ({"inputs": CELL, "parameters": {"model": "x"}}, 400, "Unknown parameters: model"),
        ({"inputs": CELL, "parameters": {"top_k": 0}}, 400, "top_k is 0"),
        ({"inputs": CELL, "parameters": {"top_k": True}}, 400, "top_k is True"),
        ({"inputs": CELL, "parameters": {"threshold": 2}}, 400, "from 0 to 1"),
        ({"inputs": CELL, "parameters": {"embedding": "yes"}}, 400, "true or false"),
        ({"inputs": CELL | {"red": encode(npy(np.array([Poison()], object)))}}, 422, "holds object"),
        ({"inputs": CELL | {"red": encode(npy(np.zeros((64, 64), complex)))}}, 422, "holds complex"),
        ({"inputs": CELL | {"red": encode(npy(make_crop()[0])[:-9])}}, 422, "cannot be decoded"),
        ({"inputs": CELL | {"red": encode(b"\x93NUMPY")}}, 422, "cannot be decoded"),
        ({"inputs": CELL | {"red": encode(png_header(60_000, 60_000))}}, 413, "edges up to 256"),
        ({"inputs": CELL | {"red": encode(png(np.zeros((64, 64, 4), np.uint8)))}}, 422, "has the mode RGBA"),
        ({"inputs": CELL | {"red": encode(png(np.eye(64, dtype=np.uint8))[:-30])}}, 422, "cannot be decoded"),
        ({"inputs": CELL | {"red": encode(tiff(np.zeros((300, 300), np.uint8)))}}, 413, "edges up to 256"),
        ({"inputs": CELL | {"red": encode(tiff(np.zeros((20, 8, 8), np.uint8)))}}, 413, "more than 16 pages"),
        ({"inputs": CELL | {"red": encode(TIFF_BOMB[:60])}}, 422, "cannot be decoded|pages"),
        ({"inputs": CELL | {"red": encode(tiff(make_crop()[0], compression="jpeg2000"))}}, 422, "has the unsupported"),
        ({"inputs": CELL | {"red": encode(npy(np.full((64, 64), np.nan)))}}, 422, "mixes|NaN"),
    ],
)  # fmt: skip
def test_wrong_requests_get_a_reason(request_: Any, status: int, reason: str, server: EndpointServer) -> None:
    got, answer = post(server, request_)
    assert got == status, answer
    if status != 200:
        assert list(answer) == ["error"]
        assert re.search(reason, answer["error"]), answer["error"]
    assert not Path("/tmp/subcell-endpoint-was-poisoned").exists()


def test_http_of_another_kind(server: EndpointServer) -> None:
    def ask(method: str, path: str, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    assert ask("GET", "/health") == (200, {"status": "ready"})
    assert ask("GET", "/")[0] == 404
    assert ask("DELETE", "/")[0] == 405
    assert ask("POST", "/")[0] == 411
    assert ask("POST", "/", Content_Length="-5")[0] == 411
    status, answer = ask("POST", "/", Content_Length="2000001")
    assert status == 413
    assert "2,000,001 bytes" in answer["error"]
    assert post(server, {"inputs": CELL})[0] == 200  # and it still works


def test_sizes_are_counted_before_and_after_decoding() -> None:
    limits = Limits(max_request_bytes=1000, max_decoded_bytes=10_000, max_edge_px=500)
    budget = Budget(limits)
    read_file(encode(png(np.zeros((90, 90), np.uint8))), "first", limits, budget)
    with pytest.raises(RequestError, match="At second the images exceed 10,000 bytes once decoded"):
        read_file(encode(png(np.zeros((90, 90), np.uint8))), "second", limits, budget)
    with pytest.raises(RequestError, match="larger than 1,000 bytes, at third"):
        read_file("A" * 2000, "third", limits, Budget(limits))


def test_a_decompression_bomb_takes_no_memory() -> None:
    bomb = zlib.compress(bytes(200_000_000), 1)  # under a megabyte that says it is 200 × 200 px
    content = tiff(iter([bomb]), shape=(200, 200), dtype="uint8", compression="zlib", rowsperstrip=200)
    assert len(content) < 1_000_000
    limits = Limits()
    tracemalloc.start()
    before = psutil.Process().memory_info().rss
    with contextlib.suppress(RequestError):
        decode_image(content, "bomb", limits, Budget(limits))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < BOMB_ALLOWANCE_BYTES
    assert psutil.Process().memory_info().rss - before < BOMB_ALLOWANCE_BYTES


def test_urls_only_of_hosts_that_the_operator_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBCELL_ENDPOINT_URL_HOSTS", "images.proteinatlas.org, example.org")
    monkeypatch.setenv("SUBCELL_ENDPOINT_MAX_CELLS", "3")
    limits = Limits.from_environment()
    assert limits.url_hosts == {"images.proteinatlas.org", "example.org"}
    assert limits.max_cells == 3
    for url in (
        "http://example.org/a.png", "https://example.org.evil.net/a.png", "https://example.org@evil.net/a",
        "https://example.org:8443/a", "https://127.0.0.1/a", "file://example.org/etc/passwd",
    ):  # fmt: skip
        with pytest.raises(RequestError, match="not allowed"):
            read_file(url, "red", limits, Budget(limits))
    monkeypatch.setenv("SUBCELL_ENDPOINT_MAX_CELLS", "many")
    with pytest.raises(ValueError, match="MAX_CELLS is 'many'"):
        Limits.from_environment()


def test_concurrent_requests_share_forward_passes_and_leave_no_memory(
    server: EndpointServer, handler: EndpointHandler
) -> None:
    def ask(number: int) -> tuple[int, Mapping[str, Any]]:
        return post(server, {"inputs": cell_of(make_crop(number % 20))})

    process = psutil.Process()
    alone = {seed: handler({"inputs": cell_of(make_crop(seed))})["embedding"] for seed in range(20)}
    sizes = []
    for _ in range(4):
        before = handler.batcher.forwards
        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(ask, range(200)))
        assert [answer for answer in answers if answer[0] != 200] == []
        assert handler.batcher.forwards - before < 150
        for number, (_, answer) in enumerate(answers):
            np.testing.assert_allclose(answer["embedding"], alone[number % 20], atol=1e-5)
        sizes.append(process.memory_info().rss)
    assert sizes[-1] - sizes[1] < 30_000_000, sizes


def test_a_bad_cell_does_not_spoil_its_neighbours(handler: EndpointHandler) -> None:
    good = cell_of(make_crop())
    bad = {name: encode(npy(np.full((64, 64), np.inf, np.float32))) for name in CHANNELS}
    fine = {name: encode(npy(np.ones((64, 64), np.float32))) for name in CHANNELS}

    def ask(cell: dict[str, Any]) -> Any:
        try:
            return handler({"inputs": cell})
        except RequestError as error:
            return error

    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(ask, [fine, bad, fine, good, bad, fine, fine, good, fine]))
    assert [isinstance(answer, RequestError) for answer in answers] == [number in (1, 4) for number in range(9)]
    assert answers[1].status == 422


def test_too_many_are_told_to_come_back(model_folder: Path) -> None:
    handler = EndpointHandler(str(model_folder), Limits(max_waiting=1), trust_remote_code=False)
    with pytest.raises(RequestError, match="try again in a moment") as caught:
        handler({"inputs": [CELL, CELL]})
    assert caught.value.status == 503
    assert "embedding" in handler({"inputs": CELL})
