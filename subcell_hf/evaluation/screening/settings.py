"""What is asked of a screen."""

from dataclasses import dataclass, field
from typing import Annotated

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.postprocessing import PostProcessing
from subcell_hf.settings import Setting, column_values

DEFAULT_CONTROLS = (("control_type", "negcon"),)
DEFAULT_POSITIVE_CONTROLS = (("control_type", "poscon"),)
NO_COUNTS = "none"


@dataclass(frozen=True)
class ScreenSettings:
    """How a screen is read and judged.

    Attributes:
        treatment_column: Column that names the treatment of a well.
        dose_column: Column of doses, one unit throughout; the default is used where the table has it.
        controls: COLUMN=VALUE of negative controls; repeatable; default: control_type=negcon.
        positive_controls: COLUMN=VALUE of positive controls; repeatable; default: control_type=poscon, where there are
            any.
        mechanism_column: Column of the mechanisms of reference treatments; the default is used where the table has it.
        count_column: Column of the number of cells per row; default: cell_count, or the number of rows where rows are
            cells; none: ignore cell counts.
        rows_are_cells: Rows are cells, which are averaged and counted, though no column names them.
        steps: Processing of profiles. Steps that are fitted on controls take half of them; the others are compared
            with.
        correct_position: Subtract effects of outer wells, rows and columns on every plate.
        min_cells: Wells with fewer cells are named.
        level: False discovery rate of the hits.
        permutations: Largest number of permutations for each p-value.
        judge_batches: Compare ways of batch correction on treatments that none of them was fitted on.
        seed: Random seed; the same seed gives identical output.
    """

    treatment_column: str = "treatment"
    dose_column: str = "dose"
    controls: Annotated[tuple[tuple[str, str], ...], Setting("--control", parse=column_values, repeatable=True)] = (
        DEFAULT_CONTROLS
    )
    positive_controls: Annotated[
        tuple[tuple[str, str], ...], Setting("--positive-control", parse=column_values, repeatable=True)
    ] = DEFAULT_POSITIVE_CONTROLS
    mechanism_column: str = "mechanism"
    count_column: str | None = None
    rows_are_cells: bool = False
    steps: PostProcessing = field(default_factory=PostProcessing)
    correct_position: bool = False
    min_cells: int = 20
    level: float = 0.05
    permutations: int = 10_000
    judge_batches: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            InputError: If the level is not between 0 and 1, or there are fewer than 99 permutations.
        """
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level}, expected a rate between 0 and 1, such as 0.05.")
        if self.permutations < 99:
            raise InputError(f"permutations is {self.permutations}, expected at least 99.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected 0 or more.")
