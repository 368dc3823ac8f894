"""Every recipe that comes with the package takes real steps, made small on the command line, on one process and two."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel

from subcell_hf.errors import InputError
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.recipes import list_recipes
from subcell_hf.workflows.pretrain import main, pretrain
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import run_ranks

RECIPES = [recipe.name for recipe in list_recipes("pretrain")]
STEPS = 3
SHRUNK = shlex.split(
    "--image_size 32 --patch_size 16 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 "
    "--intermediate_size 48 --pooling_hidden_size 16 --pooling_num_heads 4 --decoder_hidden_size 16 "
    "--decoder_num_hidden_layers 1 --decoder_num_attention_heads 2 --decoder_intermediate_size 24 "
    "--projection_hidden_sizes 24 24 --projection_size 8 --centroid_hidden_sizes 24 --probe_hidden_sizes 16 "
    "--pooling_dropout 0 --probe_dropout 0 --antibodies_per_batch 4 --cells_per_antibody 2 --warmup_epochs 0 "
    f"--max_steps {STEPS} --eval_steps {STEPS} --save_steps {STEPS} --logging_steps 1 --picture_epochs 0 "
    "--run_page false --dataloader_num_workers 0 --use_cpu true --disable_tqdm true"
)


def _words(recipe: str, shards: Path, output: Path) -> list[str]:
    return [recipe, "--shards", str(shards), *SHRUNK, "--output_dir", str(output)]


def _log(run: Path) -> list[dict[str, Any]]:
    state = json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text(encoding="utf-8"))
    lines: list[dict[str, Any]] = state["log_history"]
    return lines


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=3, size_px=32)
    write_synthetic(folder, source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))
    return folder


@pytest.fixture(scope="module")
def on_one(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for name in RECIPES:
        main(_words(name, shards, folder / name))
    return folder


@pytest.fixture(scope="module")
def on_two(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    lines = folder / "command_lines.json"
    lines.write_text(json.dumps([_words(name, shards, folder / name) for name in RECIPES]), encoding="utf-8")
    script = str(Path(__file__).parent / "launched_recipes.py")
    run_ranks(2, script, str(lines), log=folder / "log")
    return folder


def _check(run: Path) -> None:
    lines = _log(run)
    assert [line["step"] for line in lines if "loss" in line] == [*range(1, STEPS + 1)]
    losses = {f"{line['step']} {name}": line[name] for line in lines for name in line if "loss" in name}
    assert all(map(math.isfinite, losses.values())), losses
    assert AutoModel.from_pretrained(run / f"checkpoint-{STEPS}").config.hidden_size == 32
    assert AutoModel.from_pretrained(run / "model").config.hidden_size == 32


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_steps_on_one_process(name: str, on_one: Path) -> None:
    _check(on_one / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_steps_on_two_processes(name: str, on_two: Path) -> None:
    _check(on_two / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_have_the_losses_of_one(name: str, on_one: Path, on_two: Path) -> None:
    for expected, found in zip(_log(on_one / name), _log(on_two / name), strict=True):
        names = [key for key in expected if "loss" in key or key in ("grad_norm", "eval_macro_auprc")]
        assert names
        for key in names:
            assert found[key] == pytest.approx(expected[key], rel=1e-4), key


def test_in_a_notebook(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keyword arguments of any kind are those of the command line, and the result says where the model is."""
    small: dict[str, Any] = {
        "image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
        "pooling_hidden_size": 16, "projection_hidden_sizes": [24, 24], "projection_size": 8, "channels": "bg",
        "antibodies_per_batch": 4, "cells_per_antibody": 2, "dataloader_num_workers": 0, "use_cpu": True,
        "max_steps": 2, "logging_steps": 1, "warmup_epochs": 0, "run_page": False, "picture_epochs": 0,
        "disable_tqdm": True, "learning_rate": None, "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1e-6},
    }  # fmt: skip
    described = pretrain("cell", shards=shards, output_dir=tmp_path / "run", dry_run=True, **small)
    assert (described.model, described.steps) == (None, 0)
    assert described.description["training"]["total_steps"] == 2
    assert not (tmp_path / "run").exists()
    result = pretrain("cell", shards=shards, output_dir=tmp_path / "run", **small)
    assert (result.steps, result.stopped, result.model) == (2, False, tmp_path / "run" / "model")
    assert AutoModel.from_pretrained(result.model).config.channels == ["blue", "green"]
    assert [line["step"] for line in result.log if "loss" in line] == [1, 2]
    with pytest.raises(InputError, match="did you mean mask_ratio"):
        pretrain("cell", mask_ration=0.5)


def test_an_unknown_recipe_lists_those_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"no recipe quick: .*cell_protein, .*quickstart, small, supervised\. `subcell"
    ):
        pretrain("quick")
    monkeypatch.chdir(tmp_path)
    Path("cell").write_text("nonsense: 1", encoding="utf-8")  # a file of the user's wins over a name
    with pytest.raises(InputError, match="Unknown argument 'nonsense'"):
        pretrain("cell")
