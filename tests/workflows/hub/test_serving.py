"""A model that is served from Python answers requests; what is no model is refused before a port is opened."""

import io
import json
import threading
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.workflows.hub.serving import open_endpoint, serve_demo
from tests.hub.tiny_models import save_tiny


def test_an_endpoint_answers_until_it_is_shut_down(tmp_path: Path) -> None:
    model = save_tiny("SubCellForImageClassification", tmp_path / "tiny")
    with open_endpoint(model, port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with urlopen(f"http://127.0.0.1:{server.server_port}/health") as answer:
            assert answer.status == 200
            json.load(answer)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["SubCellForImageClassification", "SubCellModel"])
def test_an_endpoint_computes_in_the_precision_asked_for(kind: str, tmp_path: Path) -> None:
    model = save_tiny(kind, tmp_path / "tiny")
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).integers(0, 255, (4, 64, 64), np.uint8))
    request = {"inputs": file.getvalue(), "parameters": {"task": "feature-extraction"}}
    answers = {}
    for precision in ("fp32", "bf16", "auto"):
        with open_endpoint(model, port=0, precision=precision) as server:
            answers[precision] = np.array(server.handler(request))
    exact = answers["fp32"]
    assert 0 < np.abs(answers["bf16"] - exact).max() < 0.05 * np.abs(exact).max()
    assert any(np.array_equal(answers["auto"], answers[name]) for name in ("fp32", "bf16"))
    with pytest.raises(InputError, match="Unknown precision 'half'"):
        open_endpoint(model, port=0, precision="half")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder, nor an id"):
        open_endpoint(tmp_path / "nothing")
    pytest.importorskip("gradio")
    with pytest.raises(InputError, match="neither a folder, nor an id"):
        serve_demo(tmp_path / "nothing")
