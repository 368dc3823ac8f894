"""A model is quantized on some cells and judged on others, and what is written can be used everywhere."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.comparison import AgreementLimits
from subcell_hf.hub.demo.demo_images import Picture
from subcell_hf.hub.demo.demo_model import CellReading
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.inference import run_on_openvino
from subcell_hf.inference.models.layer_times import cache_file
from subcell_hf.inference.models.loading import find_models
from subcell_hf.inference.models.openvino_encoder import INT8_FILE, OPTIMIZATION_FILE
from subcell_hf.inference.models.precision import choose_int8
from subcell_hf.storage.records import read_record, write_record
from subcell_hf.tables.files import read_table
from subcell_hf.workflows import OptimizedModel, OptimizeSettings, open_endpoint, optimize_model
from subcell_hf.workflows.hub.publishing import export_repository, push_folder
from subcell_hf.workflows.hub.serving import serve_demo
from tests.hub.conftest import hub as hub
from tests.hub.loopback_hub import LoopbackHub
from tests.hub.tiny_models import write_facts
from tests.images.written_fields import label_mask, write_png
from tests.inference.embedding_runs import run, save_tiny_model

pytestmark = pytest.mark.skipif(find_spec("nncf") is None, reason="needs the extra cpu")

SETTINGS = OptimizeSettings(calibration_cells=8, judged_cells=20, limits=AgreementLimits(centred_cosine=0.9))


def write_blotchy_fields(folder: Path, count: int, seed: int) -> Path:
    """Fields of two cells that differ in the grain of their channels, with locations."""
    folder.mkdir()
    rng, rows = np.random.default_rng(seed), ["field_of_view,locations"]
    for number in range(count):
        name = f"7_A{number}_1"
        for colour in ("red", "yellow", "blue", "green"):
            grain = int(rng.integers(1, 12))
            plane = np.kron(rng.integers(0, 256, (64 // grain + 1, 72 // grain + 1)), np.ones((grain, grain)))
            write_png(folder / f"{name}_{colour}.png", plane[:64, :72].astype(np.uint8))
        write_png(folder / f"{name}_mask.png", label_mask())
        rows.append(f"{name},{('Cytosol', 'Nucleoli;Cytosol')[number % 2]}")
    (folder / "metadata.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blotchy_fields(tmp_path_factory.mktemp("optimize") / "fields", 24, seed=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as `subcell export` writes it, with a card."""
    folder = tmp_path_factory.mktemp("optimize")
    write_facts(folder)
    plain, sources = save_tiny_model(folder / "plain"), ExportSources(facts=folder / "facts.yaml")
    return export_repository(plain, folder / "model", repository="me/fast", sources=sources).folder


@pytest.fixture(scope="module")
def optimized(fields: Path, model: Path) -> OptimizedModel:
    return optimize_model(model, fields, model.with_name("optimized"), settings=SETTINGS)


def test_the_record_holds_the_figures_and_what_they_are_of(optimized: OptimizedModel, model: Path) -> None:
    record: dict[str, Any] = json.loads((optimized.folder / OPTIMIZATION_FILE).read_text())
    figures = record["agreement"]
    assert figures["cells"] == record["judged"]["cells"] == 20
    assert record["calibration"]["cells"] == 8
    assert 0.99 < figures["cosine"] < 1
    assert figures["smallest_centred_cosine"] <= figures["centred_cosine"] < 1
    assert 0 < figures["largest_probability_change"] < 0.5
    assert set(figures["average_precision"]) == {"Nucleoli"}  # every cell has Cytosol
    assert record["settings"]["limits"] == {"cosine": 0.999, "centred_cosine": 0.9, "same_top_location": 0.99}
    assert record["model"]["name"] == str(model)
    assert record["versions"]["nncf"]
    assert optimized.agreement.describe().endswith("on 20 cells")


