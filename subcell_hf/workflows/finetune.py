"""Fine-tuning: a trained model and labelled crops in, a classifier of custom classes out.

accelerate launch -m subcell_hf.workflows.finetune finetune --init_checkpoint MODEL --data CROPS [--name value …]
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subcell_hf.process import run_plainly
from subcell_hf.progress import hide_weight_bars
from subcell_hf.training.finetuning.finetuning import FineTuner
from subcell_hf.training.finetuning.finetuning_arguments import ParsedFineTuning, parse_fine_tuning
from subcell_hf.training.finetuning.finetuning_resolution import resolve_fine_tuning
from subcell_hf.training.precision import tf32_products
from subcell_hf.training.pretraining.arguments import as_words
from subcell_hf.workflows.training_result import TrainingResult, announce, train_to_end, warn_of_slow_bf16

logger = logging.getLogger("subcell_hf.workflows.finetune")  # also where this file is the program that runs


def finetune(recipe: str | Path | None = None, **arguments: Any) -> TrainingResult:
    """Fine-tune a SubCell on labelled crops.

    Example:
        ```python
        from subcell_hf.workflows import finetune

        result = finetune("finetune", init_checkpoint="model", data="shards", num_train_epochs=5)
        print(result.model, result.log[-1])
        ```

    Args:
        recipe: Path of a YAML file, or the name of a recipe that comes with the package (`finetune`); None for the
            defaults.
        **arguments: Override the recipe: fields of `StartArguments`, `LabelledDataArguments` and
            `FineTuningArguments` (with those of transformers' `TrainingArguments`).

    Raises:
        InputError: If an argument is unknown, or arguments contradict each other, the data or the model; the message
            names argument and remedy.
    """
    start = [] if recipe is None else [str(recipe)]
    return run_finetuning(parse_fine_tuning([*start, *as_words(arguments)]))


def run_finetuning(settings: ParsedFineTuning) -> TrainingResult:
    """Fine-tune as typed settings say; with `dry_run`, only describe what would be done.

    Args:
        settings: From `parse_fine_tuning`.

    Raises:
        InputError: If arguments contradict each other, the data or the model.
    """
    with tf32_products():
        run = resolve_fine_tuning(settings)
        description = run.describe()
        announce(description, process_index=run.training.process_index)
        warn_of_slow_bf16(run.training, run.config)
        if run.training.dry_run:
            return TrainingResult(description, Path(str(run.training.output_dir)))
        result = train_to_end(FineTuner(run), description)
    if result.model is not None and run.training.process_index == 0:
        logger.info(f"Load {result.model} with AutoModelForImageClassification and AutoImageProcessor.")
    return result


def main(arguments: Sequence[str]) -> None:
    """Fine-tune as a command line says: the recipe, then `--name value` pairs.

    Args:
        arguments: As in `sys.argv[1:]`.
    """
    hide_weight_bars()
    run_finetuning(parse_fine_tuning(arguments))


if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
