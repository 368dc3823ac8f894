"""The demo page: what it reads and refuses, what a Space's folder holds, and all of it once in a real browser."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from PIL import Image
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from subcell_hf.ontology import CHANNEL_VARIANTS, reported_locations
from subcell_hf.tables.cell_pictures import draw_picture as draw_cell
from subcell_hf.tables.cell_pictures import write_pictures
from subcell_hf.tables.files import EmbeddingTable, read_table, write_parquet
from subcell_hf.workflows import search

pytest.importorskip("gradio")

from subcell_hf.hub.demo import demo_answers
from subcell_hf.hub.demo.demo_answers import Demo
from subcell_hf.hub.demo.demo_app import build_page
from subcell_hf.hub.demo.demo_images import LIMITS, Picture, read_channel_files, read_mask, read_stack
from subcell_hf.hub.demo.demo_model import ReferenceCells
from subcell_hf.hub.demo.demo_pictures import cell_at, draw_map, draw_picture, list_locations, list_similar, message
from subcell_hf.hub.demo.space import local_settings, map_reference, stage_space
from subcell_hf.hub.endpoint.endpoint_images import RequestError

RYBG = CHANNEL_VARIANTS["rybg"]
SIZE = 64
PROCESSOR = SubCellImageProcessor(RYBG, SIZE, 0.64)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with the published classes and random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    names = dict(enumerate(reported_locations()))
    torch.manual_seed(0)
    config = SubCellConfig.from_size(
        "tiny", channels=list(RYBG), image_size=SIZE, id2label=names, label2id={name: i for i, name in names.items()}
    )
    SubCellForImageClassification(config).eval().save_pretrained(folder)
    SubCellImageProcessor(RYBG, {"height": SIZE, "width": SIZE}, 0.64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def table(model: Path) -> Path:
    """Cells of two locations, well apart."""
    width = SubCellConfig.from_pretrained(model).embedding_size
    rng = np.random.default_rng(0)
    embeddings = rng.normal(0, 0.1, (40, width)) + np.where(np.arange(40)[:, None] % 2, 1, np.arange(width) % 2)
    names = ["Nucleoli;Cytosol", "Mitochondria"] * 20
    cells = pd.DataFrame({"cell_id": [f"c{i}" for i in range(40)], "field_of_view": "f", "locations": names})
    path = model.parent / "reference.parquet"
    write_parquet(EmbeddingTable(cells=cells, embeddings=embeddings.astype(np.float32)), path)
    plane = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    pictures = [draw_cell(f"c{number}", {"green": plane}, None, None) for number in range(20)]
    write_pictures(pictures, path.with_name("pictures.parquet"))
    return path


@pytest.fixture(scope="module")
def reference(model: Path, table: Path) -> ReferenceCells:
    return map_reference(table, SubCellConfig.from_pretrained(model))


@pytest.fixture(scope="module")
def demo(model: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return Demo(local_settings(model, tmp_path_factory.mktemp("demo") / "examples", table))


def planes(size: int = SIZE, dtype: str = "uint8") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {channel: rng.integers(0, 200, (size, size)).astype(dtype) for channel in RYBG}


def save_all(folder: Path, images: dict[str, np.ndarray], suffix: str = ".png") -> dict[str, str | None]:
    folder.mkdir(exist_ok=True)
    for channel, pixels in images.items():
        path = folder / f"{channel}{suffix}"
        if suffix == ".npy":
            np.save(path, pixels)
        elif suffix == ".tif":
            tifffile.imwrite(path, pixels)
        else:
            Image.fromarray(pixels).save(path)
    return {channel: str(folder / f"{channel}{suffix}") for channel in images}


# ---- What is read ----


@pytest.mark.parametrize("suffix", [".png", ".npy", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_channel_files_keep_their_numbers(tmp_path: Path, suffix: str, dtype: str) -> None:
    images = planes(dtype=dtype)
    found = read_channel_files(save_all(tmp_path, images, suffix), PROCESSOR)
    assert tuple(found) == RYBG
    for channel in RYBG:
        assert found[channel].dtype == dtype
        np.testing.assert_array_equal(found[channel], images[channel])


def test_a_jpeg_in_its_colour_is_that_channel(tmp_path: Path) -> None:
    smooth = np.outer(np.linspace(0, 250, SIZE), np.linspace(0, 1, SIZE)).astype(np.uint8)
    where = {"red": [0], "yellow": [0, 1], "blue": [2], "green": [1]}
    files: dict[str, str | None] = {}
    for channel, colours in where.items():
        rgb = np.zeros((SIZE, SIZE, 3), np.uint8)
        rgb[..., colours] = smooth[..., None]
        files[channel] = str(tmp_path / f"{channel}.jpg")
        Image.fromarray(rgb).save(str(files[channel]), quality=95)
    for plane in read_channel_files(files, PROCESSOR).values():
        assert np.abs(plane.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("channels_last", [False, True])
def test_one_file_with_all_channels(tmp_path: Path, channels_last: bool) -> None:
    images = planes()
    names = ["green", "blue", "brightfield", "red", "yellow"]
    stack = np.stack([images.get(name, images["red"]) for name in names])
    np.save(tmp_path / "cell.npy", np.moveaxis(stack, 0, 2) if channels_last else stack)
    found = read_stack(str(tmp_path / "cell.npy"), names, RYBG, PROCESSOR)
    for channel in RYBG:
        np.testing.assert_array_equal(found[channel], images[channel])


@pytest.mark.parametrize("kind", ["sheet.png", "sheet.jpg", "sheet.tif"])
def test_a_sheet_holds_all_channels(tmp_path: Path, demo: Demo, kind: str) -> None:
    smooth = np.outer(np.linspace(0, 250, SIZE), np.linspace(0, 1, SIZE)).astype(np.uint8)
    images = {channel: smooth // (index + 1) for index, channel in enumerate(RYBG)}
    Image.fromarray(np.hstack(list(images.values()))).save(tmp_path / kind)
    for channel, plane in read_stack(str(tmp_path / kind), RYBG, RYBG, PROCESSOR).items():
        assert np.abs(plane.astype(int) - images[channel]).max() <= (8 if kind == "sheet.jpg" else 0)
    answer = demo.open_stack(None, None, False, str(tmp_path / kind), ", ".join(RYBG))
    assert f"{SIZE}×{SIZE} px" in answer[0]


def test_colours_are_channels_where_the_model_has_them(tmp_path: Path, demo: Demo) -> None:
    """In the model's order, the text field says nothing of the picture's own order."""
    rgb = np.random.default_rng(0).integers(0, 200, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb")
    names = CHANNEL_VARIANTS["rbg"]
    for file in ("a.png", "a.tif"):
        found = read_stack(str(tmp_path / file), names, names, SubCellImageProcessor(names, SIZE, 0.64))
        for sample, channel in enumerate(("red", "green", "blue")):
            np.testing.assert_array_equal(found[channel], rgb[..., sample])
    answer = demo.open_stack(None, None, False, str(tmp_path / "a.png"), ", ".join(RYBG))
    assert "a.png is an RGB picture without a colour for yellow" in answer[0]


def composite(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)).save(path, "JPEG")


def poisoned(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([print], dtype=object), allow_pickle=True)


def bomb(path: Path) -> None:
    """The header of a PNG of a gigapixel."""
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    path.write_bytes(content)


def not_a_number(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.full((SIZE, SIZE), np.nan, np.float32))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: path.write_bytes(b""), r"green\.png is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be decoded"),
        (lambda path: path.write_text("<script>alert(1)</script>"), "not a .npy, TIFF, PNG or JPEG"),
        (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0garbage"), "cannot be decoded"),
        (composite, "is a composite: .*expected signal in green alone"),
        (poisoned, "holds object"),
        (bomb, "60000"),
        (not_a_number, "NaN or infinite"),
        (lambda path: Image.fromarray(planes(32)["red"]).save(path), r"differ in size.*green 32×32"),
        (lambda path: os.truncate(path, LIMITS.max_request_bytes + 1), "larger than 64,000,000 bytes"),
    ],
    ids=["empty", "truncated", "text", "broken jpeg", "composite", "pickle", "bomb", "nan", "size", "huge"],
)  # fmt: skip
def test_wrong_and_hostile_files_get_a_message(
    tmp_path: Path, demo: Demo, change: Callable[[Path], object], expected: str
) -> None:
    files = save_all(tmp_path, planes())
    change(tmp_path / "green.png")
    with pytest.raises(RequestError, match=expected):
        read_channel_files(files, PROCESSOR)
    answer = demo.open_files(None, None, False, *files.values())
    assert 'class="message error"' in answer[0]
    assert answer[1] is None
    assert answer[2]["visible"] is False


@pytest.mark.parametrize(
    ("path", "names", "expected"),
    [
        (None, RYBG, "No file"),
        ("cell.npy", RYBG[:3], "must contain each of red, yellow, blue, green once"),
        ("cell.npy", (*RYBG, "red"), r"each of .* once"),
        ("cell.npy", (*RYBG, "mito"), r"\[4, 64, 64\]; expected planes of red, yellow, blue, green, mito"),
    ],
)
def test_stacks_whose_names_do_not_fit_are_refused(
    tmp_path: Path, path: str | None, names: tuple[str, ...], expected: str
) -> None:
    np.save(tmp_path / "cell.npy", np.stack(list(planes().values())))
    with pytest.raises(RequestError, match=expected):
        read_stack(None if path is None else str(tmp_path / path), names, RYBG, PROCESSOR)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.ones((8, 8), np.uint8), r"shape \[8, 8\]"),
        (np.zeros((SIZE, SIZE), np.uint8), "no whole numbers above 0"),
        (np.full((SIZE, SIZE), 0.5), "no whole numbers"),
        (np.full((SIZE, SIZE), 70_000, np.int32), "at most 65,535"),
    ],
)
def test_wrong_masks_are_refused(tmp_path: Path, mask: np.ndarray, expected: str) -> None:
    np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(RequestError, match=expected):
        read_mask(str(tmp_path / "mask.npy"), (SIZE, SIZE), PROCESSOR)


# ---- What is shown ----


def two_cells() -> Picture:
    cells = np.zeros((200, 300), np.int32)
    cells[60:100, 40:80] = 5
    cells[120:200, 200:300] = 9  # larger, but cut by the border
    noise = np.random.default_rng(1).integers(3, 30, cells.shape)
    pixels = {channel: np.where(cells > 0, 200, noise).astype(np.uint8) for channel in RYBG}
    return Picture(pixels, cells, 0.64)


def test_whole_cells_come_first_and_can_be_clicked() -> None:
    picture = two_cells()
    assert picture.cell_labels == [5, 9]
    assert (cell_at(picture, 60, 80), cell_at(picture, 250, 150), cell_at(picture, 5, 5)) == (5, 9, None)
    drawn = draw_picture(picture, 5)
    assert drawn.shape == (200, 300, 3)
    assert (drawn[60, 60] == 255).all()
    assert drawn[120, 250].tolist() == [150, 150, 150]


def test_a_cell_is_cut_about_its_centre(demo: Demo) -> None:
    first = demo.model.read(two_cells(), 5, hide_neighbours=False)
    assert first.cell_mask is not None
    rows, columns = np.nonzero(first.cell_mask)
    assert first.cell_mask.shape == (SIZE, SIZE)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 51, 12, 51)
    assert first.pixel_values[:, ~first.cell_mask].max() > 0
    cut = demo.model.read(two_cells(), 5, hide_neighbours=True)
    assert cut.pixel_values[:, ~first.cell_mask].max() == 0
    assert not np.array_equal(first.embedding, cut.embedding)
    at_the_border = demo.model.read(two_cells(), 9, hide_neighbours=False)
    assert at_the_border.cell_mask is not None
    assert at_the_border.cell_mask.all()


def test_the_page_says_what_the_model_says(demo: Demo, tmp_path: Path) -> None:
    files = save_all(tmp_path, planes())
    Image.fromarray(np.full((SIZE, SIZE), 255, np.uint8)).save(tmp_path / "mask.png")
    answer = demo.open_files(str(tmp_path / "mask.png"), 0.64, False, *files.values())
    assert "One cell" in answer[0]
    reading = demo.model.read(Picture(planes(), None, 0.64), None, hide_neighbours=False)
    inputs = demo.model.processor([planes()], pixel_size_um=0.64)
    with torch.inference_mode():
        outputs = demo.model.model(inputs["pixel_values"])
    np.testing.assert_allclose(reading.embedding, outputs.pooler_output[0].numpy(), atol=1e-6)
    name, score = reading.locations[0]
    assert score == pytest.approx(float(outputs.logits.sigmoid().max()), abs=1e-6)
    assert f"<span>{name}</span>" in answer[6]
    assert f"{100 * score:.1f} %" in answer[6]
    downloaded = np.load(answer[8]["value"])
    np.testing.assert_array_equal(downloaded, reading.embedding)
    row = pd.read_csv(answer[9]["value"]).iloc[0]
    assert row[f"probability_{name}"] == pytest.approx(score, abs=1e-5)
    assert row["embedding_0"] == pytest.approx(float(reading.embedding[0]), rel=1e-5)


def test_files_to_download_do_not_pile_up(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_answers, "_KEPT_ANSWERS", 2)
    reading = demo.model.read(two_cells(), 5, hide_neighbours=False)
    written = [Path(demo._write(reading, cell)[0]) for cell in range(5)]
    assert [path.is_file() for path in written[-2:]] == [True, True]
    assert not any(path.exists() for path in written[:-2])


def test_examples_are_outlined_and_their_own_location(demo: Demo) -> None:
    assert "Mitochondria" in demo.settings.examples
    answer = demo.open_example("Mitochondria", False)
    assert "One cell" in answer[0]
    assert answer[5]["visible"] is True
    assert "error" in demo.open_example("../secrets", False)[0]
    assert "error" in demo.choose(None, 1, False)[0]


def test_pixel_sizes_are_bounded(demo: Demo, tmp_path: Path) -> None:
    files = save_all(tmp_path, planes())
    assert "expected 0.005 to 10" in demo.open_files(None, 50.0, False, *files.values())[0]


def test_a_size_that_nobody_gave_is_called_assumed(demo: Demo, tmp_path: Path) -> None:
    files = save_all(tmp_path, planes())
    assumed, given = (demo.open_files(None, size, False, *files.values())[0] for size in (None, 0.64))
    assert "0.64 µm each (pixel size of the model; to change it, open “Mask, pixel size”)" in html.unescape(assumed)
    assert "0.64 µm each. " in given


def test_names_of_strangers_do_no_harm() -> None:
    evil = "<img src=x onerror=alert(1)>"
    assert "<img" not in message(evil, is_error=True)
    reading = type("Reading", (), {"locations": [(evil, 0.5)], "embedding": np.zeros(3, np.float32)})()
    assert "<img" not in list_locations(reading, {evil: "red;background:url(x)"})
    assert "url" not in list_locations(reading, {evil: "red;background:url(x)"})
    cells = np.eye(3, dtype=np.float32)
    reference = ReferenceCells.from_map(cells, np.eye(3, 2, dtype=np.float32), [evil] * 3, evil, [evil] * 3, {})
    assert "<img" not in draw_map(reading, reference, {})
    assert "<img" not in list_similar(reading, reference)


def test_unexpected_errors_are_logged_and_the_page_goes_on(demo: Demo, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Picture:
        raise RuntimeError("decoder on fire")

    answer = demo._answer(broken, False)
    assert "could not be read" in answer[0]
    assert "decoder on fire" in caplog.text
    assert "on fire" not in answer[0]


# ---- Reference cells and the Space ----


def test_reference_cells_keep_their_places(reference: ReferenceCells, tmp_path: Path) -> None:
    assert reference.labels == ["Nucleoli", "Mitochondria"] * 20
    assert reference.method.startswith("UMAP of the cosine between embeddings")
    assert reference.positions.min() >= 0
    assert reference.positions.max() <= 1
    groups = [reference.positions[index::2] for index in range(2)]
    apart = np.linalg.norm(groups[0].mean(axis=0) - groups[1].mean(axis=0))
    assert apart > 3 * max(group.std(axis=0).max() for group in groups)
    reference.save(tmp_path / "reference.npz")
    again = ReferenceCells.load(tmp_path / "reference.npz")
    np.testing.assert_array_equal(again.positions, reference.positions)
    np.testing.assert_allclose(again.directions, reference.directions, atol=1e-3)
    assert (again.labels, again.method) == (reference.labels, reference.method)
    assert again.cell_ids == reference.cell_ids
    assert again.pictures == reference.pictures
    assert [bool(picture) for picture in again.pictures] == [True] * 20 + [False] * 20


def test_similar_cells_are_those_of_search_with_their_pictures(
    demo: Demo, reference: ReferenceCells, table: Path
) -> None:
    reading = demo.model.read(two_cells(), 5, hide_neighbours=False)
    expected = search(table, reading.embedding, k=10)
    rows, cosines = reference.find_similar(reading.embedding)
    assert [reference.cell_ids[row] for row in rows] == expected["cell_id"].tolist()
    np.testing.assert_allclose(cosines, expected["similarity"], atol=6e-5)  # which has four decimals
    shown = demo.choose(two_cells(), 5, False)[10]
    assert re.findall(r"similarity (-?[\d.]+)", shown) == [f"{cosine:.3f}" for cosine in cosines]
    with_picture = [f"c{number}" for number in range(20)]
    assert re.findall(r'alt="(c\d+)"', shown) == [name for name in expected["cell_id"] if name in with_picture]
    assert shown.count("no picture") == 10 - expected["cell_id"].isin(with_picture).sum()
    assert "similarity" not in demo.choose(None, 5, False)[10]


def test_a_cell_stands_among_those_that_it_is_like(reference: ReferenceCells) -> None:
    for index in range(2):
        rows, weights = reference.find_nearest(7 * reference.directions[index])  # its length says nothing
        assert rows[0] == index
        assert len(rows) == 10
        assert (rows % 2 == index).all()
        assert weights.sum() == pytest.approx(1)
        assert (np.diff(weights) <= 0).all()
        x, y = reference.place(reference.directions[index])
        np.testing.assert_allclose((x, y), weights @ reference.positions[rows], atol=1e-6)
        assert reference.place(reference.directions[index]) == (x, y)


def test_weights_follow_the_formula() -> None:
    angles = np.array([0.0, 0.1, 0.3])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    places = np.eye(3, 2, dtype=np.float32)
    cells = ReferenceCells.from_map(5 * circle, places, ["a", "b", "c"], "by hand", ["1", "2", "3"], {})
    rows, weights = cells.find_nearest(np.array([2.0, 0.0], np.float32))
    farther = 1 - np.cos(angles)
    expected = np.exp(-farther / farther.mean())
    np.testing.assert_array_equal(rows, [0, 1, 2])
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-3)
    ones = np.ones((2, 4), np.float32)
    twins = ReferenceCells.from_map(ones, np.eye(2, dtype=np.float32), ["a", "b"], "twins", ["1", "2"], {})
    assert twins.place(np.ones(4, np.float32)) == pytest.approx((0.5, 0.5))


def test_the_map_says_what_is_near(reference: ReferenceCells) -> None:
    reading = type("Reading", (), {"embedding": reference.directions[1]})()
    drawn = draw_map(reading, reference, {"Mitochondria": "#123456"})
    assert drawn.count("<circle") == 40
    assert drawn.count('fill="#123456"') == 20
    assert "Of its 10 nearest reference cells: 10 Mitochondria." in drawn
    assert "40 reference cells: UMAP" in drawn


def test_a_map_needs_its_library(table: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("subcell_hf.hub.demo.space.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"requires umap-learn.*subcell-hf\[analysis\]"):
        stage_space(model, tmp_path / "space", repository="subcell/tiny", reference=table)
    assert not list(tmp_path.iterdir())


def test_a_map_needs_cells(table: Path, model: Path, tmp_path: Path) -> None:
    write_parquet(read_table(table).select(np.arange(14)), tmp_path / "few.parquet")
    with pytest.raises(InputError, match=r"has 14 cells with a location.*at least 15"):
        map_reference(tmp_path / "few.parquet", SubCellConfig.from_pretrained(model))


def test_references_of_another_model_are_refused(table: Path, model: Path, tmp_path: Path) -> None:
    config = SubCellConfig.from_size("tiny", pooling_projection_size=16)
    with pytest.raises(InputError, match="embed the reference cells with this model"):
        map_reference(table, config)
    write_parquet(replace(read_table(table), provenance={"orientations": 4}), tmp_path / "averaged.parquet")
    with pytest.raises(InputError, match="means over 4 orientations of each cell, and the page compares them"):
        map_reference(tmp_path / "averaged.parquet", SubCellConfig.from_pretrained(model))


@pytest.fixture(scope="module")
def space(model: Path, table: Path) -> Path:
    return stage_space(model, model.parent / "space", repository="subcell/tiny", reference=table)


def test_a_space_is_complete(space: Path) -> None:
    header = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (header["sdk"], header["app_file"], header["models"]) == ("gradio", "app.py", ["subcell/tiny"])
    assert len(header["short_description"]) <= 60
    facts = json.loads((space / "demo.json").read_text(encoding="utf-8"))
    assert facts["model"] == "subcell/tiny"
    assert facts["colours"]["Mitochondria"].startswith("#")
    assert {path.name for path in (space / "examples").iterdir()} >= {"Mitochondria", "Nucleoli", "Plasma_membrane"}
    for path in space.glob("*.py"):
        assert "from subcell_hf.hub" not in path.read_text(encoding="utf-8")
    assert not [path for path in space.rglob("*") if path.suffix in (".pkl", ".pt", ".bin", ".pth")]


def test_the_requirements_of_a_space_are_what_its_code_needs_and_what_was_tested(model: Path, space: Path) -> None:
    """Whether they install together was tried with pip's dry run; this holds without a network."""
    header = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    lines = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [Requirement(line) for line in lines if line and not line.startswith(("#", "--"))]
    for requirement in needed:
        tested = Version(version(requirement.name))
        assert requirement.specifier.contains(tested), requirement
        if requirement.name in ("torch", "transformers"):
            assert not requirement.specifier.contains(f"{tested.major}.{tested.minor + 1}"), requirement
    package = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    python = header["python_version"]
    assert isinstance(python, str)  # 3.10 as a number would be 3.1
    assert python in SpecifierSet(package["requires-python"])
    assert header["sdk_version"] in {entry.name: entry.specifier for entry in needed}["gradio"]
    listed = {"PIL" if entry.name == "pillow" else entry.name for entry in needed}
    # The Space runs the code of the model as well.
    for path in [*space.glob("*.py"), *model.glob("*_subcell*.py")]:
        imported = re.findall(r"^\s*(?:from|import) (\w+)|import_optional\(\"(\w+)", path.read_text(), re.MULTILINE)
        foreign = {a or b for a, b in imported} - sys.stdlib_module_names - {other.stem for other in space.glob("*.py")}
        optional = {"subcell_hf", "huggingface_hub", "torchvision"}  # beside it, of transformers, or not used here
        assert foreign <= listed | optional, path.name


