"""A saved folder works where the package is not installed: `trust_remote_code=True`, in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from subcell_hf.model.configuration_subcell import AUTO_MAP, SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from tests.forked import result_of, run_program

TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "pooling_hidden_size": 16, "classifier_hidden_sizes": [8], "classifier_ensemble_size": 2,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24, "projection_hidden_sizes": [8], "projection_size": 8,
}  # fmt: skip

# Runs where importing the package is an error, as if it were not installed.
STRANGER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "subcell_hf":
            raise ModuleNotFoundError("subcell_hf is not installed here")

sys.meta_path.insert(0, Blocked())
import numpy as np, torch, transformers

folder, auto, crop, resaved = sys.argv[1:]
processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(np.load(crop))
model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
if auto == "AutoModelForPreTraining":
    inputs = {**inputs, "pixel_values": inputs["pixel_values"][:, None]}
with torch.no_grad():
    embedding = model(**inputs).pooler_output.reshape(1, -1)
if resaved != "-":
    model.save_pretrained(resaved)
    processor.save_pretrained(resaved)
assert "subcell_hf" not in sys.modules
print("EMBEDDING", embedding[0].tolist())
"""


def _ask_stranger(folder: Path, auto: str, crop: Path, cache: Path, resaved: str = "-") -> torch.Tensor:
    environment = os.environ | {"HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = ("-c", STRANGER, folder, auto, crop, resaved)
    output = run_program(*words, log=cache.with_name(f"{cache.name}_{auto}.log"), cwd=cache.parent, env=environment)
    return torch.tensor(result_of(output, "EMBEDDING"))


@pytest.fixture(scope="module")
def crop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crop") / "crop.npy"
    np.save(path, np.random.default_rng(0).integers(0, 65535, (4, 32, 32), dtype=np.uint16))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "autos", "channel_tokens"),
    [
        (SubCellModel, ["AutoModel"], "separate"),
        (SubCellForImageClassification, ["AutoModelForImageClassification", "AutoModel"], "joint"),
        (SubCellForPreTraining, ["AutoModelForPreTraining", "AutoModel"], "joint"),
    ],
)
def test_every_auto_class_without_the_package(
    kind: type, autos: list[str], channel_tokens: str, crop: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = kind(SubCellConfig(**TINY, channel_tokens=channel_tokens)).eval()
    processor = SubCellImageProcessor(size=32, channel_tokens=channel_tokens)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["auto_map"] == AUTO_MAP
    encoder = getattr(model, "subcell", model)
    with torch.no_grad():
        expected = encoder(**processor(np.load(crop))).pooler_output[0]
    for auto in autos:
        embedding = _ask_stranger(tmp_path / "saved", auto, crop, tmp_path / "modules", str(tmp_path / auto))
        torch.testing.assert_close(embedding, expected, atol=1e-6, rtol=0)
    # What a stranger saves, another stranger loads.
    again = _ask_stranger(tmp_path / autos[0], autos[0], crop, tmp_path / "other_modules")
    torch.testing.assert_close(again, expected, atol=1e-6, rtol=0)


REGISTRATION = """
import sys, {first}, {second}
from transformers import AutoConfig, AutoModel
print(type(AutoModel.from_pretrained(sys.argv[1])).__module__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", [("subcell_hf", "transformers"), ("transformers", "subcell_hf")])
def test_importing_the_package_is_enough_in_either_order(order: tuple[str, str], tmp_path: Path) -> None:
    SubCellModel(SubCellConfig(**TINY)).save_pretrained(tmp_path)
    code = REGISTRATION.format(first=order[0], second=order[1])
    output = run_program("-c", code, tmp_path, log=tmp_path / "log", env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert output.split()[-1] == "subcell_hf.model.modeling_subcell"


def test_the_package_itself_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, subcell_hf.cli; print([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
