"""Training on sampled channels: what is drawn, that it belongs to the batch alone, and what is refused."""

import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from subcell_hf.errors import InputError
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.channel_sampling import ChannelSampling
from subcell_hf.training.pretraining.dry_run import describe_run
from subcell_hf.training.pretraining.resolution import resolve
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import run_ranks

PRETRAIN = str(Path(__file__).parents[2] / "recipes" / "pretrain.py")
CHANNELS = ["red", "yellow", "blue", "green"]
VIEWS = """
scaling: channel
views:
  - {mask_probability: 1.0, transforms: []}
  - {mask_probability: 1.0, transforms: [{name: horizontal_flip, probability: 0.5}]}
"""
ARGUMENTS = shlex.split(
    "--image_size 32 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 48 "
    "--pooling_hidden_size 16 --pooling_dropout 0 --probe_dropout 0 --decoder_hidden_size 16 --patch_size 8 "
    "--decoder_num_hidden_layers 1 --decoder_num_attention_heads 2 --decoder_intermediate_size 24 "
    "--projection_hidden_sizes 24 24 --projection_size 8 --antibodies_per_batch 4 --cells_per_antibody 2 "
    "--dataloader_num_workers 0 --per_device_eval_batch_size 4 --use_cpu true --warmup_epochs 1 --num_train_epochs 6 "
    "--eval_epochs 6 --save_steps 6 --logging_steps 1 --disable_tqdm true --run_page false "
    "--channel_tokens separate --channel_masking apart --channel_sampling true --protein_probability 0.5 "
    "--other_probability 0.3"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards and view settings."""
    folder = tmp_path_factory.mktemp("data")
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=3, size_px=32)
    write_synthetic(folder / "shards", source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))
    (folder / "views.yaml").write_text(VIEWS)
    return folder / "shards", folder / "views.yaml"


def _words(data: tuple[Path, Path], folder: Path, *words: str) -> list[str]:
    return [*ARGUMENTS, "--shards", str(data[0]), "--views", str(data[1]), "--output_dir", str(folder), *words]


def test_each_number_of_channels_is_as_likely() -> None:
    draws = [
        ChannelSampling(protein_probability=1.0, other_probability=0.0).draw(CHANNELS, seed) for seed in range(4000)
    ]
    assert all(shown.channels[-1] == "green" and shown.channels == shown.names for shown in draws)
    assert all(list(shown.channels) == sorted(shown.channels, key=CHANNELS.index) for shown in draws)
    counts = Counter(len(shown.channels) for shown in draws)
    expected = ChannelSampling().counts(4)
    assert sum(expected.values()) == pytest.approx(1)
    assert {count: counts[count] / 4000 for count in expected} == pytest.approx(expected, abs=0.03)
    assert len(set(draws)) == 8  # every set with the protein


def test_probabilities_of_the_protein_and_of_other() -> None:
    sampling = ChannelSampling(protein_probability=0.6, other_probability=0.25)
    draws = [sampling.draw(CHANNELS, seed) for seed in range(4000)]
    assert len({shown.channels for shown in draws}) == 15  # every set that is not empty
    assert sum("green" in shown.channels for shown in draws) / 4000 == pytest.approx(0.6, abs=0.03)
    assert {c: sum(len(s.channels) == c for s in draws) / 4000 for c in range(1, 5)} == pytest.approx(
        sampling.counts(4), abs=0.03
    )
    stains = [name for shown in draws for name in shown.names if name != "green"]
    assert sum(name.startswith("other") for name in stains) / len(stains) == pytest.approx(0.25, abs=0.03)
    assert all(len(set(shown.names)) == len(shown.channels) for shown in draws)
    assert sampling.draw(["green"], 0).channels == ("green",)


@pytest.mark.slow
def test_two_processes_and_a_resumed_run_take_the_steps_of_one(data: tuple[Path, Path], tmp_path: Path) -> None:
    """Losses of steps without the protein are fewer; no process waits for the gradients of the others."""
    one, two, again = (tmp_path / name for name in ("one", "two", "again"))
    run_ranks(1, PRETRAIN, *_words(data, one, "--save_steps", "4"), log=one.with_suffix(".log"))
    run_ranks(2, PRETRAIN, *_words(data, two), log=two.with_suffix(".log"))
    resumed = ["--resume_from_checkpoint", str(one / "checkpoint-4")]
    run_ranks(1, PRETRAIN, *_words(data, again, *resumed), log=again.with_suffix(".log"))
    lines, found_lines = (
        json.loads((folder / "trainer_state.json").read_text())["log_history"]
        for folder in (one / "checkpoint-12", two / "checkpoint-12")
    )
    losses = [name for line in lines for name in line if name.startswith("loss_")]
    assert 0 < losses.count("loss_protein_contrast") < losses.count("loss_reconstruction")
    for expected, found in zip(lines, found_lines, strict=True):
        for name in expected:
            if name.startswith("loss") or name == "grad_norm":
                assert found[name] == pytest.approx(expected[name], rel=2e-5), name
    weights = load_file(one / "checkpoint-12" / "model.safetensors")
    shared, continued = (load_file(folder / "checkpoint-12" / "model.safetensors") for folder in (two, again))
    for name, values in weights.items():
        torch.testing.assert_close(shared[name], values, atol=2e-5, rtol=2e-4, msg=name)
        assert torch.equal(continued[name], values), name
    processor = SubCellImageProcessor.from_pretrained(one / "model")
    assert (processor.channel_tokens, processor.normalize) == ("separate", "channel")
    record = json.loads((one / "model" / "training_record.json").read_text())["hyperparameters"]
    assert (record["channel_masking"], record["protein_probability"]) == ("apart", 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--channel_tokens", "joint", "--channel_masking", "together"], "--channel_tokens separate"),
        (["--channel_sampling", "false"], "need channel_sampling"),
        (["--protein_probability", "0"], "above 0 to 1"),
        (["--other_probability", "1.5"], "0 to 1"),
        (["--views", "multi_task"], "scaling: channel"),
        (["--reconstruction_weight", "0", "--cell_contrast_weight", "0"], "nothing trains the encoder"),
    ],
)
def test_what_cannot_work_is_refused(words: list[str], message: str, data: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        resolve(parse_arguments(_words(data, tmp_path, *words)), world_size=1)


def test_a_dry_run_states_the_cost_of_the_channels_shown(data: tuple[Path, Path], tmp_path: Path) -> None:
    sampled = describe_run(resolve(parse_arguments(_words(data, tmp_path)), world_size=1))
    assert sampled["data"]["channel_sampling"] == {"protein_probability": 0.5, "other_probability": 0.3}
    plain = ARGUMENTS[: ARGUMENTS.index("--channel_sampling")]
    words = [*plain, "--shards", str(data[0]), "--views", str(data[1]), "--output_dir", str(tmp_path)]
    every = describe_run(resolve(parse_arguments(words), world_size=1))
    assert every["data"]["channel_sampling"] is None
    ratio = sampled["cost"]["training_gflop_per_cell"] / every["cost"]["training_gflop_per_cell"]
    assert 0.4 < ratio < 0.7  # 2.25 of 4 channels on average, of which the heads' share does not depend
    assert sampled["cost"]["memory_gib_per_process"] == every["cost"]["memory_gib_per_process"]
