"""Shards go to the Hub as a data set that is read from there, metric modules as Spaces."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from huggingface_hub import DatasetCard, constants
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.hub.publishing.metric_spaces import metric_names
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.hub.loopback_hub import Fault, LoopbackHub

Command = Callable[..., Result]

# In a process of its own, because the client reads HF_ENDPOINT when it is imported.
READ = """
import sys
import numpy as np
from subcell_hf.shards.reader import ShardReader

pixels, masks = ShardReader("hf://datasets/subcell/cells").read(np.array([0, 35]))
np.savez(sys.argv[1], pixels=pixels, masks=masks)
"""
EVALUATE = """
import evaluate

metric = evaluate.load("subcell/coverage_error")
print(metric.compute(predictions=[[0.75, 0.5, 1.0]], references=[[1, 0, 0]])["coverage_error"])
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=6, fields_per_antibody=2, cells_per_field=3)
    settings = ShardSettings(fields_per_shard=4, source="Made up.", split_fractions={"train": 0.5, "validation": 0.5})
    write_synthetic(folder, source, settings)
    return folder


@pytest.fixture
def command(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.mark.slow
def test_shards_arrive_whole_and_are_read_from_the_hub(
    shards: Path, hub: LoopbackHub, command: Command, tmp_path: Path
) -> None:
    dry = command("push-shards", str(shards), "subcell/cells", "--license", "cc-by-sa-4.0", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "cells.parquet" in dry.output
    assert not hub.repositories
    done = command("push-shards", str(shards), "subcell/cells", "--license", "cc-by-sa-4.0", "--private")
    assert done.exit_code == 0, done.output
    repository = hub.repositories["dataset", "subcell/cells"]
    assert len(repository.messages) == 1
    assert repository.private
    tars = {path.name for path in shards.glob("*.tar")}
    assert repository.files.keys() == {"README.md", "index.json", "cells.parquet"} | tars
    assert all(repository.files[name].content == (shards / name).read_bytes() for name in tars)
    card = DatasetCard(repository.files["README.md"].content.decode())
    assert card.data.license == "cc-by-sa-4.0"
    assert card.data["size_categories"] == ["n<1K"]
    assert "| cells | 36 |" in card.text
    assert "Made up." in card.text
    local = ShardReader(shards)
    assert f"| train | {len(local.index.splits['train'])} |" in card.text
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HF_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", READ, str(tmp_path / "read.npz")], env=environment, check=True)
    read = np.load(tmp_path / "read.npz")
    pixels, masks = local.read(np.array([0, 35]))
    np.testing.assert_array_equal(read["pixels"], pixels)
    np.testing.assert_array_equal(read["masks"], masks)


def test_a_broken_upload_goes_on_where_it_was(shards: Path, hub: LoopbackHub, command: Command) -> None:
    words = ("push-shards", str(shards), "subcell/cells", "--license", "cc-by-sa-4.0")
    hub.faults.append(Fault("PUT /_lfs", 400, after=2))
    broken = command(*words)
    assert broken.exit_code == 2
    assert "status 400" in broken.output
    arrived = len(hub.large_files)
    assert arrived >= 2
    assert not hub.repositories["dataset", "subcell/cells"].files
    hub.faults.clear()
    hub.log.clear()
    assert command(*words).exit_code == 0
    large = 1 + len(list(shards.glob("*.tar")))
    assert len([line for line in hub.log if line.startswith("PUT")]) == large - arrived


def test_damaged_shards_do_not_leave(shards: Path, hub: LoopbackHub, command: Command, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in shards.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    tar = next(damaged.glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[700] ^= 1
    tar.write_bytes(content)
    result = command("push-shards", str(damaged), "subcell/cells", "--license", "mit")
    assert result.exit_code == 2
    assert "does not match its index; nothing was uploaded" in result.output
    assert not hub.repositories


@pytest.mark.slow
def test_metrics_become_spaces_that_evaluate_loads(hub: LoopbackHub, command: Command, tmp_path: Path) -> None:
    assert len(metric_names()) >= 4
    dry = command("push-metrics", "subcell", "--dry-run")
    assert all(f"space subcell/{name}, revision main, a new repository" in dry.output for name in metric_names())
    assert not hub.repositories
    result = command("push-metrics", "subcell", "--metric", "coverage_error")
    assert result.exit_code == 0, result.output
    files = hub.repositories["space", "subcell/coverage_error"].files
    assert files.keys() == {"README.md", "app.py", "coverage_error.py", "requirements.txt"}
    assert b"sdk: gradio" in files["README.md"].content
    assert command("push-metrics", "subcell", "--metric", "accuracy").exit_code == 2
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", EVALUATE], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "2.0"
