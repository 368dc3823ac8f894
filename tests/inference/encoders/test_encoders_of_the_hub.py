"""Vision models of the Hub: their licence is logged before their weights are downloaded."""

import json
import os
import re
from pathlib import Path

import torch
import transformers

from tests.forked import run_program
from tests.hub.loopback_hub import serve

# In a process of its own, because the client reads HF_ENDPOINT when it is imported.
SCRIPT = """
import logging, os, sys
from huggingface_hub import HfApi
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO", stream=sys.stdout)
logging.getLogger("httpx").setLevel("WARNING")
api = HfApi()
LICENCES = {
    "free": "license: apache-2.0",
    "restricted": "license: cc-by-nc-4.0",
    "gated": "license: other\\nlicense_name: dinov3-license\\nextra_gated_prompt: Accept.",
    "unstated": "tags: []",
}
for name, licence in LICENCES.items():
    api.create_repo(f"lab/{name}")
    api.upload_folder(repo_id=f"lab/{name}", folder_path=sys.argv[1])
    card = f"---\\n{licence}\\n---\\n".encode()
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=f"lab/{name}")
from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.finding import find_encoders
for name in LICENCES:
    (found,) = find_encoders(f"lab/{name}")
    print("found", found.name, found.description["licence"], found.description["source"].split("@")[0])
os.environ["HF_TOKEN"] = "hf_read"
os.environ["HF_HUB_CACHE"] = sys.argv[2]
from huggingface_hub import constants
constants.HF_HUB_CACHE = sys.argv[2]
try:
    find_encoders("refused=lab/gated")
except InputError as error:
    print("refused", error)
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
        words = ("-c", SCRIPT, tmp_path / "model", tmp_path / "cache")
        written = run_program(*words, log=tmp_path / "log", env=environment)
    finally:
        server.shutdown()
    said = [line for line in written.splitlines() if re.match(r"(INFO The|WARNING) .*lab/|found |refused ", line)]
    assert [line.split(": read it")[0] for line in said] == [
        "INFO The licence of lab/free is apache-2.0.",
        "found free apache-2.0 lab/free",
        "WARNING The licence of lab/restricted is cc-by-nc-4.0",
        "found restricted cc-by-nc-4.0 lab/restricted",
        "WARNING lab/gated is gated: its conditions have to be accepted on https://huggingface.co/lab/gated.",
        "WARNING The licence of lab/gated is dinov3-license",
        "found gated dinov3-license lab/gated",
        "WARNING The licence of lab/unstated is not stated",
        "found unstated  lab/unstated",
        "refused The model lab/gated is gated. Accept its conditions on its page on the Hub, then run `hf auth login` "
        "with a token of the same account.",
    ]  # fmt: skip
