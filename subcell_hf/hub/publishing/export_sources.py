"""Where the facts of a model card come from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from subcell_hf.settings import Setting


@dataclass(frozen=True)
class ExportSources:
    """Where the facts of a card come from; all are optional.

    Attributes:
        run: Folder of the training run; default: the files beside the model.
        evaluations: Output folder of `subcell evaluate` whose results are added to the card; repeatable.
        variant: For converted weights: name of the published model, such as mae-rybg. In Python, too, it is known
            of models that were fetched by name.
        facts: YAML file with fields of the card, which win: training_data, recipe, license, ….
    """

    run: Path | None = None
    evaluations: Annotated[tuple[Path, ...], Setting("--evaluation")] = ()
    variant: str | None = None
    facts: Path | None = None