def test_it_embeds_in_float_and_in_int8(optimized: OptimizedModel, fields: Path, model: Path, tmp_path: Path) -> None:
    run(fields, model, tmp_path / "float")
    run(fields, optimized.folder, tmp_path / "same")  # in fp32
    run(fields, optimized.folder, tmp_path / "int8", precision="auto", engine_backend="openvino")
    plain, same, fast = (read_table(tmp_path / name) for name in ("float", "same", "int8"))
    np.testing.assert_array_equal(same.embeddings, plain.embeddings)
    assert not np.allclose(fast.embeddings, plain.embeddings, atol=1e-5)
    lengths = np.linalg.norm(fast.embeddings, axis=1) * np.linalg.norm(plain.embeddings, axis=1)
    assert ((fast.embeddings * plain.embeddings).sum(1) / lengths).min() > 0.99
    assert fast.provenance["precision"] == "int8"
    assert json.loads((tmp_path / "int8" / "run.json").read_text())["device"] == "openvino:CPU"
    with pytest.raises(InputError, match="precision: 'int8' in that run, 'fp32' now"):
        run(fields, optimized.folder, tmp_path / "int8", engine_backend="openvino", precision="fp32")


def test_pipeline_and_endpoint_run_it(optimized: OptimizedModel) -> None:
    folder, image = optimized.folder, np.random.default_rng(0).integers(0, 256, (4, 32, 32), np.uint8)
    plain = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixel_values = AutoImageProcessor.from_pretrained(folder)(image)["pixel_values"]
    with torch.inference_mode():
        float_logits = plain(pixel_values).logits
        fast = run_on_openvino(plain, folder)
        int8_logits = fast(pixel_values).logits
        larger = fast(torch.rand(3, 4, 64, 48))
    assert not torch.equal(int8_logits, float_logits)
    torch.testing.assert_close(int8_logits, float_logits, atol=0.3, rtol=0.1)
    assert larger.pooler_attentions.shape == (3, 2, 8, 6)
    processor = AutoImageProcessor.from_pretrained(folder)
    best = pipeline("subcell-localization", model=fast, image_processor=processor)(image, top_k=1)[0]
    assert best["score"] == pytest.approx(float(int8_logits.sigmoid().max()), abs=1e-5)
    with open_endpoint(folder, port=0, engine_backend="openvino") as server:
        assert type(server.handler.model.subcell).__name__ == "OpenVINOEncoder"


def pretend(entries: dict[str, float]) -> None:
    """Change what was measured of the ways that an entry of the cache has."""
    record = read_record(cache_file())
    assert record is not None
    for entry in record["entries"].values():
        entry["seconds"] = {name: entries.get(name, seconds) for name, seconds in entry["seconds"].items()}
    write_record(cache_file(), record)


def test_it_is_taken_by_itself_where_it_is_faster(
    optimized: OptimizedModel, fields: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))
    caplog.set_level("INFO", "subcell_hf")
    folder = tmp_path / "model"
    shutil.copytree(optimized.folder, folder)
    record = read_record(folder / OPTIMIZATION_FILE)
    assert record is not None
    assert record["below_default_limits"] == []
    write_record(folder / OPTIMIZATION_FILE, {**record, "below_default_limits": ["cosine 0.9 is below 0.999"]})
    (found,) = find_models(str(folder))
    assert choose_int8(found, torch.device("cpu")) is None
    assert "was written with lower limits (cosine 0.9 is below 0.999)" in caplog.text

    write_record(folder / OPTIMIZATION_FILE, {**record, "below_default_limits": []})
    choose_int8(found, torch.device("cpu"))
    pretend({"int8": 1e-9})
    run(fields, folder, tmp_path / "fast", precision="auto")
    assert read_table(tmp_path / "fast").provenance["precision"] == "int8"
    assert "Precision int8 on OpenVINO: as `subcell optimize` wrote it" in caplog.text
    with open_endpoint(folder, port=0) as server:
        assert type(server.handler.model.subcell).__name__ == "OpenVINOEncoder"
    with open_endpoint(folder, port=0, engine_backend="torch") as server:
        assert type(server.handler.model.subcell).__name__ == "SubCellModel"
    pretend({"int8": 1e9})
    assert choose_int8(found, torch.device("cpu")) is None


