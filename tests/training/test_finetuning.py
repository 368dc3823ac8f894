"""Fine-tuning learns labels of one's own, on any channels, and its result loads like any other model."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.finetuning.channel_adaptation import adapt_encoder, plan_channels
from subcell_hf.training.finetuning.finetuning import FineTuner, class_weights, classification_loss
from subcell_hf.training.finetuning.finetuning_arguments import parse_fine_tuning
from subcell_hf.training.finetuning.finetuning_resolution import FineTuningRun, resolve_fine_tuning
from subcell_hf.training.finetuning.labelled_crops import open_crops, with_random_splits
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import build_config
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import Forked, run_ranks

ROOT = Path(__file__).parents[2]
QUICK = [
    "--use_cpu", "true", "--disable_tqdm", "true", "--classifier_hidden_sizes", "16", "--classifier_dropout", "0",
    "--per_device_train_batch_size", "8", "--report_to", "none",
]  # fmt: skip


CALIBRATION = {"location_sets": {"threshold": 0.1}, "novelty": {"antibodies": 60}}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining checkpoint of a tiny model, with what a calibrated classifier would have."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    SubCellForPreTraining(_config(**CALIBRATION)).save_pretrained(folder)
    return folder


def _config(**changes: Any) -> SubCellConfig:
    values: dict[str, Any] = {
        "image_size": 32, "pixel_size_um": 0.2, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 48, "pooling_hidden_size": 16, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2, "decoder_intermediate_size": 24, "projection_hidden_sizes": [24],
        "projection_size": 8, "initializer_range": 0.1,
    }  # fmt: skip
    return SubCellConfig(**values | changes)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two kinds that differ in where the protein is, with a mask, in TIFF files."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(32):
        kind = ("round", "flat")[number % 2]
        pixels = rng.integers(0, 40, (3, 32, 32), np.uint16)
        pixels[2, :16] += np.uint16(200 * (number % 2))
        tifffile.imwrite(folder / f"{number}.tiff", pixels, photometric="minisblack")
        tifffile.imwrite(folder / f"{number}_mask.tiff", np.full((32, 32), 255, np.uint8))
        rows.append({"file": f"{number}.tiff", "mask": f"{number}_mask.tiff", "label": kind, "plate": str(number // 4)})
    path = folder / "crops.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _resolve(pretrained: Path, data: Path, output: Path, *words: str) -> FineTuningRun:
    start = ["--init_checkpoint", str(pretrained), "--data", str(data), "--output_dir", str(output)]
    return resolve_fine_tuning(parse_fine_tuning([str(ROOT / "recipes/configs/finetune.yaml"), *start, *QUICK, *words]))


OWN = ["--channel_names", "blue", "er", "mito", "--channels", "blue", "mito", "--new_channels", "mito=green",
       "--single_label", "true", "--group_column", "plate", "--pixel_size_um", "0.2",
       "--views", "validation"]  # fmt: skip


def test_it_learns_labels_of_its_own_and_loads_with_the_auto_classes(
    pretrained: Path, table: Path, tmp_path: Path
) -> None:
    run = _resolve(pretrained, table, tmp_path, *OWN, "--num_train_epochs", "12", "--learning_rate", "2e-3",
                   "--metric_for_best_model", "accuracy")  # fmt: skip
    assert run.describe()["channels"] == {"blue": "kept", "mito": "copied from green", "red": "dropped",
                                          "yellow": "dropped"}  # fmt: skip
    tuner = FineTuner(run)
    tuner.train()
    folder = tuner.save_final_model()
    measured = [line for line in tuner.state.log_history if "eval_accuracy" in line]
    assert measured[-1]["eval_accuracy"] == measured[-1]["eval_macro_auprc"] == 1
    assert (tmp_path / "validation").is_dir()

    model, processor = (
        AutoModelForImageClassification.from_pretrained(folder),
        AutoImageProcessor.from_pretrained(folder),
    )
    assert model.config.channels == processor.channels == ["blue", "mito"]
    assert model.config.id2label == {0: "flat", 1: "round"}
    pixels = tifffile.imread(table.parent / "1.tiff")
    inputs = processor(pixels, channels=["blue", "er", "mito"], pixel_size_um=0.2)
    assert model.eval()(**inputs).logits.argmax().item() == 0
    # Validation sees what inference sees.
    sample = tuner.eval_dataset[0]
    seen = tuner.make_pixel_values({name: value[None] for name, value in sample.items()}, training=False)
    own = processor(tifffile.imread(run.crops.files[run.validation[0]]), channels=run.crops.channels, pixel_size_um=0.2)
    torch.testing.assert_close(seen, own["pixel_values"], atol=1e-6, rtol=0)


def test_the_head_alone(pretrained: Path, table: Path, tmp_path: Path) -> None:
    run = _resolve(pretrained, table, tmp_path, *OWN, "--freeze_encoder", "true", "--max_steps", "3",
                   "--save_strategy", "no", "--load_best_model_at_end", "false")  # fmt: skip
    tuner = FineTuner(run)
    before = {name: value.clone() for name, value in tuner.model.state_dict().items()}
    tuner.train()
    for name, value in tuner.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("subcell."), name


def test_going_on_is_bit_equal_and_other_channels_are_refused(pretrained: Path, table: Path, tmp_path: Path) -> None:
    words = [*OWN, "--num_train_epochs", "4", "--views", "reconstruction", "--load_best_model_at_end", "false",
             "--save_total_limit", "9"]  # fmt: skip
    straight = FineTuner(_resolve(pretrained, table, tmp_path / "straight", *words))
    straight.train()
    steps = straight.state.max_steps
    half = tmp_path / "straight" / f"checkpoint-{steps // 2}"
    shutil.copytree(half, tmp_path / "again" / half.name)
    torch.manual_seed(99)
    again = FineTuner(_resolve(pretrained, table, tmp_path / "again", *words))
    again.train(resume_from_checkpoint=True)
    expected, found = (
        load_file(tmp_path / name / f"checkpoint-{steps}" / "model.safetensors") for name in ("straight", "again")
    )
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    other = FineTuner(_resolve(pretrained, table, tmp_path / "again", *words, "--channels", "blue", "er"
                               , "--new_channels", "er=yellow"))  # fmt: skip
    with pytest.raises(InputError, match=r"channels is \['blue', 'mito'\] in the checkpoint, \['blue', 'er'\] here"):
        other.train(resume_from_checkpoint=True)


def test_shards_and_saved_datasets(pretrained: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = SyntheticCrops(antibodies=12, fields_per_antibody=1, cells_per_field=2, size_px=32)
    write_synthetic(tmp_path / "shards", source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))
    run = _resolve(pretrained, tmp_path / "shards", tmp_path / "run", "--num_train_epochs", "1", "--channels", "bg",
                   "--class_weights", "balanced", "--image_size", "48")  # fmt: skip
    assert run.classes == ("Cytosol", "Nucleoplasm")
    FineTuner(run).train()

    rows = {"pixels": np.random.default_rng(0).random((8, 2, 20, 24)).tolist(), "label": [0, 1] * 4}
    features = datasets.Features({
        "pixels": datasets.Sequence(datasets.Sequence(datasets.Sequence(datasets.Value("float32")))),
        "label": datasets.ClassLabel(names=["no", "yes"]),
    })  # fmt: skip
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    crops = open_crops(str(tmp_path / "saved"), ["blue", "green"])
    assert (crops.labels[:2], crops.read(3)[0].shape, crops.read(3)[1]) == ([("no",), ("yes",)], (2, 20, 24), None)


@pytest.mark.parametrize("patches", ["linear", "convolutional"])
def test_channels_go_by_name_and_positions_are_interpolated(patches: str) -> None:
    torch.manual_seed(0)
    changes = {"position_embedding_type": "learned", "patch_embedding_type": patches}
    trained = SubCellModel(_config(**changes)).eval()
    origins = plan_channels(trained.config.channels, ["green", "dna", "blue"], {})
    assert origins.describe() == {"green": "kept", "dna": "mean of all", "blue": "kept",
                                  "red": "dropped", "yellow": "dropped"}  # fmt: skip
    config = _config(**changes, channels=["green", "dna", "blue"], image_size=48)
    adapted = SubCellModel(config).eval()
    adapted.load_state_dict(adapt_encoder(trained, config, origins))
    pixels = torch.rand(2, 3, 48, 48)
    # The trained model on all four channels, the unknown one spread evenly over them.
    spread = torch.stack([pixels[:, 1] / 4, pixels[:, 1] / 4, pixels[:, 2] + pixels[:, 1] / 4,
                          pixels[:, 0] + pixels[:, 1] / 4], dim=1)  # fmt: skip
    torch.testing.assert_close(adapted(pixels).pooler_output, trained(spread).pooler_output, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match=r"mito=green, but mito is not a new channel\. New channels: dna"):
        plan_channels(["blue", "green"], ["blue", "dna"], {"mito": "green"})
    with pytest.raises(InputError, match="expected one of blue, green, or mean"):
        plan_channels(["blue", "green"], ["blue", "dna"], {"dna": "red"})


def test_separate_channels_keep_their_embeddings_by_name() -> None:
    torch.manual_seed(0)
    trained = SubCellModel(_config(channel_tokens="separate")).eval()
    origins = plan_channels(trained.config.channels, ["dna", "mito", "green"], {"dna": "blue"})
    adapted = SubCellModel(_config(channel_tokens="separate", channels=["dna", "mito", "green"])).eval()
    adapted.load_state_dict(adapt_encoder(trained, adapted.config, origins))
    pixels = torch.rand(2, 3, 48, 48)
    names, old = ["green", "other", "dna"], ["green", "other", "blue"]
    expected = trained(pixels, channels=old).pooler_output
    torch.testing.assert_close(adapted(pixels, channels=names).pooler_output, expected)
    table = trained.embeddings.channel_embeddings
    torch.testing.assert_close(adapted.embeddings.channel_embeddings[1], table[:4].mean(0))


def test_losses_and_weights() -> None:
    logits, targets = torch.tensor([[2.0, -1.0], [0.5, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    config = SubCellConfig(num_labels=2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, pos_weight=torch.tensor([3.0, 0.5])
    )
    found = classification_loss(logits, targets, "bce", config, torch.tensor([3.0, 0.5]))
    torch.testing.assert_close(found, expected)
    weights = class_weights(np.array([[1, 0], [0, 0], [0, 1], [0, 1]], np.float32), 2, "balanced")
    assert weights is not None
    assert weights.tolist() == [3.0, 1.0]
    weights = class_weights(np.array([0, 0, 0, 1]), 2, "balanced")
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / 6, 2.0])


def test_groups_stay_together(table: Path) -> None:
    crops = open_crops(str(table), ["a", "b", "c"], group_column="plate")
    splits = with_random_splits(crops, 0.25, seed=3)
    assert splits.count("validation") == 8
    held_out = {group for group, split in zip(crops.groups, splits, strict=True) if split == "validation"}
    assert held_out.isdisjoint(g for g, split in zip(crops.groups, splits, strict=True) if split == "train")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--channels", "rybg"], "missing red, yellow, green. Choose the channels"),
        (["--new_channels", "mito"], "expected NEW=TRAINED"),
        (["--loss", "focal"], "loss=focal cannot be combined with single_label=true"),
        (["--loss", "hinge"], "loss is 'hinge': expected one of focal, bce, cross_entropy"),
        (["--classes", "flat", "round", "square"], "has the class square; it has flat, round"),
        (["--classes", "flat"], "has 1 class"),
        (["--group_column", "well"], "has no column 'well'"),
        (["--channel_names", "blue", "blue", "mito"], "a different name for each plane"),
        (["--image_size", "33"], "divisible by patch_size=16"),
        (["--metric_for_best_model", "f1"], "metric_for_best_model is 'f1'"),
        (["--resume_from_checkpoint", "/nowhere"], "not an existing folder"),
        (["--learning_rat", "1"], "did you mean learning_rate"),
        (["--train_split", "fold"], "No crop is in the split 'fold'; available splits: train, validation"),
        (["--data", "/nowhere"], "expected a folder of shards"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    words: list[str], message: str, pretrained: Path, table: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        _resolve(pretrained, table, tmp_path, *OWN, *words)


def test_a_calibration_is_not_carried_into_another_training(pretrained: Path, table: Path, tmp_path: Path) -> None:
    assert CALIBRATION.keys() <= SubCellConfig.from_pretrained(pretrained).to_dict().keys()
    pretraining = build_config(parse_arguments(["--init_checkpoint", str(pretrained)]))
    assert pretraining.pixel_size_um == 0.2
    for config in (pretraining, _resolve(pretrained, table, tmp_path, *OWN).config):
        assert not CALIBRATION.keys() & config.to_dict().keys()


@pytest.mark.slow
def test_the_recipe_describes_and_refuses(pretrained: Path, table: Path, tmp_path: Path) -> None:
    recipe = [str(ROOT / "recipes" / "finetune.py"), str(ROOT / "recipes/configs/finetune.yaml")]
    start = ["--init_checkpoint", str(pretrained), "--data", str(table), "--output_dir", str(tmp_path)]
    command = [*recipe, *start, *QUICK]
    dry = Forked(*command, *OWN, "--dry_run", "true", log=tmp_path / "dry.log")
    assert dry.wait() == 0, dry.output
    assert '"mito": "copied from green"' in dry.output
    wrong = Forked(*command, log=tmp_path / "wrong.log")
    assert wrong.wait() == 2
    assert "Error: " in wrong.output
    assert "does not name the channels of its crops" in wrong.output


@pytest.mark.slow
def test_two_processes_learn_what_one_does(table: Path, tmp_path: Path) -> None:
    """The same crops in every step, half of them in each process; nothing is dropped out."""
    pretrained = tmp_path / "pretrained"
    torch.manual_seed(0)
    SubCellForPreTraining(_config(pooling_dropout=0.0)).save_pretrained(pretrained)
    recipe = [str(ROOT / "recipes" / "finetune.py"), str(ROOT / "recipes/configs/finetune.yaml")]
    words = [*QUICK, *OWN, "--max_steps", "3", "--save_strategy", "no", "--load_best_model_at_end", "false",
             "--optim", "sgd", "--learning_rate", "0.1", "--head_learning_rate", "0.1"]  # fmt: skip
    weights = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        start = ["--init_checkpoint", str(pretrained), "--data", str(table), "--output_dir", str(folder)]
        size = ["--per_device_train_batch_size", str(8 // processes)]
        said = run_ranks(processes, *recipe, *start, *words, *size, log=tmp_path / f"{processes}.log")
        assert said.count("with AutoModelForImageClassification and AutoImageProcessor") == 1
        record = json.loads((folder / "model" / "fine_tuning.json").read_text())
        assert record["crops_per_step"] == 8
        weights.append(load_file(folder / "model" / "model.safetensors"))
    begun = SubCellModel.from_pretrained(pretrained).state_dict()["layernorm.weight"]
    assert not torch.allclose(weights[0]["subcell.layernorm.weight"], begun, atol=1e-5)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
