"""From fields of view to a folder of crops: what `subcell crops` runs."""

from pathlib import Path

from subcell_hf.cells.cropping import CropReport, crop_fields
from subcell_hf.cells.folder import read_crops_json
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.workflows.notes import (
    note_doubtful_channels,
    note_pixel_sizes,
    note_renamed_columns,
    note_unused,
)


def crop_images(
    source: str | Path,
    output: str | Path,
    *,
    settings: CropSettings | None = None,
    reading: ReadingOptions | None = None,
    segmentation: str = "watershed",
    boxes: str | Path | None = None,
    workers: int = 1,
    strict: bool = False,
    progress: bool = True,
    engine: str = "local",
) -> CropReport:
    """Crop all cells of a source as `crop_fields` does, and log what its user should know about the images.

    Warned of and logged are renamed metadata columns, assumed pixel sizes, doubtful channels and unused images.

    Args:
        source: Folder of images, one image, or a table that lists them.
        output: Folder to write; new, empty, or of an earlier run with the same settings, which is resumed.
        settings: Sizes and filters; None: those of the published models.
        reading: How to read the images.
        segmentation: `"watershed"`, `"cellpose"`, `"stardist"` or `"module:function"`, for fields without masks or
            boxes; see `segment_cells`.
        boxes: Table of bounding boxes: `field_of_view,cell_id,top,left,height,width` in pixels.
        workers: Number of processes.
        strict: Whether to stop at the first field that cannot be used.
        progress: Whether to show progress on stderr.
        engine: `"local"`, or `"ray"`.

    Returns:
        Numbers of fields and cells, and what was skipped.

    Raises:
        InputError: If no field can be used, the folder holds something else, or, when strict, at the first bad field.
        KilledWorkerError: If a worker process was killed.
    """
    source, output = Path(source), Path(output)
    boxes = None if boxes is None else Path(boxes)
    reading = reading or ReadingOptions()
    note_renamed_columns(str(source), reading)
    report = crop_fields(
        source,
        output,
        settings=settings,
        reading=reading,
        segmentation=segmentation,
        boxes=boxes,
        workers=workers,
        strict=strict,
        progress=progress,
        engine=engine,
    )
    facts = read_crops_json(output)
    note_pixel_sizes(facts)
    note_doubtful_channels(facts.get("doubtful_channels", ()))
    note_unused(report.unused)
    return report
