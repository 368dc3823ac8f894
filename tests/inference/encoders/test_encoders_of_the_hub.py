"""Vision models of the Hub: their licence is logged before their weights are downloaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import transformers

from tests.hub.loopback_hub import serve

# In a process of its own, because the client reads HF_ENDPOINT when it is imported.
SCRIPT = """
import logging, sys
from huggingface_hub import HfApi
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO", stream=sys.stdout)
logging.getLogger("httpx").setLevel("WARNING")
api = HfApi()
for name, licence in (("free", "apache-2.0"), ("restricted", "cc-by-nc-4.0")):
    api.create_repo(f"lab/{name}")
    api.upload_folder(repo_id=f"lab/{name}", folder_path=sys.argv[1])
    card = f"---\\nlicense: {licence}\\n---\\n".encode()
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=f"lab/{name}")
from subcell_hf.inference.encoders.finding import find_encoders
for name in ("free", "restricted"):
    (found,) = find_encoders(f"lab/{name}")
    print(found.name, found.description["licence"], found.description["source"])
"""


def test_the_licence_is_known_before_the_download(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "model")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 28, "width": 28}}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    server, hub = serve()
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "model")],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        server.shutdown()
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "licence" in line or line.startswith(("free", "restricted"))]
    assert lines[0] == "INFO The licence of lab/free is apache-2.0."
    assert lines[2].startswith("WARNING The licence of lab/restricted is cc-by-nc-4.0: read it before")
    assert [line.split("@")[0] for line in (lines[1], lines[3])] == [
        "free apache-2.0 lab/free", "restricted cc-by-nc-4.0 lab/restricted",
    ]  # fmt: skip
