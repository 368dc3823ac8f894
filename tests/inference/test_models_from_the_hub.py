"""Models by Hub id: which commit was taken stands in the table, and an owner's models can be chosen from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subcell_hf.inference.models import find_models
from tests.hub.loopback_hub import serve
from tests.inference.embedding_runs import save_tiny_model

# In a process of its own, because the client reads HF_ENDPOINT when it is imported.
CODE = """
import json, sys
from huggingface_hub import HfApi
from subcell_hf.errors import InputError
from subcell_hf.inference.models import find_models
api = HfApi()
api.create_repo("lab/tiny")
commit = api.upload_folder(repo_id="lab/tiny", folder_path=sys.argv[1]).oid
found, = find_models("lab/tiny")
pinned, = find_models("lab/tiny", revision=commit)
try:
    find_models("lab/none")
except InputError as error:
    refused = str(error)
print(json.dumps([found.revision, pinned.revision, commit, found.checksum, list(found.classes), refused]))
"""


@pytest.mark.slow
def test_a_model_of_the_hub_is_pinned_to_its_commit(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    (local,) = find_models(str(folder))
    server, hub = serve()
    try:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
        }  # fmt: skip
        run = subprocess.run(
            [sys.executable, "-c", CODE, str(folder)],
            env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert run.returncode == 0, run.stderr
    revision, pinned, commit, checksum, classes, refused = json.loads(run.stdout.splitlines()[-1])
    assert revision == pinned == commit
    assert checksum == local.checksum
    assert tuple(classes) == local.classes
    assert "was not found on the Hub" in refused
