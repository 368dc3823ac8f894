"""What is pushed loads elsewhere: the real client against a server on this machine that speaks the Hub's API."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModel

# Runs in a process of its own because the client reads HF_ENDPOINT when it is imported.
PUSH = """
import sys
from subcell_hf import SubCellForImageClassification, SubCellImageProcessor
SubCellForImageClassification.from_pretrained(sys.argv[1]).push_to_hub("subcell/tiny")
SubCellImageProcessor(size=32).push_to_hub("subcell/tiny")
"""
LOAD = """
import sys
sys.modules["subcell_hf"] = None  # importing it is an error, as if it were not installed
import json, torch
from transformers import AutoImageProcessor, AutoModel, pipeline
model = AutoModel.from_pretrained("subcell/tiny", trust_remote_code=True)
size = AutoImageProcessor.from_pretrained("subcell/tiny", trust_remote_code=True).size["height"]
images = torch.arange(4 * 32 * 32).reshape(1, 4, 32, 32) / 4096
with torch.no_grad():
    embedding = model(images).pooler_output[0].tolist()
locate = pipeline(model="subcell/tiny", trust_remote_code=True)
print("RESULT", json.dumps([size, embedding, locate(images[0].numpy(), top_k=1)]))
"""


@pytest.mark.slow
def test_push_and_load_without_the_package(shared: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("loopback_hub", shared / "reference" / "loopback_hub.py")
    assert spec is not None
    assert spec.loader is not None
    loopback_hub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loopback_hub)
    server, hub = loopback_hub.serve()
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = SubCellModel(
        SubCellConfig(image_size=32, pooling_hidden_size=16, classifier_hidden_sizes=[8], **small)
    ).eval()
    model.save_pretrained(tmp_path / "model")
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_local", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    results = []
    for code in (PUSH, LOAD):
        command = [sys.executable, "-c", code, str(tmp_path / "model")]
        run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr[-3000:]
        results.append(run.stdout)
    server.shutdown()
    (repository,) = hub.repos.values()
    files = set(repository["commits"][repository["refs"]["main"]])
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "modeling_subcell.py"} <= files
    assert {"pipeline_subcell.py", "modeling_subcell_pretraining.py"} <= files
    size, embedding, locations = json.loads(results[1].split("RESULT")[1])
    images = torch.arange(4 * 32 * 32).reshape(1, 4, 32, 32) / 4096
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(embedding), model(images).pooler_output[0], atol=1e-6, rtol=0)
    assert size == 32
    assert len(locations) == 1
    assert 0 <= locations[0]["score"] <= 1
