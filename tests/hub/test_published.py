"""What was pushed loads elsewhere, without this package, and gives the same numbers; and what happens if it cannot."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from tests.hub.loopback_hub import LoopbackHub, serve
from tests.hub.tiny_models import save_tiny, write_facts

pytestmark = pytest.mark.slow

REPOSITORIES = {
    "SubCellModel": "subcell/tiny-encoder",
    "SubCellForImageClassification": "subcell/tiny",
    "SubCellForPreTraining": "subcell/tiny-pretraining",
}
# Put before everything else on the path of a process: importing the package is an error, as if it were not installed.
BLOCKER = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "subcell_hf":
            raise ModuleNotFoundError("subcell_hf is not installed here")

sys.meta_path.insert(0, Blocked())
"""
STRANGER = """
import base64, json, sys
from pathlib import Path
import numpy as np, torch, transformers
from PIL import Image
from huggingface_hub import hf_hub_download, snapshot_download

crop = {c: np.asarray(Image.open(hf_hub_download("subcell/tiny", f"example/{c}.png")))
        for c in ("red", "yellow", "blue", "green")}
found = {}
for name in ("subcell/tiny-encoder", "subcell/tiny", "subcell/tiny-pretraining"):
    processor = transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=True)
    inputs = processor(crop)
    for auto in ("AutoModel", "AutoModelForImageClassification", "AutoModelForPreTraining"):
        if auto != "AutoModel" and ("tiny-encoder" in name or ("Pre" in auto) != ("pre" in name)):
            continue
        model = getattr(transformers, auto).from_pretrained(name, trust_remote_code=True).eval()
        given = {"pixel_values": inputs["pixel_values"][:, None]} if "Pre" in auto else inputs
        with torch.no_grad():
            outputs = model(**given)
        found[f"{auto} {name}"] = outputs.pooler_output.flatten().tolist()
        if "Image" in auto:
            found["logits"] = outputs.logits[0].tolist()
locate = transformers.pipeline(model="subcell/tiny", trust_remote_code=True)
found["pipeline"] = {entry["label"]: entry["score"] for entry in locate(crop, top_k=None)}
folder = snapshot_download("subcell/tiny")
sys.path.insert(0, folder)  # as an inference endpoint does
from handler import EndpointHandler

files = {c: base64.b64encode(Path(folder, "example", f"{c}.png").read_bytes()).decode() for c in crop}
found["endpoint"] = EndpointHandler(folder)({"inputs": files})["embedding"]
assert "subcell_hf" not in sys.modules
print("RESULT", json.dumps(found))
"""
LAST_CELL = """
import json, sys
assert "subcell_hf" not in sys.modules
print(json.dumps([embedding.tolist(), scores.tolist()]))
"""
# Several calls of the command line in one process, since starting one takes seconds.
COMMANDS = """
import json, sys
from subcell_hf.cli import app
from typer.testing import CliRunner

for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    print(result.output)
"""


@dataclass(frozen=True)
class Published:
    """Exported folders, the Hub that they were pushed to, and the environment of a stranger."""

    folder: Path
    hub: LoopbackHub
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], env=self.environment | changes, cwd=cwd or self.folder / "elsewhere",
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def run_commands(self, *commands: list[str]) -> str:
        run = self.run("-c", COMMANDS, json.dumps(commands), PYTHONPATH=str(Path(__file__).parents[2]))
        assert run.returncode == 0, run.stderr
        return run.stdout

    def exported(self, kind: str) -> Path:
        return self.folder / "exported" / kind


def result_of(run: subprocess.CompletedProcess[str]) -> dict[str, list[float]]:
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, list[float]] = json.loads(run.stdout.split("RESULT")[1])
    return found


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    for name in ("elsewhere", "blocked"):
        (folder / name).mkdir()
    (folder / "blocked" / "sitecustomize.py").write_text(BLOCKER)
    server, hub = serve()
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1",
        "IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": str(folder / "blocked"), "JUPYTER_PLATFORM_DIRS": "1",
    }  # fmt: skip
    found = Published(folder, hub, environment)
    sources = ExportSources(facts=write_facts(folder))
    for kind, repository in REPOSITORIES.items():
        export_model(save_tiny(kind, folder / kind), found.exported(kind), repository=repository, sources=sources)
    pushes = [["push", str(found.exported(kind)), repository] for kind, repository in REPOSITORIES.items()]
    assert found.run_commands(*pushes).count("To upload: ") == len(pushes)
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def expected(published: Published) -> dict[str, torch.Tensor]:
    """The numbers before the push."""
    planes = {
        c: published.exported("SubCellModel") / "example" / f"{c}.png" for c in ("red", "yellow", "blue", "green")
    }
    processor = SubCellImageProcessor.from_pretrained(published.exported("SubCellModel"))
    inputs = processor({channel: np.asarray(Image.open(path)) for channel, path in planes.items()})
    numbers = {}
    with torch.no_grad():
        for kind, repository in REPOSITORIES.items():
            model = AutoModel.from_pretrained(published.folder / kind).eval()
            numbers[f"AutoModel {repository}"] = model(**inputs).pooler_output[0]
        folder = published.folder / "SubCellForImageClassification"
        outputs = AutoModelForImageClassification.from_pretrained(folder).eval()(**inputs)
        numbers |= {"AutoModelForImageClassification subcell/tiny": outputs.pooler_output[0]}
        numbers |= {"logits": outputs.logits[0], "endpoint": outputs.pooler_output[0]}
        model = AutoModelForPreTraining.from_pretrained(published.folder / "SubCellForPreTraining").eval()
        outputs = model(pixel_values=inputs["pixel_values"][:, None])
        numbers["AutoModelForPreTraining subcell/tiny-pretraining"] = outputs.pooler_output.flatten()
    return numbers