def test_it_travels_through_the_hub(
    optimized: OptimizedModel, fields: Path, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    # The client has made this of the endpoint when it was imported.
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    push_folder(optimized.folder, "me/fast")
    assert {INT8_FILE, OPTIMIZATION_FILE} <= hub.repositories["model", "me/fast"].files.keys()
    run(fields, "me/fast", tmp_path / "hub", precision="auto", engine_backend="openvino")
    run(fields, optimized.folder, tmp_path / "here", precision="auto", engine_backend="openvino")
    found, expected = read_table(tmp_path / "hub"), read_table(tmp_path / "here")
    assert found.provenance["precision"] == "int8"
    np.testing.assert_array_equal(found.embeddings, expected.embeddings)


def test_an_export_says_that_it_leaves_int8_out(
    optimized: OptimizedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_repository(optimized.folder, tmp_path / "export", sources=ExportSources(facts=write_facts(tmp_path)))
    assert not (tmp_path / "export" / INT8_FILE).exists()
    assert "holds the float model only" in caplog.text


def test_the_demo_answers_in_int8(optimized: OptimizedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from subcell_hf.hub.demo import demo_app

    answers: dict[str, CellReading] = {}
    planes = np.random.default_rng(0).integers(0, 256, (4, 32, 32), np.uint8)

    def answer(demo: Any, **_: Any) -> None:  # in place of a page that is served until it is stopped
        channels = demo.model.channels
        picture = Picture(dict(zip(channels, planes, strict=True)), None, demo.model.processor.pixel_size_um)
        answers[type(demo.model.model.subcell).__name__] = demo.model.read(picture, None, hide_neighbours=False)

    monkeypatch.setattr(demo_app, "launch", answer)
    for backend in ("openvino", "torch"):
        serve_demo(optimized.folder, engine_backend=backend)
    fast, exact = answers["OpenVINOEncoder"], answers["SubCellModel"]
    assert not np.array_equal(fast.embedding, exact.embedding)
    assert fast.embedding @ exact.embedding > 0.99 * np.linalg.norm(fast.embedding) * np.linalg.norm(exact.embedding)
    assert fast.attention is not None
    assert exact.attention is not None
    assert fast.attention.shape == exact.attention.shape
    assert dict(fast.locations) == pytest.approx(dict(exact.locations), abs=0.1)


def test_below_the_limits_nothing_is_written(fields: Path, model: Path, tmp_path: Path) -> None:
    options = ["--calibration-cells", "8", "--judged-cells", "20", "--min-cosine", "0.9999999"]
    command = ["optimize", str(model), "--calibrate", str(fields), "--output", str(tmp_path / "out"), *options]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 2
    for text in ("is below 1", "centred cosine 0.", "same top location in"):
        assert text in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_cell_serves_both_purposes(fields: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 usable cells to judge on"):
        optimize_model(model, fields, tmp_path / "out", judge=fields, settings=OptimizeSettings(100, 20))
    few = write_blotchy_fields(tmp_path / "few", 3, seed=1)
    with pytest.raises(InputError, match=r"few has 4 usable cells to calibrate on, expected at least 8.*--judge"):
        optimize_model(model, few, tmp_path / "out")
    with pytest.raises(InputError, match="judged_cells is 3, expected at least 20"):
        OptimizeSettings(judged_cells=3)


@pytest.mark.parametrize("damaged", [INT8_FILE, OPTIMIZATION_FILE, "model.safetensors"])
def test_what_was_changed_after_it_was_judged_is_refused(
    damaged: str, optimized: OptimizedModel, fields: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(optimized.folder, folder)
    content = bytearray((folder / damaged).read_bytes())
    content[-9] ^= 1
    (folder / damaged).write_bytes(content)
    with pytest.raises(InputError, match=r"is not as it was judged|missing or damaged"):
        run(fields, folder, tmp_path / "run", precision="int8", engine_backend="openvino")