def test_a_space_replaces_only_spaces(model: Path, space: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not an earlier Space"):
        stage_space(model, tmp_path / "mine", repository="subcell/tiny")
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    before = {path.relative_to(space): path.read_bytes() for path in space.rglob("*") if path.is_file()}
    stage_space(model, space, repository="subcell/tiny", reference=model.parent / "reference.parquet")
    after = {path.relative_to(space): path.read_bytes() for path in space.rglob("*") if path.is_file()}
    assert after == before


def test_a_reference_without_a_space_is_refused(model: Path, table: Path, tmp_path: Path) -> None:
    arguments = ["export", str(model), "--output", str(tmp_path / "export"), "--repository", "me/tiny"]
    refused = CliRunner().invoke(app, [*arguments, "--space-reference", str(table)])
    assert refused.exit_code == 2
    assert "--space" in refused.output
    assert not (tmp_path / "export").exists()


def test_the_page_is_laid_out_without_analytics(demo: Demo) -> None:
    page = build_page(demo)
    assert page.analytics_enabled is False


# ---- In a browser ----


@pytest.fixture(scope="module")
def served(space: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Space as the Hub runs it: its own folder, this package blocked, the model beside it."""
    folder = tmp_path_factory.mktemp("hub") / "space"
    shutil.copytree(space, folder)
    shutil.copytree(model, folder / "model")
    for path in (Path(__file__).parents[2] / "subcell_hf/model").glob("*_subcell*.py"):
        shutil.copy(path, folder / "model")
    facts = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    (folder / "demo.json").write_text(json.dumps({**facts, "model": "model"}), encoding="utf-8")
    start = (
        "import sys; sys.modules['subcell_hf'] = None; sys.path.insert(0, '.'); from pathlib import Path; import app; "
        "app.launch(app.Demo(app.DemoSettings.read(Path('.'))), server_name='127.0.0.1')"
    )
    environment = {
        **os.environ, "PYTHONPATH": "", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "HF_MODULES_CACHE": str(folder / "modules"), "GRADIO_TEMP_DIR": str(folder / "uploads"),
    }  # fmt: skip
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", start], cwd=folder, stdout=log, stderr=log, env=environment)
    try:
        yield _address(process, folder / "log.txt")
    finally:
        process.terminate()
        process.wait(20)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no chromium with its chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for name in (
        "headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,1400",
        f"user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(f"--{name}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(driver: Any, selector: str, text: str = "", timeout_s: float = 90) -> Any:
    """The first element of a selector that shows a text."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            for element in driver.find_elements("css selector", selector):
                if element.is_displayed() and text in element.text:
                    return element
        except Exception as error:  # elements go while the page is drawn anew
            if "stale" not in str(error):
                raise
        time.sleep(0.2)
    raise AssertionError(
        f"{selector} never showed {text!r}; the page says {driver.find_element('id', 'status').text!r}"
    )


def wait_for_file(folder: Path, pattern: str, timeout_s: float = 60) -> Path:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = list(folder.glob(pattern))
        if found:
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"No {pattern} came; there are {list(folder.iterdir())}")


def open_tab(driver: Any, name: str) -> None:
    next(tab for tab in driver.find_elements("css selector", "button[role=tab]") if tab.text == name).click()


@pytest.mark.slow
def test_a_visitor_reads_cells(served: str, browser: Any, downloads: Path, model: Path, tmp_path: Path) -> None:
    browser.get(served)
    wait_for(browser, "#open-example").click()
    wait_for(browser, "#status", "One cell.")
    shown = wait_for(browser, "#locations", "%").text
    assert any(name in shown for name in reported_locations())
    assert wait_for(browser, "#map svg path.own")
    assert len(wait_for(browser, "#similar .cells", "similarity").find_elements("css selector", "figure")) == 10
    for image in browser.find_elements("css selector", "#similar img"):
        assert browser.execute_script("return arguments[0].naturalWidth", image) == 128
    for picture in ("seen", "attention", "shown"):
        image = wait_for(browser, f"#{picture} img")
        assert browser.execute_script("return arguments[0].naturalWidth", image) >= SIZE
        assert image.size["width"] >= 120 > SIZE  # a small crop fills its frame
    wait_for(browser, "#npy").click()
    downloaded = wait_for_file(downloads, "*.npy")
    assert np.load(downloaded).shape == (SubCellConfig.from_pretrained(model).embedding_size,)

    files = save_all(tmp_path, planes(128))
    open_tab(browser, "Channel files")
    for index, channel in enumerate(RYBG):
        browser.find_element("css selector", f"#file-{index} input[type=file]").send_keys(files[channel])
        wait_for(browser, f"#file-{index}", f"{channel}")
    wait_for(browser, "#open-files").click()
    wait_for(browser, "#status", "128×128 px")

    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY garbage")
    open_tab(browser, "One file")
    browser.find_element("css selector", "#file-stack input[type=file]").send_keys(str(tmp_path / "bad.npy"))
    wait_for(browser, "#file-stack", "bad")
    wait_for(browser, "#open-stack").click()
    wait_for(browser, "#status .error", "bad.npy cannot be decoded")
    assert "Traceback" not in browser.page_source

    browser.set_window_size(390, 844)  # a phone
    width = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0
    assert _hosts(browser) == {served.removeprefix("http://")}


def _hosts(driver: Any) -> set[str]:
    """Every host that the page asked for anything."""
    hosts = set()
    for entry in driver.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        # The browser's own first tab, chrome://new-tab-page, asks for things, too.
        if event["method"] == "Network.requestWillBeSent" and event["params"]["documentURL"].startswith("http"):
            url = event["params"]["request"]["url"]
            if url.startswith("http"):
                hosts.add(url.split("/")[2])
    return hosts
