"""What the demo's buttons do; lies beside `app.py` on the Hub."""

import json
import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from subcell_hf.hub.demo.demo_images import Picture, find_cells, read_channel_files, read_mask, read_stack
from subcell_hf.hub.demo.demo_model import CellReading, DemoModel, ReferenceCells
from subcell_hf.hub.demo.demo_pictures import (
    cell_at,
    draw_attention,
    draw_map,
    draw_picture,
    draw_seen,
    list_locations,
    list_similar,
    message,
)
from subcell_hf.hub.endpoint.endpoint_images import RequestError

_SETTINGS_FILE, _REFERENCE_FILE, _EXAMPLES_FOLDER = "demo.json", "reference.npz", "examples"
_KEPT_ANSWERS = 64
_MOST_OFFERED = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoSettings:
    """What a demo shows.

    Attributes:
        model: Folder, or `owner/name` on the Hub.
        title: Of the page.
        revision: Branch or commit of a repository.
        colours: Location → `#rrggbb`.
        stains: Channel → what it stains.
        reference: Cells of known location.
        examples: Name → folder with one PNG per channel, `mask.png` and `pixel_size_um.txt`.
        trust_remote_code: Whether the code beside the weights is run.
    """

    model: str
    title: str = "SubCell"
    revision: str | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    stains: Mapping[str, str] = field(default_factory=dict)
    reference: ReferenceCells | None = None
    examples: Mapping[str, Path] = field(default_factory=dict)
    trust_remote_code: bool = True

    @classmethod
    def read(cls, folder: Path) -> "DemoSettings":
        """What lies in a Space's folder."""
        values = json.loads((folder / _SETTINGS_FILE).read_text(encoding="utf-8"))
        beside, reference = folder / values["model"], folder / _REFERENCE_FILE
        examples = sorted(path for path in (folder / _EXAMPLES_FOLDER).glob("*") if path.is_dir())
        return cls(
            **{**values, "model": str(beside) if beside.is_dir() else values["model"]},
            reference=ReferenceCells.load(reference) if reference.is_file() else None,
            examples={path.name.replace("_", " "): path for path in examples},
        )


