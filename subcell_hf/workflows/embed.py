"""`subcell_hf.embed`: images in, a table out, in a notebook."""

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.images.metadata_columns import metadata_table, renamed_columns
from subcell_hf.images.tables import METADATA_FILE, read_column_names
from subcell_hf.inference.engine.embedding import EmbedSettings, Processes, embed_cells
from subcell_hf.inference.models.loading import find_models, for_given_crops
from subcell_hf.inference.sources.cell_sources import ArrayCells
from subcell_hf.inference.sources.recognition import SourceOptions, open_source
from subcell_hf.tables.files import EmbeddingTable, read_table
from subcell_hf.types import FieldCrops

_CELLS_PER_BLOCK = 64


def embed(
    images: Any,
    model: str | Path,
    *,
    models: str | None = None,
    channels: Sequence[str] | None = None,
    pixel_size_um: float | None = None,
    cell_masks: Any = None,
    protein_channels: Sequence[str] = (),
    output: str | Path | None = None,
    options: SourceOptions | None = None,
    **settings: Any,
) -> EmbeddingTable:
    """Embed cells, and locate their protein where the model has a classifier.

    Example:
        ```python
        import subcell_hf

        table = subcell_hf.embed("images", model="subcell-rybg")
        table.cells[["cell_id", "top_location_1"]]
        ```

    Args:
        images: A path: whatever `subcell embed` takes. Or crops in memory: `[cells, channels, height, width]`, or a
            list of `[channels, height, width]`, numpy or torch.
        model: Folder, Hub id, or `"auto"` with `models`.
        models: With `"auto"`: folder of models, or their owner on the Hub.
        channels: Names of the planes of arrays; default: the model's.
        pixel_size_um: Edge of a pixel of arrays in micrometres; default: the model's.
        cell_masks: Of arrays: `[cells, height, width]`, True inside.
        protein_channels: Planes that take the protein's place in turn.
        output: Folder of the run, as `subcell embed` writes it; default: none is kept.
        options: For a path: how images are read and cropped.
        **settings: Fields of `EmbedSettings`: `device`, `precision`, `batch_size`, `workers`, `progress`, ….

    Returns:
        The table. What was skipped is warned of, and listed in `provenance["skipped"]`.

    Raises:
        InputError: If nothing can be embedded, or an argument cannot work.
    """
    options = options or SourceOptions()
    found = find_models(str(model), models=models, proteins=protein_channels, crop_px=options.crop_px)
    if isinstance(images, str | Path):
        if channels is not None or pixel_size_um is not None or cell_masks is not None:
            raise InputError("channels, pixel_size_um and cell_masks describe arrays; for a path use options=….")
        source, found, _ = open_source(images, found, options)
        _warn_of_renamed(Path(images), options.reading.metadata)
    else:
        found = for_given_crops(found)
        variants = tuple(item.variant for item in found)
        names = tuple(channels) if channels is not None else variants[0].planes
        crops = _blocks(images, names, pixel_size_um or variants[0].pixel_size_um, cell_masks)
        source = ArrayCells(crops, variants, has_masks=cell_masks is not None)
    with tempfile.TemporaryDirectory(prefix="subcell-") as temporary:
        folder = Path(output) if output is not None else Path(temporary) / "run"
        chosen = EmbedSettings(**{"h5ad": output is not None, **settings})
        report = embed_cells(source, found, folder, chosen, processes=Processes())
        table = read_table(folder)
    if report.skipped:
        warnings.warn(f"{len(report.skipped)} inputs were skipped, the first: {report.skipped[0]}", stacklevel=2)
    skipped = [{"input": name, "reason": reason} for name, reason in report.skipped]
    return replace(table, provenance={**table.provenance, "skipped": skipped})


def _warn_of_renamed(images: Path, metadata: Path | None) -> None:
    path = metadata_table(images, metadata, METADATA_FILE)
    renamed = {} if path is None else renamed_columns(read_column_names(path))
    if renamed:
        pairs = ", ".join(f"{other} ({name!r})" for name, other in renamed.items())
        warnings.warn(f"{path} has columns whose names our tables need; kept as {pairs}.", stacklevel=3)


def _blocks(images: Any, channels: tuple[str, ...], pixel_size_um: float, cell_masks: Any) -> tuple[FieldCrops, ...]:
    """Crops in memory, cut into blocks of one size."""
    crops = [_array(image) for image in (images if isinstance(images, list | tuple) else list(_array(images)))]
    masks = None if cell_masks is None else [np.asarray(_array(mask), np.bool_) for mask in cell_masks]
    if not crops or (masks is not None and len(masks) != len(crops)):
        raise InputError(f"Got {len(crops)} crops and {0 if masks is None else len(masks)} masks, expected as many.")
    blocks, width = [], len(str(len(crops) - 1))
    start = 0
    for stop in range(1, len(crops) + 1):
        same = stop < len(crops) and crops[stop].shape == crops[start].shape and crops[stop].dtype == crops[start].dtype
        if same and stop - start < _CELLS_PER_BLOCK:
            continue
        shape = crops[start].shape
        if len(shape) != 3 or shape[0] != len(channels):
            raise InputError(
                f"Crop {start} has shape {shape}, expected [{len(channels)}, height, width] with the planes "
                f"{', '.join(channels)}. Name other planes by channels=[…]."
            )
        inside = np.ones((stop - start, *shape[1:]), np.bool_) if masks is None else np.stack(masks[start:stop])
        records = tuple({"cell_id": f"{number:0{width}d}", "field_of_view": ""} for number in range(start, stop))
        name = f"crops {start}"
        blocks.append(FieldCrops(name, np.stack(crops[start:stop]), inside, channels, pixel_size_um, records))
        start = stop
    return tuple(blocks)


def _array(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)
