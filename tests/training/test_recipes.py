"""Recipes say what the specification says, and what cannot work is refused by name before anything starts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import get_polynomial_decay_schedule_with_warmup

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.ontology import CHANNEL_VARIANTS
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.pretraining.arguments import described_fields, parse_arguments
from subcell_hf.training.pretraining.dry_run import describe_run
from subcell_hf.training.pretraining.optimization import parameter_groups, peak_learning_rate, straight_line
from subcell_hf.training.pretraining.resolution import build_config, resolve
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic

RECIPES = Path(__file__).parents[2] / "recipes" / "configs"

# reconstruction, cell, protein, centroid | mask ratio of view 1, of view 2, of the object | views | antibodies
TABLE = {
    "mae": ((1, 0, 0, 0), (0.5, 0, 0.5), "reconstruction", 112),
    "cell": ((0, 1, 0, 0), (0, 0, 0), "contrastive", 128),
    "protein": ((0, 0, 1, 0), (0, 0, 0), "contrastive", 128),
    "cell_protein": ((0, 1, 1, 0), (0, 0, 0), "contrastive", 128),
    "mae_cell_protein_contrast": ((1, 1, 0.1, 0), (0.25, 0, 0), "multi_task", 112),
    "mae_cell_protein_centroid": ((0.5, 0.5, 0, 1), (0.25, 0.05, 0), "multi_task", 112),
    "cell_protein_centroid": ((0, 1, 0, 1), (0, 0, 0), "contrastive", 128),
    "supervised": ((0, 0, 0, 0), (0, 0, 0), "contrastive", 128),
}

PARAMETERS = {
    "mae": 113_979_429,
    "cell": 172_377_893,
    "protein": 172_377_893,
    "cell_protein": 256_313_125,
    "mae_cell_protein_contrast": 281_849_893,
    "mae_cell_protein_centroid": 326_564_903,
    "cell_protein_centroid": 301_631_015,
    "supervised": 88_442_661,
}
"""With four channels and 35 classes, heads included; `supervised` is the published encoder (87.3 M) and the probe."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=10, fields_per_antibody=2, cells_per_field=4, size_px=32)
    write_synthetic(folder, source, ShardSettings(split_fractions={"train": 0.6, "validation": 0.4}))
    return folder


@pytest.mark.parametrize("name", TABLE)
def test_published_recipes(name: str) -> None:
    weights, ratios, views, antibodies = TABLE[name]
    parsed = parse_arguments([str(RECIPES / f"{name}.yaml")])
    config = build_config(parsed)
    kinds = ("reconstruction", "cell_contrast", "protein_contrast", "protein_centroid")
    assert tuple(getattr(config, f"{kind}_weight") for kind in kinds) == weights
    assert (config.mask_ratio, config.context_mask_ratio, config.object_mask_ratio) == ratios
    assert config.probe_detached == (name != "supervised")
    assert (parsed.data.views, parsed.data.antibodies_per_batch, parsed.data.cells_per_antibody) == (
        views,
        antibodies,
        8,
    )
    assert (config.hidden_size, config.embedding_size, config.image_size) == (768, 1536, 448)
    training = parsed.training
    assert (training["num_train_epochs"], training["warmup_epochs"], training["eval_epochs"]) == (300, 5, 10)
    assert (training["base_learning_rate"], training["adam_beta1"], training["adam_beta2"]) == (1e-4, 0.9, 0.95)
    assert (training["weight_decay"], training["head_weight_decay"], training["max_grad_norm"]) == (0.05, 0.01, 1.0)


def test_there_is_no_other_recipe_of_pretraining_but_tiny_models() -> None:
    other_jobs = {"quickstart", "small", "any_channels", "finetune", "localization"}
    assert {path.stem for path in RECIPES.glob("*.yaml")} - other_jobs == TABLE.keys()