class Demo:
    """What the buttons do; every answer is a value for each of the page's outputs.

    Args:
        settings: What is shown.
    """

    def __init__(self, settings: DemoSettings) -> None:
        self.settings = settings
        self.model = DemoModel(settings.model, settings.revision, settings.trust_remote_code)
        self.channels = self.model.channels
        self._downloads = tempfile.TemporaryDirectory(prefix="subcell-demo-")
        self._written: deque[Path] = deque()

    def open_files(
        self, mask: str | None, pixel_size_um: float | None, hide: bool, *files: str | None
    ) -> tuple[Any, ...]:
        """Read one file per channel."""

        def read() -> Picture:
            planes = read_channel_files(dict(zip(self.channels, files, strict=True)), self.model.processor)
            return self._open(planes, mask, pixel_size_um)

        return self._answer(read, hide)

    def open_stack(
        self, mask: str | None, pixel_size_um: float | None, hide: bool, path: str | None, order: str
    ) -> tuple[Any, ...]:
        """Read one file with all channels."""
        names = [name.strip() for name in (order or "").split(",") if name.strip()]

        def read() -> Picture:
            planes = read_stack(path, names, self.channels, self.model.processor)
            return self._open(planes, mask, pixel_size_um)

        return self._answer(read, hide)

    def open_example(self, name: str | None, hide: bool) -> tuple[Any, ...]:
        """Read an example by its name."""

        def read() -> Picture:
            folder = self.settings.examples.get(name or "")
            if folder is None:
                raise RequestError("Choose one of the examples.")
            files = {channel: str(folder / f"{channel}.png") for channel in self.channels}
            planes = read_channel_files(files, self.model.processor)
            size_um = float((folder / "pixel_size_um.txt").read_text(encoding="utf-8"))
            return self._open(planes, str(folder / "mask.png"), size_um)

        return self._answer(read, hide)

    def choose(self, picture: Picture | None, cell: int | None, hide: bool) -> tuple[Any, ...]:
        """Show another cell of the picture."""
        if picture is None:
            return self._nothing("Open an image first.", is_error=True)
        return self._answer(lambda: picture, hide, cell)

    def click(self, picture: Picture | None, hide: bool, event: gr.SelectData) -> tuple[Any, ...]:
        """Show the cell that was clicked on."""
        x, y = event.index
        cell = None if picture is None else cell_at(picture, int(x), int(y))
        if picture is None or cell is None:
            return tuple(gr.skip() for _ in range(11))
        return self.choose(picture, cell, hide)

    def _open(self, planes: dict[str, Any], mask: str | None, pixel_size_um: float | None) -> Picture:
        if pixel_size_um is not None and not 0.005 <= pixel_size_um <= 10:
            raise RequestError(f"The pixel size is {pixel_size_um:g} µm: expected 0.005 to 10, or an empty field.")
        shape = next(iter(planes.values())).shape
        size_um = pixel_size_um or self.model.processor.pixel_size_um
        cells = read_mask(mask, shape, self.model.processor) if mask else find_cells(planes, size_um)
        return Picture(planes, cells, size_um, is_size_assumed=pixel_size_um is None)

    def _answer(self, read: Callable[[], Picture], hide: bool, cell: int | None = None) -> tuple[Any, ...]:
        """All outputs of the page, or a message with the error."""
        try:
            picture = read()
            labels = picture.cell_labels
            cell = cell if cell in labels else (labels[0] if labels else None)
            reading = self.model.read(picture, cell, hide)
        except RequestError as error:
            return self._nothing(str(error), is_error=True)
        except Exception:  # any error of an uploaded file is shown on the page, which continues to work
            _log.exception("An upload could not be shown.")
            return self._nothing("This image could not be read. Try another file, or fewer channels.", is_error=True)
        return self._show(picture, labels, cell, reading)

    def _show(self, picture: Picture, labels: list[int], cell: int | None, reading: CellReading) -> tuple[Any, ...]:
        height, width = picture.shape
        size = f"{width}×{height} px, {picture.pixel_size_um or 0:.4g} µm each"
        if picture.is_size_assumed:
            size += " (pixel size of the model; to change it, open “Mask, pixel size”)"
        if not labels:
            text = f"{size}. No outlines of cells: the centre of the image is treated as one cell."
        elif len(labels) == 1:
            text = f"{size}. One cell."
        else:
            text = f"{size}. {len(labels)} cells: click on a cell, or choose its number."
        choice = gr.update(
            choices=[(f"cell {label}", label) for label in sorted(labels[:_MOST_OFFERED])],
            value=cell,
            visible=len(labels) > 1,
        )
        npy, csv = self._write(reading, cell)
        return (
            message(text, is_error=False),
            picture,
            gr.update(value=draw_picture(picture, cell), visible=True),
            choice,
            gr.update(value=draw_seen(reading, self.channels), visible=True),
            gr.update(value=draw_attention(reading), visible=reading.attention is not None),
            list_locations(reading, self.settings.colours),
            draw_map(reading, self.settings.reference, self.settings.colours),
            gr.update(value=npy, visible=True),
            gr.update(value=csv, visible=True),
            list_similar(reading, self.settings.reference),
        )

    def _nothing(self, text: str, is_error: bool) -> tuple[Any, ...]:
        hidden = gr.update(value=None, visible=False)
        choice = gr.update(choices=[], value=None, visible=False)
        return message(text, is_error), None, hidden, choice, hidden, hidden, "", "", hidden, hidden, ""

    def _write(self, reading: CellReading, cell: int | None) -> tuple[str, str]:
        """The embedding as files to download; gradio takes a copy at once, so that a few answers are enough."""
        folder = Path(tempfile.mkdtemp(dir=self._downloads.name))
        self._written.append(folder)
        while len(self._written) > _KEPT_ANSWERS:
            shutil.rmtree(self._written.popleft(), ignore_errors=True)
        stem = "cell" if cell is None else f"cell_{cell}"
        npy, csv = folder / f"{stem}_embedding.npy", folder / f"{stem}.csv"
        np.save(npy, reading.embedding)
        names = [f"embedding_{index}" for index in range(len(reading.embedding))]
        names += [f"probability_{name}" for name, _ in reading.locations]
        values = [*reading.embedding.tolist(), *(score for _, score in reading.locations)]
        quoted = ",".join(f'"{name}"' for name in names)
        csv.write_text(f"cell_id,{quoted}\n{stem},{','.join(f'{value:.7g}' for value in values)}\n", encoding="utf-8")
        return str(npy), str(csv)
