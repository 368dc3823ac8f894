"""A model with separate channel tokens behind an endpoint, and in its card."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint.endpoint_images import RequestError
from subcell_hf.hub.publishing.export import ExportSources, export_model
from tests.hub.tiny_models import save_tiny, write_facts

PLANES = np.random.default_rng(0).integers(0, 255, (4, 64, 64), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "any"
    return save_tiny("SubCellForImageClassification", folder, channel_tokens="separate")


def _file(pixels: np.ndarray) -> str:
    written = io.BytesIO()
    np.save(written, pixels)
    return base64.b64encode(written.getvalue()).decode()


def test_requests_name_any_channels(model: Path) -> None:
    handler = EndpointHandler(str(model))
    files = {name: _file(plane) for name, plane in zip(["other", "blue", "green"], PLANES, strict=False)}
    pair: dict[str, Any] = {name: files[name] for name in ("blue", "green")}
    found = handler({"inputs": [pair, files], "parameters": {"attention": True}})
    assert [list(answer["channel_attention"]) for answer in found] == [["blue", "green"], ["blue", "other", "green"]]
    maps = found[0]["channel_attention"].values()
    np.testing.assert_allclose(sum(map(np.array, maps)), found[0]["attention"], atol=1e-6)
    stack = handler({"inputs": {"image": _file(PLANES[[2, 1]]), "channels": ["green", "blue"]}})
    np.testing.assert_allclose(stack["embedding"], found[0]["embedding"], atol=1e-6)
    for wrong, message in (({"blue": files["blue"], "actin": files["other"]}, "not on actin"), ({}, "at least one")):
        with pytest.raises(RequestError, match=message):
            handler({"inputs": wrong})
    with pytest.raises(RequestError, match="not on actin"):
        handler({"inputs": {"image": _file(PLANES[:2]), "channels": ["actin", "blue"]}})


def test_the_card_says_so(model: Path, tmp_path: Path) -> None:
    facts = ExportSources(facts=write_facts(tmp_path / "facts"))
    card = (export_model(model, tmp_path / "export", sources=facts) / "README.md").read_text(encoding="utf-8")
    assert "takes any 1 to 8 channels" in card
    assert 'channel_mapping={"other": "actin"}' in card
    joint = save_tiny("SubCellModel", tmp_path / "joint")
    card = (export_model(joint, tmp_path / "export_joint", sources=facts) / "README.md").read_text(encoding="utf-8")
    assert "1 to 8" not in card
