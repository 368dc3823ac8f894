"""The published models by name: fetched by the command, embedded with, served, and published with a collection."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from huggingface_hub import constants
from transformers import AutoModel
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.hub.demo.space import local_settings
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.weights.fetching import MIRROR_VARIABLE
from subcell_hf.workflows import embed, export_repository, fetch_models, publish_models
from subcell_hf.workflows.hub.serving import open_endpoint
from tests.hub.loopback_hub import Fault, LoopbackHub
from tests.weights.published_layout import draw_published_files, write_files

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All published files at small size."""
    return write_files(draw_published_files(), tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def cache(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Hugging Face in which one model is."""
    home = tmp_path_factory.mktemp("home")
    fetch_models(["vit-bg"], source=files, cache=home / "subcell", progress=False)
    return home


@pytest.fixture
def command(files: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(constants, "HF_HOME", str(cache))
    monkeypatch.setenv(MIRROR_VARIABLE, str(files))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_fetching_says_what_comes_and_how_to_load_it(command: Command, files: Path, tmp_path: Path) -> None:
    shown = command("fetch", "mae-bg", "--from", files, "--cache", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "Fetching the weights of SubCell mae-bg (11 files, 0.4 MB) from" in shown.output
    assert "licence is MIT" in shown.output
    lines = shown.output.rstrip().splitlines()[-3:]
    names: dict[str, object] = {}
    exec("\n".join(lines).replace("AutoModelForImageClassification", "AutoModel"), names)
    assert isinstance(names["model"], SubCellModel)
    again = command("fetch", "mae-bg", "--mirror", "http://127.0.0.1:9", "--cache", tmp_path)
    assert again.exit_code == 0
    assert "Fetching" not in again.output
    with pytest.raises(InputError, match="expected a user or organization, without /"):
        publish_models("lab/subcell")
    for words, said in ((["fetch"], "Name at least one"), (["fetch", "vit-rgb"], "Did you mean vit-rbg?")):
        refused = command(*words)
        assert refused.exit_code == 2
        assert said in refused.output


@pytest.mark.usefixtures("command")
def test_a_name_works_wherever_a_model_is_taken(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit-bg").mkdir()  # no model
    crops = torch.randint(0, 255, (3, 2, 64, 64), dtype=torch.uint8)
    table = embed(crops, "vit-bg", output="run")
    (recorded,) = json.loads((tmp_path / "run" / "run.json").read_text())["models"]
    assert recorded["name"] == "vit-bg"
    assert recorded["folder"] == str(cache / "subcell" / "models" / "vit-bg")
    assert len(recorded["weights_sha256"]) == 64
    assert table.embeddings.shape[0] == 3
    with open_endpoint("vit-bg", port=0) as server:
        assert server.server_port
    staged = export_repository("vit-bg", "exported", repository="lab/subcell-vit-bg", space="space").folder
    card = (staged / "README.md").read_text()
    assert "ViT-ProtS-Pool with localization classifiers" in card
    assert "base_model" not in card
    assert json.loads((tmp_path / "space" / "demo.json").read_text())["model"] == "lab/subcell-vit-bg"
    export_repository("vit-bg", "encoder", encoder_only=True)
    assert "with localization classifiers" not in (tmp_path / "encoder" / "README.md").read_text()
    assert local_settings(Path(recorded["folder"]), tmp_path / "examples").title == "SubCell: vit-bg"
    with pytest.raises(InputError, match="The model is not the published mae-bg"):
        export_repository("vit-bg", "no", sources=ExportSources(variant="mae-bg-localization"))


def test_publishing_resumes_and_ends_with_a_collection(
    command: Command, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    two = ["publish", "lab", "--variants", "vit-bg", "--variants", "mae-bg", "--output", tmp_path]
    assert "No token found to publish as lab" in command(*two).output
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    dry = command(*two, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "model lab/subcell-mae-bg, revision main, a new repository" in dry.output
    assert "Dry run: 2 repositories and a collection; nothing changed." in dry.output
    assert not hub.repositories
    hub.faults = [Fault("POST .*subcell-mae-bg/commit/", 500)]
    broken = command(*two)
    assert broken.exit_code == 2
    assert "Run the same command again to resume" in broken.output
    assert not hub.collections
    hub.faults, sent = [], len(hub.uploads())
    done = command(*two)
    assert done.exit_code == 0, done.output
    assert not [line for line in hub.uploads()[sent:] if "vit-bg" in line]
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == ["lab/subcell-vit-bg", "lab/subcell-mae-bg"]
    sent = len(hub.uploads())
    assert (
        publish_models("lab", ["mae-bg"], output=tmp_path).collection == f"{hub.url}/collections/{collection['slug']}"
    )
    assert len(hub.uploads()) == sent
    assert len(collection["items"]) == 2
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    model = AutoModel.from_pretrained("lab/subcell-mae-bg", trust_remote_code=True)
    assert model.config.position_embedding_type == "sincos"
