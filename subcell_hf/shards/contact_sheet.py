"""A picture of what is in a folder of shards: some antibodies, some cells of each."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from subcell_hf.errors import InputError, counted
from subcell_hf.ontology import CHANNEL_DISPLAY_RGB, PROTEIN_CHANNEL
from subcell_hf.pages.rendering import render_page
from subcell_hf.shards.reader import ShardReader
from subcell_hf.storage.atomic import write_atomically

THUMBNAIL_PX = 112
_LABEL_PX = 210
_GAP_PX = 2
_OTHER_RGB = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.7, 0.7, 0.0), (0.0, 0.7, 0.7), (0.7, 0.0, 0.7))
_DARK_PERCENTILE, _BRIGHT_PERCENTILE = 20, 99.7


def write_contact_sheet(reader: ShardReader, path: Path, *, antibodies: int = 12, cells_per_antibody: int = 8) -> None:
    """Draw cells of antibodies spread evenly over the list, and write the picture or a page around it.

    Above, all channels in their colours with the cell's outline; below, the protein channel alone. Each channel is
    stretched per antibody, so brightness can be compared within a row.

    Args:
        reader: The shards.
        path: `.png` for the picture, `.html` for a page that holds picture and figures and needs no other file.
        antibodies: Rows, at most.
        cells_per_antibody: Cells in a row, at most.

    Raises:
        InputError: If the file's ending is another one.
    """
    check_sheet_name(path)
    picture = io.BytesIO()
    draw_contact_sheet(reader, antibodies, cells_per_antibody).save(picture, "PNG")
    content = picture.getvalue() if path.suffix == ".png" else _page(reader, picture.getvalue())
    with write_atomically(path) as file:
        file.write(content)


def check_sheet_name(path: Path) -> None:
    """Refuse the name of a contact sheet before anything is done for it.

    Raises:
        InputError: If its ending is neither `.png` nor `.html`.
    """
    if path.suffix not in (".png", ".html"):
        raise InputError(f"A contact sheet is a .png or .html file, got {path}.")


def draw_contact_sheet(reader: ShardReader, antibodies: int, cells_per_antibody: int) -> Image.Image:
    """The picture of `write_contact_sheet`."""
    labels = np.unique(reader.cells.antibody)
    chosen = labels[np.unique(np.linspace(0, len(labels) - 1, min(antibodies, len(labels))).round().astype(int))]
    rows = [np.flatnonzero(reader.cells.antibody == label) for label in chosen]
    picked = [row[np.linspace(0, len(row) - 1, min(cells_per_antibody, len(row))).round().astype(int)] for row in rows]
    step = THUMBNAIL_PX + _GAP_PX
    width = _LABEL_PX + step * max(map(len, picked))
    sheet = Image.new("RGB", (width, len(picked) * (2 * step + 4 * _GAP_PX)), (24, 24, 24))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (label, cells) in enumerate(zip(chosen, picked, strict=True)):
        top = number * (2 * step + 4 * _GAP_PX)
        pen.multiline_text((8, top + 6), _caption(reader, int(label), rows[number]), fill=(230, 230, 230), font=font)
        pixels, cell_masks = reader.read(cells)
        stretched = _stretch(pixels)
        for position in range(len(cells)):
            left = _LABEL_PX + position * step
            composite = _composite(stretched[position], reader.index.crop_format.channels, cell_masks[position])
            protein = stretched[position, _protein(reader.index.crop_format.channels)]
            sheet.paste(_thumbnail(composite), (left, top))
            sheet.paste(_thumbnail(np.repeat(protein[..., None], 3, -1)), (left, top + step))
    return sheet


def _stretch(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Channels from their dark to their bright percentile as [0, 1], over all cells given."""
    low = np.percentile(pixels, _DARK_PERCENTILE, axis=(0, 2, 3), keepdims=True).astype(np.float32)
    high = np.percentile(pixels, _BRIGHT_PERCENTILE, axis=(0, 2, 3), keepdims=True).astype(np.float32)
    stretched: npt.NDArray[np.float32] = (pixels.astype(np.float32) - low) / np.maximum(high - low, 1e-6)
    return stretched.clip(0, 1)


def _protein(channels: Sequence[str]) -> int:
    return channels.index(PROTEIN_CHANNEL) if PROTEIN_CHANNEL in channels else len(channels) - 1


def _composite(
    planes: npt.NDArray[np.float32], channels: Sequence[str], cell_mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """`[height, width, 3]`: channels added in their colours, the mask's outline in white."""
    colours = [CHANNEL_DISPLAY_RGB.get(name, _OTHER_RGB[i % len(_OTHER_RGB)]) for i, name in enumerate(channels)]
    rgb: npt.NDArray[np.float32] = np.einsum("chw,cr->hwr", planes, np.array(colours, np.float32)).clip(0, 1)
    inner = cell_mask.copy()
    for axis in (0, 1):
        for shift in (-2, 2):
            inner &= np.roll(cell_mask, shift, axis)
    rgb[cell_mask & ~inner] = 1.0
    return rgb


def _thumbnail(rgb: npt.NDArray[np.float32]) -> Image.Image:
    picture = Image.fromarray((rgb * 255).astype(np.uint8))
    return picture.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)


def _caption(reader: ShardReader, label: int, rows: npt.NDArray[np.int64]) -> str:
    """Antibody, gene, locations and counts, one to a line."""
    index, cells = reader.index, reader.cells
    targets = cells.location_sets[cells.location_set[rows]].max(0)
    locations = [index.classes[position] for position in np.flatnonzero(targets)]
    lines = [f"{index.antibodies[label]}  {index.genes[label]}"[:28], *(name[:28] for name in locations[:5])]
    lines += [f"… {len(locations) - 5} more"] if len(locations) > 5 else []
    fields, lines_of_cells = len(np.unique(cells.field_of_view[rows])), np.unique(cells.cell_line[rows])
    lines.append(f"{counted(len(rows), 'cell')}, {counted(fields, 'field')}")
    lines.append(", ".join(index.cell_lines[line] for line in lines_of_cells)[:28])
    split = [name for name, members in index.splits.items() if index.antibodies[label] in members]
    return "\n".join(lines + split)


def _page(reader: ShardReader, picture: bytes) -> bytes:
    """A page that needs no other file."""
    index, form = reader.index, reader.index.crop_format
    size_bytes = sum(shard.bytes for shard in index.shards)
    figures = {
        "Cells": f"{index.cells:,}",
        "Antibodies": f"{len(index.antibodies):,}",
        "Genes": f"{len(set(filter(None, index.genes))):,}",
        "Cell lines": ", ".join(filter(None, index.cell_lines)) or "not given",
        "Shards": f"{len(index.shards)}, {size_bytes / 1e6:,.1f} MB, {size_bytes / index.cells / 1e3:,.0f} kB per cell",
        "Crops": f"{form.crop_size_px} px of {form.pixel_size_um:g} µm, {', '.join(form.channels)}, {form.dtype}",
        "Splits": ", ".join(f"{name}: {len(members):,} antibodies" for name, members in index.splits.items()) or "none",
        "Settings": index.split_method or "no splits",
        "Source": index.source or "not given",
    }
    return render_page(Path(__file__).parent, "contact_sheet.html.j2", figures=figures, picture=picture).encode()
