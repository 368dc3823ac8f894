"""One picture of a cell gives the same numbers by every way to a model, or a sentence that says what to send."""

import base64
import http.client
import io
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import yaml
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.hub.demo.demo_images import read_stack
from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint.endpoint_images import Limits, RequestError
from subcell_hf.hub.endpoint.endpoint_server import EndpointServer
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.pictures_subcell import SHEET_NOTE, sheet_png
from subcell_hf.ontology import CHANNEL_VARIANTS
from subcell_hf.workflows.hub.sheets import write_sheet
from tests.forked import result_of, run_program
from tests.hub.tiny_models import save_tiny, write_facts

RYBG = CHANNEL_VARIANTS["rybg"]
Planes = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Served:
    """A staged repository, and everything that answers for it."""

    folder: Path
    channels: tuple[str, ...]
    server: EndpointServer
    locate: Any
    expected: list[dict[str, Any]]

    @property
    def handler(self) -> EndpointHandler:
        return self.server.handler

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    @property
    def sheet(self) -> Path:
        """What the card's widget sends."""
        card = yaml.safe_load((self.folder / "README.md").read_text().split("---")[1])
        assert card["pipeline_tag"] == "image-classification"  # by which the Hub chooses the widget
        (example,) = card["widget"]
        return self.folder / example["src"]

    @property
    def planes(self) -> Planes:
        return {name: np.asarray(Image.open(self.folder / f"example/{name}.png")) for name in self.channels}

    def check(self, answer: Any) -> None:
        found = [(entry["label"], entry["score"]) for entry in answer]
        assert [label for label, _ in found] == [entry["label"] for entry in self.expected]
        assert [score for _, score in found] == pytest.approx([e["score"] for e in self.expected], abs=1e-5)

    def post(self, body: bytes, path: str = "/", **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found


@contextmanager
def serving(folder: Path, channels: tuple[str, ...]) -> Iterator[Served]:
    locate = pipeline(model=str(folder))
    expected = locate({name: folder / f"example/{name}.png" for name in channels})
    limits = Limits(max_request_bytes=1_000_000, max_edge_px=256)
    with EndpointServer(EndpointHandler(str(folder), limits, trust_remote_code=False)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield Served(folder, channels, server, locate, expected)
        server.shutdown()


def stage(kind: str, folder: Path, channels: tuple[str, ...]) -> Path:
    model = save_tiny(kind, folder / "model", channels=list(channels))
    sources = ExportSources(facts=write_facts(folder / "facts"))
    return export_model(model, folder / "staged", repository="subcell/tiny", sources=sources)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Every variant of channels, staged and served when it is first asked for."""
    with ExitStack() as stack:

        @cache
        def serve(variant: str) -> Served:
            channels = CHANNEL_VARIANTS[variant]
            folder = stage("SubCellForImageClassification", tmp_path_factory.mktemp(variant), channels)
            return stack.enter_context(serving(folder, channels))

        yield serve


@pytest.fixture(params=CHANNEL_VARIANTS)
def served(request: pytest.FixtureRequest, variants: Callable[[str], Served]) -> Served:
    return variants(request.param)


@pytest.fixture
def rybg(variants: Callable[[str], Served]) -> Served:
    return variants("rybg")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EndpointHandler:
    folder = stage("SubCellModel", tmp_path_factory.mktemp("encoder"), RYBG)
    return EndpointHandler(str(folder), trust_remote_code=False)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded_by_the_toolkit(body: bytes) -> Image.Image:
    """As huggingface-inference-toolkit 0.5.6 and sagemaker-huggingface-inference-toolkit 2.6.0 decode pictures."""
    return Image.open(io.BytesIO(body)).convert("RGB")


def in_colours(planes: Planes) -> np.ndarray[Any, Any]:
    nothing = np.zeros_like(next(iter(planes.values())))
    return np.stack([planes.get(colour, nothing) for colour in ("red", "green", "blue")], axis=-1)


def pictures_of(served: Served) -> dict[str, bytes]:
    """Files of all kinds that show the example."""
    planes, sheet = served.planes, Image.open(served.sheet)
    bare = Image.fromarray(np.concatenate(list(planes.values()), axis=1))  # as anyone makes a sheet, without a note
    deep = np.asarray(bare).astype(np.uint16) * 257
    stack = io.BytesIO()
    tifffile.imwrite(stack, np.stack(list(planes.values())), photometric="minisblack", metadata={"axes": "CYX"})
    opaque = bare.convert("RGB")
    opaque.putalpha(255)
    pictures = {
        "the example": served.sheet.read_bytes(), "TIFF": stack.getvalue(), "without a note": saved(bare),
        "grey as RGB": saved(bare.convert("RGB")), "opaque": saved(opaque), "grey palette": saved(bare.convert("P")),
        "16 bits": imagecodecs.png_encode(deep), "sheet as TIFF": imagecodecs.tiff_encode(np.asarray(bare)),
        "resaved": saved(sheet.convert("RGBA")),
    }  # fmt: skip
    if "yellow" not in planes:
        colours = in_colours(planes)
        pictures |= {"colours": saved(Image.fromarray(colours)), "colours as TIFF": imagecodecs.tiff_encode(colours)}
    return pictures


def test_the_client_and_the_pipelines_answer_as_for_one_file_per_channel(served: Served, tmp_path: Path) -> None:
    client = InferenceClient(model=served.url)
    with Image.open(served.sheet) as opened:
        for picture in (served.sheet, str(served.sheet), served.sheet.read_bytes()):
            served.check(client.image_classification(picture))
        for locate in (served.locate, pipeline("image-classification", model=str(served.folder))):
            for given in (opened, served.sheet, str(served.sheet), served.sheet.read_bytes(), served.planes):
                served.check(locate(given))
            deep = tmp_path / "deep.tif"
            tifffile.imwrite(deep, np.stack(list(served.planes.values())).astype(np.uint16), photometric="minisblack")
            served.check(locate(str(deep)))
    few = client.image_classification(served.sheet, top_k=2, function_to_apply="softmax")
    assert few == served.locate(str(served.sheet), top_k=2, function_to_apply="softmax")
    raw = served.locate(str(served.sheet), top_k=None, function_to_apply="none")
    assert min(entry["score"] for entry in raw) < 0  # logits are not cut off at 0
    assert client.image_classification(served.sheet, top_k=31, function_to_apply="none") == [
        {"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-5)} for entry in raw
    ]


def test_every_kind_of_picture_is_read_alike(served: Served, tmp_path: Path) -> None:
    processor = served.handler.processor
    for kind, content in pictures_of(served).items():
        path = tmp_path / f"{kind}{'.tif' if 'TIFF' in kind else '.png'}"
        path.write_bytes(content)
        encoded = base64.b64encode(content).decode()
        served.check(served.locate(str(path)))
        served.check(served.locate(content))
        served.check(served.handler({"inputs": content}))
        served.check(served.handler({"inputs": [encoded]})[0])
        served.check(served.handler({"inputs": f"data:image/png;base64,{encoded}", "parameters": {"top_k": 5}}))
        served.check(served.handler({"inputs": {"image": encoded}})["locations"])
        status, answer = served.post(content)
        assert status == 200
        served.check(answer)
        assert served.post(content, **{"Content-Type": "application/octet-stream"}) == (200, answer)
        scale = 257 if kind == "16 bits" else 1
        planes = read_stack(str(path), served.channels, served.channels, processor)
        for name, plane in served.planes.items():
            np.testing.assert_array_equal(planes[name], plane.astype(int) * scale, err_msg=kind)
        if kind not in ("16 bits", "TIFF"):  # of which Pillow's `convert` leaves 8 bits, or the first plane
            served.check(served.handler({"inputs": decoded_by_the_toolkit(content)}))
            served.check(served.locate(decoded_by_the_toolkit(content)))


def test_a_jpeg_of_a_sheet_is_the_sheet(rybg: Served) -> None:
    body = saved(Image.open(rybg.sheet), "JPEG", quality=95)
    tiles = np.split(np.asarray(Image.open(io.BytesIO(body))), len(rybg.channels), axis=1)
    status, answer = rybg.post(body, **{"Content-Type": "image/jpeg"})
    assert status == 200
    assert answer == rybg.handler({"inputs": decoded_by_the_toolkit(body)})
    expected = rybg.locate(dict(zip(rybg.channels, tiles, strict=True)))
    assert [entry["score"] for entry in answer] == pytest.approx([e["score"] for e in expected], abs=1e-5)


def test_embeddings_by_the_same_ways(rybg: Served, encoder: EndpointHandler) -> None:
    sheet = rybg.sheet.read_bytes()
    expected = rybg.locate(rybg.planes, return_embedding=True)["embedding"]
    client = InferenceClient(model=f"{rybg.url}pipeline/feature-extraction")
    encoded = base64.b64encode(sheet).decode()
    np.testing.assert_allclose(client.feature_extraction(encoded), expected, atol=1e-5)
    length = np.linalg.norm(expected)
    np.testing.assert_allclose(client.feature_extraction(encoded, normalize=True), expected / length, atol=1e-5)
    status, answer = rybg.post(sheet, "/pipeline/feature-extraction")
    assert status == 200
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    everything = rybg.handler({"inputs": encoded, "parameters": {"embedding": True, "attention": True}})
    assert list(everything) == ["locations", "embedding", "attention"]
    rybg.check(rybg.post(sheet, "/pipeline/image-classification")[1])
    assert rybg.post(sheet, "/?top_k=2")[1] == rybg.handler({"inputs": sheet, "parameters": {"top_k": 2}})
    features = pipeline("image-feature-extraction", model=str(rybg.folder))
    np.testing.assert_allclose(features(str(rybg.sheet), pool=True)[0], expected, atol=1e-5)
    assert np.shape(encoder({"inputs": sheet})) == expected.shape
    with pytest.raises(RequestError, match="it has no locations to classify"):
        encoder({"inputs": sheet, "parameters": {"task": "image-classification"}})


PLANE = np.random.default_rng(0).integers(0, 200, (64, 64), dtype=np.uint8)
COLOURS = np.stack([PLANE, PLANE.T, PLANE[::-1]], axis=-1)


@pytest.mark.parametrize(
    ("channels", "picture", "message"),
    [
        (RYBG, COLOURS, "an RGB picture without a colour for yellow. Expected one grey picture with red, yellow, blue"),
        (("yellow", "blue", "green"), COLOURS, "an RGB picture without a colour for yellow"),
        (("dna", "mito"), COLOURS, "an RGB picture without a colour for dna and mito"),
        (RYBG, PLANE, "a grey picture of 64×64 px; as a sheet of 4 channels .* it would have 256×64 px"),
        (RYBG, np.hstack([PLANE] * 3), "a grey picture of 192×64 px; as a sheet of 4"),
        (("blue", "green"), np.vstack([PLANE] * 2), "a grey picture of 64×128 px; as a sheet of 2"),
        (("blue", "green"), np.stack([PLANE] * 3, axis=-1), "a grey picture of 64×64 px"),
        (("blue", "green"), COLOURS * np.uint8([1, 0, 0]), "an RGB picture that shows one channel, in one"),
        (("red", "blue", "green"), np.stack([PLANE, PLANE, PLANE + 1], axis=-1), "an RGB picture that shows one"),
        (("green",), np.hstack([PLANE] * 3), "a grey picture of 192×64 px: one wide channel, or a sheet of 3 channels"),
        (RYBG, np.hstack([np.minimum(PLANE.astype(int) * 2, 255)] * 4), "255 in .* its 16 bits had been cut"),
    ],
)  # fmt: skip
def test_ambiguous_pictures_are_refused_with_what_to_send(
    channels: tuple[str, ...], picture: np.ndarray[Any, Any], message: str
) -> None:
    processor = SubCellImageProcessor(channels, 64)
    image = Image.fromarray(picture.astype(np.uint8))
    with pytest.raises(ValueError, match=f"Image 0 (is|has the value) {message}"):
        processor(image)
    with pytest.raises(ValueError, match=message):
        processor.split_picture(image)


def test_the_note_of_a_sheet_counts() -> None:
    oblong = {name: np.full((32, 48), value, np.uint8) for value, name in enumerate(("a", *RYBG))}
    sheet = Image.open(io.BytesIO(sheet_png(oblong)))
    processor = SubCellImageProcessor(RYBG[::-1])
    for picture in (sheet, sheet.convert("RGB")):  # another order, a plane too many, no squares
        found = processor.split_picture(picture)
        assert {name: int(plane[0, 0]) for name, plane in found.items()} == dict(zip(oblong, range(5), strict=True))
        assert found["red"].shape == (32, 48)
    with pytest.raises(ValueError, match="has the channels a, red, yellow, blue, green; expected blue, mito"):
        SubCellImageProcessor(["blue", "mito"])(sheet)
    with pytest.raises(ValueError, match="is a sheet of a, red, yellow, blue, green; expected green alone"):
        SubCellImageProcessor(["green", "mito"])({"green": sheet, "mito": sheet})
    part = sheet.crop((48, 0, 96, 32))  # Pillow keeps the note of the whole
    assert (processor.read_plane(part, "red", "part") == 1).all()
    part.info[SHEET_NOTE] = "{"
    with pytest.raises(ValueError, match="has a damaged note"):
        processor.split_picture(part)


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "image/png", 415, "is empty; expected a .npy, TIFF, PNG or JPEG file"),
        (b"", "", 400, "empty or not JSON .* nor is its body a PNG, JPEG, TIFF or .npy file"),
        (b"just text", "text/plain", 400, "not JSON .* nor is its body a PNG"),
        (b"just text", "image/jpeg", 415, "is not a .npy, TIFF, PNG or JPEG file; it begins with b'just tex'"),
        (b"GIF89a" + bytes(99), "image/gif", 415, "is not a .npy, TIFF, PNG or JPEG file"),
        (b"\x89PNG\r\n\x1a\n", "image/png", 422, "cannot be decoded"),
        (saved(Image.fromarray(PLANE))[:900], "image/png", 422, "cannot be decoded"),
        (saved(Image.fromarray(COLOURS), "JPEG")[:900], "image/jpeg", 422, "cannot be decoded"),
        (b"II*\0" + bytes(40), "image/tiff", 422, "cannot be decoded|pages"),
        (bytes(range(256)) * 20, "application/octet-stream", 400, "not JSON"),
        (b"\xff\xd8\xff" + bytes(1_000_000), "image/jpeg", 413, "1,000,003 bytes; expected 1,000,000"),
        (saved(Image.new("L", (1100, 1100))), "image/png", 413, r"\[1100, 1100, 1\]; expected edges up to"),
        (saved(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"), "image/jpeg", 422, "has the mode CMYK"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_cell_get_a_sentence(rybg: Served, body: bytes, kind: str, status: int, message: str) -> None:
    found, answer = rybg.post(body, **{"Content-Type": kind} if kind else {})
    assert (found, list(answer)) == (status, ["error"]), answer
    assert re.search(message, answer["error"]), answer


def test_the_client_hands_on_the_sentence(rybg: Served) -> None:
    client = InferenceClient(model=rybg.url)
    with pytest.raises(HfHubHTTPError, match="a grey picture of 64×64 px; as a sheet of"):
        client.image_classification(saved(Image.fromarray(PLANE)))
    with pytest.raises(HfHubHTTPError, match="function_to_apply is 'squash'; expected one of sigmoid, softmax, none"):
        client.image_classification(rybg.sheet, function_to_apply="squash")  # type: ignore[arg-type]
    assert rybg.post(b"{}", "/?" + "[" * 5000)[0] == 400
    assert rybg.post(b"{}", "/pipeline/text-generation")[0] == 404


STRANGER = """
import io, sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "subcell_hf":
            raise ModuleNotFoundError(f"No module named {fullname}")

sys.meta_path.insert(0, Blocker())
import json, numpy as np
from pathlib import Path
from PIL import Image
from transformers import pipeline

folder, deep = sys.argv[1:]
sheet = f"{folder}/example/sheet.png"
found = []
for task in ("image-classification", None):
    locate = pipeline(task, model=folder, trust_remote_code=True)
    assert type(locate).__name__ == "SubCellPipeline", type(locate)
    found += [locate(given) for given in (sheet, Path(sheet).read_bytes(), Image.open(sheet), deep)]
    found.append(locate({c: f"{folder}/example/{c}.png" for c in ("red", "yellow", "blue", "green")}))
print("RESULT", json.dumps(found))
"""


@pytest.mark.slow
def test_the_hubs_task_without_the_package(rybg: Served, tmp_path: Path) -> None:
    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, np.stack(list(rybg.planes.values())).astype(np.uint16) * 200, photometric="minisblack")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    output = run_program("-c", STRANGER, rybg.folder, deep, log=tmp_path / "log", cwd=tmp_path, env=environment)
    for answer in result_of(output, "RESULT"):
        rybg.check(answer)


# ---- Sheets ----


def write_files(folder: Path, planes: Planes, name: Callable[[str], str]) -> list[Path]:
    files = []
    for channel, plane in planes.items():
        files.append(folder / name(channel))
        tifffile.imwrite(files[-1], plane)
    return files


def test_sheets_from_channel_files_and_stacks(served: Served, tmp_path: Path) -> None:
    planes, output = served.planes, tmp_path / "sheet.png"
    letters = {name: chr(ord("a") + index) for index, name in enumerate(served.channels)}
    named = write_files(tmp_path, planes, lambda channel: f"Well B2_{channel.upper()}.tif")
    plain = write_files(tmp_path, planes, lambda channel: f"{letters[channel]}.tif")
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.stack(list(planes.values()))[::-1], photometric="minisblack")
    ways: list[tuple[list[Path], dict[str, Any]]] = [
        (named[::-1], {"model": served.folder}),
        (plain, {"model": str(served.folder)}),
        (plain[::-1], {"channels": served.channels[::-1], "model": served.folder}),
        ([stack], {"channels": ",".join(served.channels[::-1]), "model": served.folder}),
    ]
    for files, options in ways:
        output.unlink(missing_ok=True)
        sheet = write_sheet(files, output, **options)
        assert (sheet.channels, sheet.height_px, sheet.width_px) == (served.channels, 64, 64)
        assert output.read_bytes() == served.sheet.read_bytes()
    command = ["sheet", *map(str, named), "--output", str(output), "--channels", ",".join(served.channels)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert f"shows {', '.join(served.channels)}, 64×64 px each" in result.output
    assert output.read_bytes() == served.sheet.read_bytes()


def test_deep_planes_are_scaled_by_one_factor(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planes = {name: rng.integers(100, 3000 * (i + 1), (64, 64)).astype(np.uint16) for i, name in enumerate(RYBG)}
    sheet = write_sheet(write_files(tmp_path, planes, "{}.tif".format), tmp_path / "a.png", channels="rybg")
    processor = SubCellImageProcessor(size=64)
    found = processor(Image.open(sheet.path))["pixel_values"]
    assert float((found - processor(planes)["pixel_values"]).abs().max()) <= 1 / 255


def test_sheets_that_cannot_be_made(tmp_path: Path) -> None:
    planes = dict.fromkeys(RYBG, PLANE)
    files = write_files(tmp_path, planes, "{}.tif".format)
    copied = write_files(tmp_path, {"red": PLANE, "x": PLANE, "y": PLANE, "z": PLANE}, "part_{}.tif".format)
    mixed = [*files[:3], *write_files(tmp_path, {"green": PLANE[:32]}, "half_{}.tif".format)]
    for given, options, message in (
        (files, {}, "needs a model or the names of its channels"),
        (files[:2], {"channels": "rybg"}, "2 files are given; expected one for each of red, yellow"),
        (copied, {"channels": "rybg"}, "name some channels only, or some twice .*part_x.tif: none"),
        (files[:1], {"channels": "rybg"}, "expected one plane for each of red, yellow, blue, green"),
        (mixed, {"channels": "rybg"}, "differ in shape or depth"),
        ([tmp_path / "none_red.tif", *files[1:]], {"channels": "rybg"}, "There is no file .*none_red.tif"),
        (files, {"channels": "purple"}, "Unknown channels"),
    ):
        with pytest.raises(InputError, match=message):
            write_sheet(given, tmp_path / "sheet.png", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be a PNG file"):
        write_sheet(files, tmp_path / "sheet.jpg", channels="rybg")
    assert not (tmp_path / "sheet.png").exists()
