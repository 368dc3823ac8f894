"""Fine-tune a SubCell on labelled crops of your own.

accelerate launch recipes/finetune.py recipes/configs/finetune.yaml --init_checkpoint MODEL --data CROPS [--name value]
"""

import json
import sys
from collections.abc import Sequence

import torch

from subcell_hf.process import run_plainly
from subcell_hf.progress import hide_weight_bars
from subcell_hf.training.finetuning.finetuning import FineTuner
from subcell_hf.training.finetuning.finetuning_arguments import parse_fine_tuning
from subcell_hf.training.finetuning.finetuning_resolution import resolve_fine_tuning


def main(arguments: Sequence[str]) -> None:
    """Parse, build, run."""
    hide_weight_bars()
    torch.set_float32_matmul_precision("high")
    run = resolve_fine_tuning(parse_fine_tuning(arguments))
    if run.training.process_index == 0:
        print(json.dumps(run.describe(), indent=1, ensure_ascii=False))
    if run.training.dry_run:
        return
    tuner = FineTuner(run)
    resume = run.training.resume_from_checkpoint
    tuner.train(resume_from_checkpoint=True if resume in ("true", "True") else resume)
    if tuner.interrupted:
        if tuner.is_world_process_zero():
            print(
                f"Stopped on request after step {tuner.state.global_step}. Resume with --resume_from_checkpoint true."
            )
        return
    folder = tuner.save_final_model()
    if tuner.is_world_process_zero():
        print(f"{folder} loads with AutoModelForImageClassification and AutoImageProcessor.")


if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
