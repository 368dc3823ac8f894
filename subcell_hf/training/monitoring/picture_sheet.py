"""Rows of small pictures with titles and captions, as one picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TILE_PX = 224
_GAP_PX = 6
_LINE_PX = 34
_FONT_PX = 22
_INK = "#1f2937"


def draw_sheet(
    rows: Sequence[Sequence[Tensor]], titles: Sequence[str], captions: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """Lay pictures out: a title over each column, a caption over each row.

    Args:
        rows: `[height, width, 3]` float from 0 to 1, on the CPU, of any size; they are drawn with an edge of `TILE_PX`.
        titles: One for each column.
        captions: One for each row; what does not fit is cut off.

    Returns:
        `[height, width, (red, green, blue)]`.
    """
    step = TILE_PX + _GAP_PX
    size = (len(titles) * step - _GAP_PX, _LINE_PX + len(rows) * (_LINE_PX + step))
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    for column, title in enumerate(titles):
        pen.text((column * step, 3), _shorten(title, font, TILE_PX), fill=_INK, font=font)
    for index, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = _LINE_PX + index * (_LINE_PX + step)
        pen.text((0, top + 2), _shorten(caption, font, size[0]), fill=_INK, font=font)
        for column, tile in enumerate(row):
            image = Image.fromarray((tile.clamp(0, 1) * 255).round().byte().numpy())
            sheet.paste(image.resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST), (column * step, top + _LINE_PX))
    return np.asarray(sheet)


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    """The text, or as much of it as fits, with an ellipsis."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text + "…"