@pytest.mark.parametrize("variant", CHANNEL_VARIANTS)
@pytest.mark.parametrize("name", TABLE)
def test_every_recipe_runs_on_every_variant(name: str, variant: str, shards: Path, tmp_path: Path) -> None:
    """Only the patch embedding and the decoder's last layer know how many channels there are."""
    words = [str(RECIPES / f"{name}.yaml"), "--shards", str(shards), "--channels", variant, "--use_cpu", "true"]
    words += ["--antibodies_per_batch", "4", "--output_dir", str(tmp_path)]
    run = resolve(parse_arguments(words), world_size=1)
    channels = CHANNEL_VARIANTS[variant]
    assert run.config.channels == list(channels)
    found = describe_run(run)["cost"]["parameters"]
    per_channel = 16 * 16 * 768 * (2 if run.config.protein_centroid_weight else 1)  # the teacher has one too
    if run.config.reconstruction_weight:
        per_channel += 16 * 16 * (512 + 1)
    assert found == PARAMETERS[name] - (4 - len(channels)) * per_channel


def test_variants_are_chosen_by_name() -> None:
    config = build_config(parse_arguments([str(RECIPES / "protein.yaml"), "--channels", "bg"]))
    assert config.channels == ["blue", "green"]


def test_learning_rate_is_golden(golden_files: Path) -> None:
    """The published code sets the rate after the step; here step s runs at the rate of s."""
    golden = np.load(golden_files / "losses" / "lr_schedule.npz")
    peak = peak_learning_rate(1e-4, 896)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=peak)
    schedule = get_polynomial_decay_schedule_with_warmup(optimizer, 500, 30_000, **straight_line(peak, 1e-3))
    rates = [peak * schedule.lr_lambdas[0](int(step)) for step in golden["in.step"]]
    np.testing.assert_allclose(rates, golden["out.lr"], rtol=1e-7)
    with pytest.raises(InputError, match="final_learning_rate_ratio is 1"):
        straight_line(peak, 1)


