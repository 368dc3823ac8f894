"""The encoder on OpenVINO gives what torch gives, and says what it cannot do."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import subcell_hf
from subcell_hf.errors import InputError
from subcell_hf.inference.models.openvino_encoder import (
    choose_openvino,
    choose_openvino_precision,
    import_openvino,
    run_on_openvino,
)
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from tests.hub.tiny_models import save_tiny
from tests.inference.embedding_runs import random_crops, save_tiny_model

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra cpu")


@pytest.mark.parametrize(
    "changes", [{}, {"pooling_type": "mean"}, {"pooling_type": "cls"}, {"patch_embedding_type": "convolutional"}]
)
def test_any_number_and_size_of_images_gives_what_torch_gives(changes: dict[str, object], tmp_path: Path) -> None:
    folder = save_tiny("SubCellModel", tmp_path / "model", **changes)
    model = SubCellModel.from_pretrained(folder).eval()
    fast = run_on_openvino(model, folder)
    for cells, height, width in ((1, 64, 64), (3, 96, 32), (2, 32, 128)):
        images = torch.rand(cells, 4, height, width)
        with torch.no_grad():
            expected, found = model(images), fast(images)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-4)
        assert (found.pooler_attentions is None) == (expected.pooler_attentions is None)
        if expected.pooler_attentions is not None:
            torch.testing.assert_close(found.pooler_attentions, expected.pooler_attentions, atol=1e-5, rtol=1e-4)


def test_a_classifier_keeps_its_outputs(tmp_path: Path) -> None:
    folder = save_tiny("SubCellForImageClassification", tmp_path / "model")
    images = torch.rand(2, 4, 64, 64)
    model = SubCellForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(images)
        model = run_on_openvino(model, folder)
        found = model(images)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="multiples of the patch size 16"):
        model(torch.rand(2, 4, 60, 64))
    with pytest.raises(ValueError, match="at least 32 px, two patches"):
        model(torch.rand(2, 4, 16, 64))
    for option in ({"output_attentions": True}, {"output_hidden_states": True}, {"interpolate_pos_encoding": False}):
        with pytest.raises(ValueError, match="runs on OpenVINO, which computes"):
            model(images, **option)


def test_separate_channel_tokens_are_refused(tmp_path: Path) -> None:
    folder = save_tiny("SubCellModel", tmp_path / "model", channel_tokens="separate")
    with pytest.raises(InputError, match="separate channel tokens does not run on OpenVINO"):
        run_on_openvino(SubCellModel.from_pretrained(folder), folder, "fp32")


def test_embeddings_are_those_of_torch(tmp_path: Path) -> None:
    model, crops = save_tiny_model(tmp_path / "model"), random_crops(5)
    options = {"precision": "fp32", "progress": False, "orientations": 4}
    plain = subcell_hf.embed(crops, model=model, **options)
    fast = subcell_hf.embed(crops, model=model, engine_backend="openvino", output=tmp_path / "run", **options)
    np.testing.assert_allclose(fast.embeddings, plain.embeddings, atol=1e-4)
    np.testing.assert_allclose(fast.probabilities, plain.probabilities, atol=1e-5)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    assert choose_openvino("torch", "cuda:1") is None
    assert choose_openvino("torch", "openvino:CPU") == choose_openvino("openvino", "auto") == "CPU"
    with pytest.raises(InputError, match="Unknown engine backend 'onnx'"):
        choose_openvino("onnx", "cpu")
    with pytest.raises(InputError, match="The device 'cuda' is torch's"):
        choose_openvino("openvino", "cuda")
    with pytest.raises(InputError, match=r"cannot use the device 'NPU7' on this machine; it has .*CPU"):
        choose_openvino("torch", "openvino:NPU7")
    assert choose_openvino_precision("auto", {"plain": tmp_path}) == "fp32"
    with pytest.raises(InputError, match="plain has no int8 model"):
        choose_openvino_precision("int8", {"plain": tmp_path})
    with pytest.raises(InputError, match="Unknown precision 'fp8'"):
        choose_openvino_precision("fp8", {"plain": tmp_path})
    for backend, message in (("torch", "int8 needs OpenVINO"), ("auto", "has no int8 model")):
        options = {"precision": "int8", "engine_backend": backend}
        with pytest.raises(InputError, match=message):
            subcell_hf.embed(random_crops(1), model=save_tiny_model(tmp_path / "model"), **options)


def test_nothing_is_reported_to_others() -> None:
    """Neither OpenVINO's converter nor NNCF finds the library by which they report their use."""
    import_openvino()
    with pytest.raises(ImportError):
        import_module("openvino_telemetry")
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


SIGNALS = """
import faulthandler, gc, signal, subprocess, threading
from subcell_hf.inference.models.openvino_encoder import openvino_core
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
openvino_core().get_property("CPU", "FULL_DEVICE_NAME")
thread = threading.Thread(target=gc.collect)
thread.start()
thread.join()
print(subprocess.run(["true"]).returncode, openvino_core() is openvino_core())
"""


def test_signals_are_handled_after_openvino_was_used() -> None:
    """Its CPU plugin leaves the stack of signal handlers freed where its last core is destroyed."""
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "True"]), done.stderr
