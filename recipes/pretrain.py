"""Pretrain SubCell from shards.

accelerate launch recipes/pretrain.py recipes/configs/mae_cell_protein_contrast.yaml --shards FOLDER [--name value …]
"""

import json
import sys
from collections.abc import Sequence

import torch

from subcell_hf.process import run_plainly
from subcell_hf.progress import hide_weight_bars
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.dry_run import describe_run
from subcell_hf.training.pretraining.resolution import resolve
from subcell_hf.training.pretraining.trainer import PreTrainer


def main(arguments: Sequence[str]) -> None:
    """Parse, build, run."""
    hide_weight_bars()
    torch.set_float32_matmul_precision("high")  # TF32 where the device has it, as in the published training
    run = resolve(parse_arguments(arguments))
    if run.training.process_index == 0:
        print(json.dumps(describe_run(run), indent=1, ensure_ascii=False))
    if run.training.dry_run:
        return
    trainer = PreTrainer(run.build_model(), run.training, run.data)
    resume = run.training.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume in ("true", "True") else resume)
    if trainer.interrupted:
        if trainer.is_world_process_zero():
            print(
                f"Stopped on request after step {trainer.state.global_step} and saved. Resume with "
                "--resume_from_checkpoint true."
            )
        return
    if run.training.push_to_hub:
        trainer.push_to_hub()
    else:
        trainer.save_final_model()


if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