def test_weight_decay_of_every_parameter() -> None:
    config = build_config(parse_arguments([str(RECIPES / "mae_cell_protein_centroid.yaml")]))
    with torch.device("meta"):
        model = SubCellForPreTraining(config)
    decays = {id(p): group["weight_decay"] for group in parameter_groups(model, 0.05, 0.01) for p in group["params"]}
    found = {name: decays[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(found) == len(decays)
    assert found["subcell.layers.3.mlp.fc1.weight"] == found["decoder.prediction.weight"] == 0.05
    assert found["subcell.embeddings.patch_embeddings.projection.weight"] == 0.05
    for name in ("subcell.layers.3.mlp.fc1.bias", "subcell.layernorm.weight", "subcell.embeddings.cls_token"):
        assert found[name] == 0
    assert found["decoder.mask_token"] == found["probe.1.bias"] == found["cell_projection.1.weight"] == 0
    assert (
        found["probe.1.weight"] == found["subcell.pooler.attention.value.weight"] == found["predictor.0.weight"] == 0.01
    )
    assert not any(name.startswith("teacher") for name in found)


def test_a_run_is_known_in_every_number_before_it_starts(shards: Path, tmp_path: Path) -> None:
    words = [
        str(RECIPES / "quickstart.yaml"),
        "--shards",
        str(shards),
        "--antibodies_per_batch",
        "4",
        "--use_cpu",
        "true",
    ]
    words += ["--output_dir", str(tmp_path), "--num_train_epochs", "10", "--image_size", "48"]
    run = resolve(parse_arguments(words), world_size=2)
    assert (run.steps_per_epoch, run.total_steps, run.cells_per_step) == (2, 20, 16)  # 6 antibodies, 4 a batch
    assert run.training.learning_rate == pytest.approx(4e-3 * 16 / 256)
    assert run.training.per_device_train_batch_size == 8
    assert run.training.warmup_steps == 8
    assert (run.training.eval_strategy, run.training.eval_steps, run.training.save_steps) == ("steps", 50, 50)
    run = resolve(parse_arguments([*words, "--eval_steps", "3", "--save_strategy", "no"]), world_size=2)
    assert (run.training.eval_strategy, run.training.eval_steps, run.training.save_strategy) == ("steps", 3, "no")
    assert len(run.config.id2label) == 35


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask_ration", "0.5"], "Unknown argument 'mask_ration': did you mean mask_ratio"),
        (["--mask_ratio", "1.5"], "mask_ratio=1.5"),
        (["--views", "reconstruction"], "makes 1 view of each cell, but cell_contrast_weight"),
        (["--per_device_train_batch_size", "8"], "set antibodies_per_batch and cells_per_antibody instead"),
        (["--antibodies_per_batch", "400"], "A batch needs 400 different antibodies, but only 6"),
        (["--channels", "red", "mito"], "channels contains mito, but the shards contain red, yellow, blue, green"),
        (["--warmup_epochs", "500"], "leaves nothing of the"),
        (["--size", "huge"], "size is 'huge': expected one of tiny"),
        (["--train_split", "fold1"], "has no split 'fold1'"),
        (["--metric_for_best_model", "accuracy"], "metric_for_best_model is 'accuracy'"),
        (["--resume_from_checkpoint", "/nowhere"], "not an existing folder"),
        (["--cell_contrast_weight", "0", "--protein_contrast_weight", "0", "--reconstruction_weight", "0",
          "--probe_detached", "true"],
         "Nothing trains the encoder"),
        (["--mask_ratio", "0"], "mask_ratio=0 no patches are hidden"),
        (["--gradient_accumulation_steps", "99"], "no step would ever be taken"),
        (["--num_train_epochs", "many"], "invalid float value: 'many'"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_name(words: list[str], message: str, shards: Path, tmp_path: Path) -> None:
    start = [
        str(RECIPES / "quickstart.yaml"),
        "--shards",
        str(shards),
        "--output_dir",
        str(tmp_path),
        "--use_cpu",
        "true",
    ]
    with pytest.raises(InputError, match=message):
        resolve(parse_arguments([*start, "--antibodies_per_batch", "4", *words]), world_size=1)


def test_lists_may_be_empty(tmp_path: Path) -> None:
    """A probe without hidden layers."""
    (tmp_path / "linear.yaml").write_text("probe_hidden_sizes: []\nhidden_size: 64\nnum_attention_heads: 2")
    config = build_config(parse_arguments([str(tmp_path / "linear.yaml")]))
    assert config.probe_hidden_sizes == []
    assert build_config(parse_arguments(["--probe_hidden_sizes", "8", "4"])).probe_hidden_sizes == [8, 4]


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no recipe"):
        parse_arguments([str(tmp_path / "none.yaml")])
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(InputError, match="not valid YAML"):
        parse_arguments([str(tmp_path / "broken.yaml")])
    with pytest.raises(InputError, match="shards is not set"):
        resolve(parse_arguments([]), world_size=1)


def test_cells_of_an_antibody_that_have_no_other_to_be_compared_with() -> None:
    words = ["--protein_views", "first", "--cells_per_antibody", "1"]
    with pytest.raises(InputError, match=r"cells_per_antibody is 1.*choose 2 or more"):
        build_config(parse_arguments(words))
    assert build_config(parse_arguments([*words, "--protein_contrast_weight", "0"])).protein_views == "first"


def test_processes_that_cannot_share_a_batch(shards: Path, tmp_path: Path) -> None:
    words = [str(RECIPES / "quickstart.yaml"), "--shards", str(shards), "--antibodies_per_batch", "4"]
    with pytest.raises(InputError, match="3"):
        resolve(parse_arguments([*words, "--output_dir", str(tmp_path), "--use_cpu", "true"]), world_size=3)


def test_help_describes_every_field_of_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    fields = SubCellConfig.__annotations__.keys() - {"model_type", "sub_configs"}
    assert fields <= described_fields(SubCellConfig).keys()
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--patch_size PATCH_SIZE Edge of a patch in pixels. (default: 16)" in shown
    assert "(default: red yellow blue green)" in shown
