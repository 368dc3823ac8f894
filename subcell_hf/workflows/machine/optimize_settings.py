"""How a model is quantized and judged; apart from the workflow, whose libraries the help of a command does not need."""

from dataclasses import dataclass, field
from typing import Annotated

from subcell_hf.errors import InputError
from subcell_hf.evaluation.comparison.agreement import AgreementLimits
from subcell_hf.settings import Setting

FEWEST_CALIBRATED, FEWEST_JUDGED = 8, 20
"""Numbers of cells below which nothing is calibrated, and nothing is said of a model."""


@dataclass(frozen=True)
class OptimizeSettings:
    """How a model is quantized and judged.

    Attributes:
        calibration_cells: Maximum number of cells to calibrate on.
        judged_cells: Maximum number of other cells to judge the result on.
        limits: The least agreement with the float model that is accepted.
        seed: Seed of the order in which cells are drawn.
    """

    calibration_cells: Annotated[int, Setting(minimum=FEWEST_CALIBRATED)] = 100
    judged_cells: Annotated[int, Setting(minimum=FEWEST_JUDGED)] = 300
    limits: AgreementLimits = field(default_factory=AgreementLimits)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers of cells from which nothing follows.

        Raises:
            InputError: Naming the setting.
        """
        for name, least in (("calibration_cells", FEWEST_CALIBRATED), ("judged_cells", FEWEST_JUDGED)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}.")
