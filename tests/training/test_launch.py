"""What starts training on many processes: the files are right, and launchers that would change training are refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin
from transformers import TrainingArguments

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.training.finetuning.finetuning_arguments import FineTuningArguments
from subcell_hf.training.pretraining.arguments import PreTrainingArguments
from subcell_hf.training.pretraining.launch_checks import check_launch, check_processes

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("name", "kind", "processes"),
    [("cpu", "NO", 1), ("single_gpu", "NO", 1), ("multi_gpu", "MULTI_GPU", 8), ("multi_node", "MULTI_GPU", 16),
     ("deepspeed_zero2", "DEEPSPEED", 8)],
)  # fmt: skip
def test_accelerate_reads_its_files(name: str, kind: str, processes: int) -> None:
    """Accelerate refuses keys that it does not know."""
    path = RECIPES / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert str(config.distributed_type).rsplit(".", 1)[-1] == kind
    assert (config.num_processes, config.use_cpu) == (processes, name == "cpu")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["num_machines"] == (2 if name == "multi_node" else 1)
    # No published batch would be cut unevenly.
    assert 112 % processes == 128 % processes == 0


def test_there_is_no_other_accelerate_file() -> None:
    names = {path.stem for path in (RECIPES / "accelerate").glob("*.yaml")}
    assert names == {"cpu", "single_gpu", "multi_gpu", "multi_node", "deepspeed_zero2"}


def test_deepspeed_reads_its_file() -> None:
    deepspeed_config = pytest.importorskip("deepspeed.runtime.config")
    settings = json.loads((RECIPES / "deepspeed" / "zero2.json").read_text(encoding="utf-8"))
    filled: dict[str, Any] = settings | {"train_micro_batch_size_per_gpu": 112, "gradient_accumulation_steps": 1,
                                         "gradient_clipping": 1.0}  # fmt: skip
    for precision in ("bf16", "fp16"):
        filled[precision] = {"enabled": precision == "bf16"}
    config = deepspeed_config.DeepSpeedConfig(filled)
    assert config.zero_config.stage == 2
    assert config.bfloat16_config.enabled
    plugin = DeepSpeedPlugin(hf_ds_config=str(RECIPES / "deepspeed" / "zero2.json"))
    assert plugin.zero_stage == 2


def test_the_slurm_script_starts_the_recipe() -> None:
    text = (RECIPES / "slurm" / "pretrain.sbatch").read_text(encoding="utf-8")
    config = re.search(r"--config_file (\S+)", text)
    assert config is not None
    assert (RECIPES.parent / config[1]).is_file()
    assert "-m subcell_hf.workflows.pretrain" in text


@pytest.mark.parametrize(
    ("stage", "precision", "weight", "message"),
    [
        (3, {}, 0.0, "DeepSpeed ZeRO-3 is not supported.*ZeRO-2"),
        (2, {"bf16": True}, 1.0, "protein_centroid_weight with DeepSpeed and bf16.*small steps vanish"),
        (2, {}, 1.0, None),
        (2, {"bf16": True}, 0.0, None),
    ],
)
def test_deepspeed_that_would_lose_the_teacher_is_refused(
    stage: int, precision: dict[str, bool], weight: float, message: str | None, tmp_path: Path
) -> None:
    training = PreTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **precision)
    training.deepspeed_plugin = DeepSpeedPlugin(zero_stage=stage)
    config = SubCellConfig(protein_centroid_weight=weight)
    if message is None:
        check_launch(training, config)
    else:
        with pytest.raises(InputError, match=message):
            check_launch(training, config)


def test_weights_in_pieces_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = PreTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"FSDP is not supported.*DDP"):
        check_launch(training, SubCellConfig())


@pytest.mark.parametrize("kind", [PreTrainingArguments, FineTuningArguments])
def test_processes_that_would_train_each_on_its_own_are_refused(
    kind: type[TrainingArguments], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer does not join the processes of a launcher on a CPU that it was not told of."""
    training = kind(output_dir=str(tmp_path), use_cpu=True)
    check_processes(training)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(
        InputError, match=r"2 processes were started.*each would train a separate model.*--use_cpu true"
    ):
        check_processes(training)


def test_parts_do_not_go_with_deepspeed(tmp_path: Path) -> None:
    training = PreTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, cached_gradient_chunks=2, per_device_train_batch_size=8
    )
    training.deepspeed_plugin = DeepSpeedPlugin(zero_stage=2)
    with pytest.raises(InputError, match="cached_gradient_chunks=2 cannot be combined with deepspeed"):
        check_launch(training, SubCellConfig())


def test_a_teacher_in_16_bits_would_stand_still() -> None:
    """Why it is refused: the published momentum moves weights by less than bfloat16 can tell apart."""
    teacher, student = torch.full((1000,), 1.0, dtype=torch.bfloat16), torch.full((1000,), 1.1, dtype=torch.bfloat16)
    before = teacher.clone()
    torch._foreach_lerp_([teacher], [student], 1 - 0.995)
    assert torch.equal(teacher, before)
