"""Models, Spaces, shards and metrics published from Python are those that the commands publish."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from huggingface_hub import constants
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.workflows.hub.publishing import (
    PushOptions,
    export_repository,
    push_folder,
    push_metrics,
    push_shards,
)
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.hub.loopback_hub import LoopbackHub
from tests.hub.tiny_models import save_tiny, write_facts
from tests.workflows.evaluation.test_benchmarks import contents

Command = Callable[..., Result]
DRY = PushOptions(dry_run=True)


@pytest.fixture
def command(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_facts(folder)
    return save_tiny("SubCellForImageClassification", folder / "tiny")


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("export") / "tiny"
    sources = ExportSources(facts=model.parent / "facts.yaml")
    return export_repository(model, output, repository="me/tiny", sources=sources).folder


def test_export_with_a_space(model: Path, exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    facts = model.parent / "facts.yaml"
    words = ["export", model, "--output", tmp_path / "command", "--repository", "me/tiny", "--facts", facts]
    result = CliRunner().invoke(app, [*map(str, words), "--space", str(tmp_path / "command_space")])
    assert result.exit_code == 0, result.output
    made = export_repository(
        model, tmp_path / "python", repository="me/tiny", sources=ExportSources(facts=facts), space=tmp_path / "space"
    )
    assert (made.folder, made.repository, made.space) == (tmp_path / "python", "me/tiny", tmp_path / "space")
    assert contents(made.folder) == contents(tmp_path / "command") == contents(exported)
    assert contents(tmp_path / "space") == contents(tmp_path / "command_space")
    with pytest.raises(InputError, match="--space-reference requires --space"):
        export_repository(model, tmp_path / "no", space_reference=tmp_path / "table.parquet")
    assert not (tmp_path / "no").exists()


def test_a_model_is_pushed_once(
    exported: Path, command: Command, hub: LoopbackHub, caplog: pytest.LogCaptureFixture
) -> None:
    shown = command("push", exported, "me/tiny", "--dry-run")
    planned = push_folder(exported, "me/tiny", DRY)
    assert shown.output == f"{planned.describe()}\n"
    assert hub.repositories == {}
    done = push_folder(exported, "me/tiny", PushOptions(private=True, message="Hello"))
    assert done.travelling == planned.travelling
    repository = hub.repositories["model", "me/tiny"]
    assert {path: file.content for path, file in repository.files.items()} == contents(exported)
    assert repository.private
    assert repository.messages[-1] == "Hello"
    assert "0 of" in command("push", exported, "me/tiny").output
    assert caplog.records == []
    push_folder(exported, "me/other", DRY)
    assert "subcell export --repository me/other" in caplog.messages[0]
    assert "load another repository than me/other" in command("push", exported, "me/other", "--dry-run").stderr


def test_what_cannot_be_pushed_is_refused(model: Path, exported: Path, command: Command, tmp_path: Path) -> None:
    for folder, name, said in (
        (model, "me/tiny", "lacks README.md"),
        (tmp_path / "nothing", "me/tiny", "does not exist"),
        (exported, "tiny", "has no owner"),
    ):
        with pytest.raises(InputError, match=said):
            push_folder(folder, name, DRY)
        result = command("push", folder, name, "--dry-run")
        assert result.exit_code == 2
        assert said in result.stderr


def test_shards(command: Command, hub: LoopbackHub, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    settings = ShardSettings(fields_per_shard=4, split_fractions={"train": 0.5, "validation": 0.5})
    write_synthetic(shards, SyntheticCrops(antibodies=4, fields_per_antibody=1, cells_per_field=2), settings)
    shown = command("push-shards", shards, "me/cells", "--license", "cc-by-4.0", "--dry-run")
    plan = push_shards(shards, "me/cells", "cc-by-4.0", options=DRY)
    assert shown.stdout == f"{plan.describe()}\n"
    push_shards(shards, "me/cells", "cc-by-4.0", name="Cells")
    files = hub.repositories["dataset", "me/cells"].files
    assert files.keys() == {file.path for file in plan.files}
    assert b"pretty_name: Cells" in files["README.md"].content
    with pytest.raises(InputError, match="license is empty"):
        push_shards(shards, "me/cells", " ")


def test_metrics(command: Command, hub: LoopbackHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "subcell_hf")
    shown = command("push-metrics", "me", "--metric", "coverage_error", "--dry-run")
    plans = push_metrics("me", ["coverage_error"], dry_run=True)
    assert list(plans) == ["coverage_error"]
    assert shown.output == f"{plans['coverage_error'].describe()}\n"
    assert hub.repositories == {}
    push_metrics("me", ["coverage_error"], private=True)
    assert hub.repositories["space", "me/coverage_error"].sdk == "gradio"
    assert "coverage_error.py" in hub.repositories["space", "me/coverage_error"].files
    with pytest.raises(InputError, match="Unknown metric nothing"):
        push_metrics("me", ["nothing"])
