"""How an input of cells is to be understood, on the command line and in `run.json`."""

from dataclasses import dataclass, field
from typing import Annotated

from subcell_hf.cells.published.choice import CellChoice
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.settings import Setting


@dataclass(frozen=True)
class SourceOptions:
    """How an input is to be understood.

    Attributes:
        reading: How images are read.
        filters: Which cells of a field are left out.
        segmentation: Segmentation of fields without masks: watershed, cellpose, stardist, or a Python function,
            file.py:function or module:function.
        single_cells: Whether each image shows one cell or many; default: one if it fits into the window of the model
            and has no mask.
        split: For shards and hpa: use only the cells of this split.
        crop_px: Width of the window around a cell, in pixels of the model.
        choice: Which of the published cells are used.
    """

    reading: ReadingOptions = field(default_factory=ReadingOptions)
    filters: CropSettings = field(default_factory=CropSettings)
    segmentation: str = "watershed"
    single_cells: Annotated[bool | None, Setting("--single-cells/--fields-of-view")] = None
    split: str | None = None
    crop_px: Annotated[int | None, Setting("--crop-size-px", minimum=16)] = None
    choice: CellChoice = field(default_factory=CellChoice)
