"""Models and shards of the Hub: which commit was taken stands in the table, an owner's models can be chosen from."""

import functools
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from subcell_hf.cells.cropping import crop_fields
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.cells.sources import crop_source
from subcell_hf.errors import StoreError, UnreachableError
from subcell_hf.inference.models.loading import find_models
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.storage.downloads import persistence
from subcell_hf.tables.files import read_table
from tests.forked import run_program
from tests.hub.loopback_hub import LoopbackHub, serve
from tests.inference.embedding_runs import run, save_tiny_model, write_fields
from tests.shards.test_reader import RangeHandler

# In processes of their own, because the client reads HF_ENDPOINT when it is imported.
PUBLISH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
for name in ("tiny-rybg", "tiny-bg", "other-bg"):
    api.create_repo(f"lab/{name}")
    api.upload_folder(repo_id=f"lab/{name}", folder_path=f"{sys.argv[1]}/{name}")
    card = b"---\\nlicense: mit\\ntags:\\n- subcell\\n---\\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=f"lab/{name}")
api.create_repo("lab/cells", repo_type="dataset")
api.upload_folder(repo_id="lab/cells", repo_type="dataset", folder_path=sys.argv[2])
"""
REFUSED = """
from subcell_hf.errors import InputError
from subcell_hf.inference.models.loading import find_models
for name, models in (("lab/none", None), ("auto", "lab"), ("auto", "nobody"), ("auto", "lab/large-*")):
    try:
        find_models(name, models=models)
    except InputError as error:
        print("REFUSED", str(error).splitlines()[0])
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "tiny-rybg")
    for seed, name in enumerate(("tiny-bg", "other-bg")):
        save_tiny_model(folder / name, ("blue", "green"), seed)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    fields = write_fields(folder / "fields", 2)
    (fields / "metadata.csv").write_text("field_of_view,antibody\n7_A0_1,HPA0\n7_A1_1,HPA1\n")
    settings = CropSettings(crop_px=round(32 * 0.32 / 0.0800885), output_px=32)
    crop_fields(fields, folder / "crops", settings=settings, progress=False)
    write_shards(crop_source(folder / "crops"), folder / "shards", ShardSettings(split_by="antibody"), progress=False)
    return folder / "shards"


@pytest.fixture(scope="module")
def hub(
    models: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LoopbackHub, dict[str, str]]]:
    server, hub = serve()
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    python(tmp_path_factory.mktemp("publish"), environment, "-c", PUBLISH, models, shards)
    yield hub, environment
    server.shutdown()
    server.server_close()


def python(folder: Path, environment: dict[str, str], *arguments: str | Path) -> str:
    return run_program(*arguments, log=folder / "log", cwd=Path(__file__).parents[2], env=environment)


def embed(folder: Path, environment: dict[str, str], *arguments: str | Path) -> str:
    words = ("-m", "subcell_hf.cli", "embed", *arguments, "--no-report", "--no-h5ad", "--precision", "fp32")
    return python(folder, environment, *words)


@pytest.mark.slow
def test_shards_and_a_model_of_the_hub(
    hub: tuple[LoopbackHub, dict[str, str]], models: Path, shards: Path, tmp_path: Path
) -> None:
    state, environment = hub
    run(shards, models / "tiny-rybg", tmp_path / "here")
    here = read_table(tmp_path / "here")
    (local,) = find_models(str(models / "tiny-rybg"))
    commit = state.repositories["model", "lab/tiny-rybg"].branches["main"]
    for name, url in (("hf", "hf://datasets/lab/cells"), ("http", f"{state.url}/datasets/lab/cells/resolve/main")):
        embed(tmp_path, environment, url, "--model", "lab/tiny-rybg", "--revision", commit, "--output", tmp_path / name)
        table = read_table(tmp_path / name)
        assert list(table.cells["cell_id"]) == list(here.cells["cell_id"])
        # Another process may work with another number of threads.
        np.testing.assert_allclose(table.embeddings, here.embeddings, rtol=0, atol=1e-6)
        facts = json.loads((tmp_path / name / "run.json").read_text())["models"][0]
        found = facts["revision"], facts["weights_sha256"], facts["licence"]
        assert found == (commit, local.checksum, "mit")


@pytest.mark.slow
def test_the_models_of_an_owner_are_chosen_from(hub: tuple[LoopbackHub, dict[str, str]], tmp_path: Path) -> None:
    fields = write_fields(tmp_path / "fields", 1)
    (write_fields(tmp_path / "two", 2, ("blue", "green")) / "7_A1_1_blue.png").rename(fields / "7_A1_1_blue.png")
    for ending in ("green", "mask"):
        (tmp_path / "two" / f"7_A1_1_{ending}.png").rename(fields / f"7_A1_1_{ending}.png")
    embed(tmp_path, hub[1], fields, "--model", "auto", "--models", "lab/tiny-*", "--output", tmp_path / "out")
    assert list(read_table(tmp_path / "out").cells["model"]) == ["lab/tiny-rybg"] * 2 + ["lab/tiny-bg"] * 2
    none, ambiguous, nobody, pattern = python(tmp_path, hub[1], "-c", REFUSED).split("REFUSED ")[1:]
    assert "was not found on the Hub" in none
    assert "lab/other-bg and lab/tiny-bg both take blue, green" in ambiguous
    assert "Models of nobody with the tag `subcell`: none." in nobody
    assert "Models of lab with the tag `subcell`: lab/other-bg, lab/tiny-bg, lab/tiny-rybg." in pattern


def test_no_cell_is_skipped_because_a_network_fails(
    models: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(RangeHandler):
        is_down = True

        def parse_request(self) -> bool:
            going_on = super().parse_request()
            if going_on and self.is_down and self.path.endswith(".tar"):
                self.send_error(503)
                return False
            return going_on

    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.01)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Broken, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, output = f"http://127.0.0.1:{server.server_port}", tmp_path / "out"
    with pytest.raises(UnreachableError, match="Run the same command again later"):
        run(url, models / "tiny-rybg", output)
    assert not list(output.glob("parts/part-*"))
    Broken.is_down = False
    assert run(url, models / "tiny-rybg", output).skipped == ()
    Broken.with_ranges = False
    with pytest.raises(StoreError, match="does not answer range requests"):
        run(url, models / "tiny-rybg", tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("parts/part-*"))
    server.shutdown()
    server.server_close()
