"""Pretraining: shards and a recipe in, a model out.

accelerate launch -m subcell_hf.workflows.pretrain RECIPE --shards FOLDER [--name value …]
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subcell_hf.process import run_plainly
from subcell_hf.progress import hide_weight_bars
from subcell_hf.training.precision import tf32_products
from subcell_hf.training.pretraining.arguments import ParsedArguments, as_words, parse_arguments
from subcell_hf.training.pretraining.dry_run import describe_run
from subcell_hf.training.pretraining.resolution import resolve
from subcell_hf.training.pretraining.trainer import PreTrainer
from subcell_hf.workflows.training_result import TrainingResult, announce, train_to_end, warn_of_slow_bf16


def pretrain(recipe: str | Path | None = None, **arguments: Any) -> TrainingResult:
    """Pretrain a SubCell from shards.

    Example:
        ```python
        from subcell_hf.workflows import pretrain

        result = pretrain("quickstart", shards="shards", num_train_epochs=20)
        print(result.model, result.log[-1])
        ```

    Args:
        recipe: Path of a YAML file, or the name of a recipe that comes with the package (`list_recipes`); None for
            the defaults.
        **arguments: Override the recipe: fields of `ModelArguments`, `DataArguments`, `PreTrainingArguments` (with
            those of transformers' `TrainingArguments`) and `SubCellConfig`.

    Raises:
        InputError: If an argument is unknown, or arguments contradict each other, the data or the machine; the message
            names argument and remedy.
        OSError: If the shards cannot be read.
        FloatingPointError: If a loss or a gradient is not finite; nothing is updated then.
    """
    start = [] if recipe is None else [str(recipe)]
    return run_pretraining(parse_arguments([*start, *as_words(arguments)]))


def run_pretraining(settings: ParsedArguments) -> TrainingResult:
    """Pretrain as typed settings say; with `dry_run`, only describe what would be done.

    Args:
        settings: From `parse_arguments`.

    Raises:
        InputError: If arguments contradict each other, the data or the machine.
        OSError: If the shards cannot be read.
        FloatingPointError: If a loss or a gradient is not finite; nothing is updated then.
    """
    with tf32_products():
        run = resolve(settings)
        description = describe_run(run)
        announce(description, process_index=run.training.process_index)
        warn_of_slow_bf16(run.training, run.config)
        if run.training.dry_run:
            return TrainingResult(description, Path(str(run.training.output_dir)))
        return train_to_end(PreTrainer(run.build_model(), run.training, run.data), description)


def main(arguments: Sequence[str]) -> None:
    """Pretrain as a command line says: the recipe, then `--name value` pairs.

    Args:
        arguments: As in `sys.argv[1:]`.
    """
    hide_weight_bars()
    run_pretraining(parse_arguments(arguments))


if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
