"""Options for speed and memory take the steps of the plain run, or are refused."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from subcell_hf.errors import InputError
from subcell_hf.model import modeling_subcell
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import resolve
from subcell_hf.training.pretraining.trainer import PreTrainer
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
SMALL = shlex.split(
    "--image_size 32 --hidden_size 32 --num_hidden_layers 2 --num_attention_heads 2 --intermediate_size 48 "
    "--pooling_hidden_size 16 --decoder_hidden_size 16 --decoder_num_hidden_layers 1 --decoder_num_attention_heads 2 "
    "--decoder_intermediate_size 24 --projection_hidden_sizes 24 24 --projection_size 8 --antibodies_per_batch 4 "
    "--cells_per_antibody 2 --dataloader_num_workers 0 --use_cpu true --warmup_epochs 0 --max_steps 3 "
    "--validation_split none --save_strategy no --logging_steps 1 --disable_tqdm true --picture_epochs 0 "
    "--run_page false"
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=8, fields_per_antibody=1, cells_per_field=4, size_px=32)
    write_synthetic(folder, source, ShardSettings(split_fractions={"train": 1.0}))
    return folder


def losses(shards: Path, folder: Path, *words: str) -> list[float]:
    arguments = [*SMALL, "--shards", str(shards), "--output_dir", str(folder), *words]
    run = resolve(parse_arguments(arguments), world_size=1)
    trainer = PreTrainer(run.build_model(), run.training, run.data)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


@pytest.fixture(scope="module")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(shards, tmp_path_factory.mktemp("plain"))


def test_bf16_follows_fp32(shards: Path, plain: list[float], tmp_path: Path) -> None:
    found = losses(shards, tmp_path, "--bf16", "true")
    assert found == pytest.approx(plain, rel=0.02)
    assert found != plain


def test_checkpointing_changes_no_number(shards: Path, plain: list[float], tmp_path: Path) -> None:
    assert losses(shards, tmp_path, "--gradient_checkpointing", "true") == pytest.approx(plain, rel=1e-6)


def test_compilation_changes_no_number(shards: Path, plain: list[float], tmp_path: Path) -> None:
    words = ["--torch_compile", "true", "--torch_compile_backend", "aot_eager"]  # without a C++ compiler
    assert losses(shards, tmp_path, *words) == pytest.approx(plain, rel=1e-5)


def test_attention_of_few_tokens_in_bf16_is_that_of_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SubCellConfig(image_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    attention = modeling_subcell.SubCellAttention(config, 32, 2).bfloat16()
    config._attn_implementation = "sdpa"
    tokens = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    found = []
    for most in (320, 0):
        monkeypatch.setattr(modeling_subcell, "_EAGER_TOKENS", most)
        tokens.grad = None
        output, _ = attention(tokens, False)
        output.float().square().sum().backward()
        found.append((output.detach().float(), tokens.grad.float()))
    assert not torch.equal(found[0][1], found[1][1])  # two ways of computing
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, atol=0.02 * float(second.abs().max()), rtol=0)


@pytest.mark.parametrize(("name", "message"), [("fp16", "fp16 requires a GPU"), ("tf32", "tf32 requires Ampere")])
def test_what_a_cpu_cannot_do_is_refused(name: str, message: str, shards: Path, tmp_path: Path) -> None:
    arguments = [*SMALL, "--shards", str(shards), "--output_dir", str(tmp_path), f"--{name}", "true"]
    with pytest.raises(InputError, match=message):
        resolve(parse_arguments(arguments), world_size=1)


@pytest.mark.slow
def test_the_benchmark_of_a_step_runs_and_agrees_with_its_reference(tmp_path: Path) -> None:
    done = Forked(str(ROOT / "benchmarks" / "train_step.py"), "--quick", log=tmp_path / "log")
    assert done.wait() == 0, done.output[-2000:]
    result = json.loads(done.output.splitlines()[-1])
    assert result["name"] == "train_step"
    assert result["ratio"] > 0
    assert [row["global_cells"] for row in result["figures"]["scaling"]] == [16, 32, 64]