def assert_same(found: dict[str, list[float]], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == {*expected, "pipeline"}
    for name, numbers in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), numbers, atol=1e-6, rtol=0, msg=name)
    scores = torch.tensor(sorted(dict(found["pipeline"]).values()))
    torch.testing.assert_close(scores, expected["logits"].sigmoid().sort().values, atol=1e-6, rtol=0)


def test_every_auto_class_and_the_pipeline_elsewhere_and_then_offline(
    published: Published, expected: dict[str, torch.Tensor]
) -> None:
    assert_same(result_of(published.run("-c", STRANGER)), expected)
    requests = len(published.hub.log)
    assert_same(
        result_of(published.run("-c", STRANGER, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")), expected
    )
    assert len(published.hub.log) == requests


def test_the_notebook_in_a_copy_and_from_the_hub(published: Published, expected: dict[str, torch.Tensor]) -> None:
    notebook = published.exported("SubCellForImageClassification") / "notebook.ipynb"
    for place in (notebook.parent, published.folder / "elsewhere"):
        read = nbformat.read(notebook, as_version=4)
        read.cells.append(new_code_cell(LAST_CELL))
        client = NotebookClient(read, timeout=120, resources={"metadata": {"path": str(place)}})
        client.execute(env=published.environment)
        embedding, scores = json.loads(read.cells[-1].outputs[-1].text)
        name = "AutoModelForImageClassification subcell/tiny"
        torch.testing.assert_close(torch.tensor(embedding), expected[name], atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(scores), expected["logits"].sigmoid(), atol=1e-6, rtol=0)


ATTEMPT = """
import sys, transformers
kwargs = {"revision": sys.argv[2]} if len(sys.argv) > 2 else {}
try:
    transformers.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True, **kwargs)
except OSError as error:
    print("OSError", error)
"""


def test_what_a_stranger_is_told_when_it_cannot_load(published: Published, tmp_path: Path) -> None:
    missing = published.run("-c", ATTEMPT, "subcell/tiny", "no-such-revision")
    assert "no-such-revision is not a valid git identifier" in missing.stdout
    empty = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    offline = published.run("-c", ATTEMPT, "subcell/tiny", **empty)
    assert "couldn't find them in the cached files" in offline.stdout


def test_a_pinned_revision_stays_what_it_was(published: Published, expected: dict[str, torch.Tensor]) -> None:
    repository = published.hub.repositories["model", "subcell/tiny-encoder"]
    pinned = repository.branches["main"]
    files = dict(repository.files)
    repository.commits["f" * 40] = {**files, "config.json": files["README.md"]}  # a commit that breaks the model
    repository.branches["main"] = "f" * 40
    try:
        code = (
            "import json, sys, torch, transformers\n"
            "m = transformers.AutoModel.from_pretrained('subcell/tiny-encoder', revision=sys.argv[1],\n"
            "                                           trust_remote_code=True)\n"
            "print('RESULT', json.dumps(m.layernorm.weight.tolist()))"
        )
        weights = result_of(published.run("-c", code, pinned))
    finally:
        repository.branches["main"] = pinned
    model = AutoModel.from_pretrained(published.folder / "SubCellModel")
    assert torch.equal(torch.tensor(weights), model.layernorm.weight)


def test_a_second_push_and_a_dry_run_change_nothing(published: Published) -> None:
    folder, before = published.exported("SubCellModel"), len(published.hub.uploads())
    options = ("--dry_run", "--dry-run", "--private")
    output = published.run_commands(*(["push", str(folder), "subcell/tiny-encoder", option] for option in options))
    assert output.count("  model.safetensors") == 3
    assert output.count("To upload: 0 of ") == 3
    assert len(published.hub.uploads()) == before
