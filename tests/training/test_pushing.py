"""A run brings its model and its checkpoints to the Hub, as `hub_strategy` says, in whole commits."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load
from transformers import AutoModelForPreTraining
from transformers.utils import hub as transformers_hub

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.pretraining.trainer import PreTrainer
from subcell_hf.workflows.finetune import finetune
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.hub.loopback_hub import Fault, LoopbackHub, serve
from tests.training.test_trainer import build

RESUMING = {"optimizer.pt", "scheduler.pt", "trainer_state.json", "loader_state.json", "manifest.json"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=8, fields_per_antibody=2, cells_per_field=4, size_px=32)
    settings = ShardSettings(split_fractions={"train": 0.5, "validation": 0.5}, source="made up")
    write_synthetic(folder, source, settings)
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    """One for all, since transformers remembers the first address that it was told."""
    server, hub = serve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setenv("HF_TOKEN", "hf_write")
        patch.setattr(transformers_hub, "_hf_api", None)
        yield hub
    server.shutdown()
    server.server_close()


def pushing(shards: Path, folder: Path, name: str, strategy: str) -> PreTrainer:
    words = ["--push_to_hub", "true", "--hub_model_id", name, "--hub_strategy", strategy, "--save_steps", "1"]
    return build(shards, folder, *words, "--hub_always_push", "true", "--max_steps", "2", "--warmup_epochs", "0",
                 "--save_total_limit", "1")  # fmt: skip


@pytest.mark.slow
def test_every_checkpoint_and_the_end(shards: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    trainer = pushing(shards, tmp_path / "run", "subcell/run", "checkpoint")
    trainer.train()
    repository = hub.repositories["model", "subcell/run"]
    assert repository.messages == [
        f"Training in progress, step {step}{what}" for step in (1, 2) for what in ("", ", checkpoint")
    ]
    root = {path for path in repository.files if "/" not in path}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "modeling_subcell.py"} <= root
    assert not [path for path in root if path.endswith((".pt", ".pth", ".bin"))]
    assert not root & RESUMING
    checkpoint = {path.removeprefix("last-checkpoint/") for path in repository.files if path.startswith("last-")}
    assert checkpoint >= RESUMING
    on_disk = (tmp_path / "run" / "checkpoint-2" / "model.safetensors").read_bytes()
    assert repository.files["last-checkpoint/model.safetensors"].content == on_disk

    trainer.push_to_hub()
    assert repository.messages[-1] == "End of training"
    weights = load(repository.files["model.safetensors"].content)
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "run" / "model")
    assert torch.equal(weights["subcell.layernorm.weight"], model.subcell.layernorm.weight)
    assert ModelCard(repository.files["README.md"].content.decode()).data.library_name == "transformers"


@pytest.mark.slow
def test_a_fine_tuned_classifier_is_pushed_at_the_end(shards: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    encoder = build(shards, tmp_path / "run").save_final_model()
    result = finetune(
        "finetune", init_checkpoint=encoder, data=shards, output_dir=tmp_path / "tuned", max_steps=1, use_cpu=True,
        disable_tqdm=True, push_to_hub=True, hub_model_id="subcell/tuned",
    )  # fmt: skip
    assert result.model is not None
    repository = hub.repositories["model", "subcell/tuned"]
    assert repository.messages[-1] == "End of training"
    assert repository.files["model.safetensors"].content == (result.model / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_hub_that_fails_does_not_stop_the_training(
    shards: Path, hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = pushing(shards, tmp_path / "run", "subcell/other", "every_save")
    hub.faults.append(Fault("POST .*subcell/other/commit/", 500))
    messages: list[str] = []
    monkeypatch.setattr("subcell_hf.training.runs.pushing.logger.warning", messages.append)
    trainer.train()
    assert trainer.state.global_step == 2
    assert len([message for message in messages if "to subcell/other failed" in message]) == 2
    assert not hub.repositories["model", "subcell/other"].files
    with pytest.raises(InputError, match=r"is complete, but the Hub refused the upload.*subcell export"):
        trainer.push_to_hub()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_record_of_a_run_makes_a_card(shards: Path, tmp_path: Path) -> None:
    trainer = build(shards, tmp_path / "run", "--max_steps", "2", "--warmup_epochs", "0", "--eval_steps", "2")
    trainer.train()
    trainer.save_final_model()
    record = json.loads((tmp_path / "run" / "model" / "training_record.json").read_text())
    assert record["training_data"]["source"] == "made up"
    assert record["training_data"]["cells"] == 64
    assert record["hyperparameters"]["steps"] == 2
    assert record["hardware"]["device"] == "cpu"
    assert record["hardware"]["runtime_s"] > 0
    folder = export_model(tmp_path / "run", tmp_path / "out", repository="subcell/run")
    text = (folder / "README.md").read_text()
    data = ModelCard(text).data
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.eval_results[0].metric_type == "macro_auprc"
    grams = record["hardware"]["runtime_s"] / 3600 * 65 / 1000 * 480
    assert data["co2_eq_emissions"]["emissions"] == pytest.approx(grams, rel=1e-2)
    assert "device hours (1 × cpu) × 65 W (an assumption) × 480 g/kWh of the world's average grid" in text
    assert "reconstruction 1, cell contrast 1, protein contrast 0.1, protein centroid 1" in text
    assert str(tmp_path) not in text
