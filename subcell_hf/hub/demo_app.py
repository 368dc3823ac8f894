"""A page that shows what SubCell sees in a cell; lies as `app.py` in a Space, beside `demo.json`.

`demo.json` says which model is shown, a repository or a folder beside it, and the colours of its locations. Files of
visitors are checked before they are decoded and deleted within two hours; nothing is sent anywhere.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from subcell_hf.hub.demo_images import KINDS, LIMITS, Picture, find_cells, read_channel_files, read_mask, read_stack
from subcell_hf.hub.demo_model import CellReading, DemoModel, ReferenceCells
from subcell_hf.hub.demo_page import CSS, HELP
from subcell_hf.hub.demo_pictures import (
    cell_at,
    draw_attention,
    draw_map,
    draw_picture,
    draw_seen,
    list_locations,
    message,
)
from subcell_hf.hub.endpoint_images import RequestError

_SETTINGS_FILE, _REFERENCE_FILE, _EXAMPLES_FOLDER = "demo.json", "reference.npz", "examples"
_MAX_WAITING = 32
_KEEP_FILES_S = 3600
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

    def open_files(
        self, mask: str | None, pixel_size_um: float | None, hide: bool, *files: str | None
    ) -> tuple[Any, ...]:
        """Read one file per channel."""

        def read() -> Picture:
            planes = read_channel_files(dict(zip(self.channels, files, strict=True)))
            return self._open(planes, mask, pixel_size_um)

        return self._answer(read, hide)

    def open_stack(
        self, mask: str | None, pixel_size_um: float | None, hide: bool, path: str | None, order: str
    ) -> tuple[Any, ...]:
        """Read one file with all channels."""
        names = [name.strip() for name in (order or "").split(",") if name.strip()]
        return self._answer(lambda: self._open(read_stack(path, names, self.channels), mask, pixel_size_um), hide)

    def open_example(self, name: str | None, hide: bool) -> tuple[Any, ...]:
        """Read an example by its name."""

        def read() -> Picture:
            folder = self.settings.examples.get(name or "")
            if folder is None:
                raise RequestError("Choose one of the examples.")
            planes = read_channel_files({channel: str(folder / f"{channel}.png") for channel in self.channels})
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
            return tuple(gr.skip() for _ in range(10))
        return self.choose(picture, cell, hide)

    def _open(self, planes: dict[str, Any], mask: str | None, pixel_size_um: float | None) -> Picture:
        if pixel_size_um is not None and not 0.005 <= pixel_size_um <= 10:
            raise RequestError(f"The pixel size is {pixel_size_um:g} µm: expected 0.005 to 10, or nothing.")
        shape = next(iter(planes.values())).shape
        size_um = pixel_size_um or self.model.processor.pixel_size_um
        cells = read_mask(mask, shape) if mask else find_cells(planes, size_um)
        return Picture(planes, cells, size_um)

    def _answer(self, read: Callable[[], Picture], hide: bool, cell: int | None = None) -> tuple[Any, ...]:
        """Everything that is shown, or what is wrong."""
        try:
            picture = read()
            labels = picture.cell_labels
            cell = cell if cell in labels else (labels[0] if labels else None)
            reading = self.model.read(picture, cell, hide)
        except RequestError as error:
            return self._nothing(str(error), is_error=True)
        except Exception:  # whatever a stranger's file does, the page says so and goes on
            _log.exception("An upload could not be shown.")
            return self._nothing("This image could not be read. Try another file, or one channel less.", is_error=True)
        return self._show(picture, labels, cell, reading)

    def _show(self, picture: Picture, labels: list[int], cell: int | None, reading: CellReading) -> tuple[Any, ...]:
        height, width = picture.shape
        size = f"{width}×{height} px, {picture.pixel_size_um or 0:.4g} µm each"
        if not labels:
            text = f"{size}. No outlines of cells: the centre of the image was taken for one cell."
        elif len(labels) == 1:
            text = f"{size}. One cell."
        else:
            text = f"{size}. {len(labels)} cells: click on one, or choose its number."
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
        )

    def _nothing(self, text: str, is_error: bool) -> tuple[Any, ...]:
        hidden = gr.update(value=None, visible=False)
        choice = gr.update(choices=[], value=None, visible=False)
        return message(text, is_error), None, hidden, choice, hidden, hidden, "", "", hidden, hidden

    def _write(self, reading: CellReading, cell: int | None) -> tuple[str, str]:
        """The embedding as files to download, in a folder that the page deletes later."""
        folder = Path(tempfile.mkdtemp(prefix="subcell-demo-"))
        stem = "cell" if cell is None else f"cell_{cell}"
        npy, csv = folder / f"{stem}_embedding.npy", folder / f"{stem}.csv"
        np.save(npy, reading.embedding)
        names = [f"embedding_{index}" for index in range(len(reading.embedding))]
        names += [f"probability_{name}" for name, _ in reading.locations]
        values = [*reading.embedding.tolist(), *(score for _, score in reading.locations)]
        quoted = ",".join(f'"{name}"' for name in names)
        csv.write_text(f"cell_id,{quoted}\n{stem},{','.join(f'{value:.7g}' for value in values)}\n", encoding="utf-8")
        return str(npy), str(csv)


def build_page(demo: Demo) -> gr.Blocks:
    """Lay out the page.

    Args:
        demo: What its buttons do.
    """
    settings = demo.settings
    page = gr.Blocks(title=settings.title, analytics_enabled=False, delete_cache=(_KEEP_FILES_S, _KEEP_FILES_S))
    with page:
        gr.Markdown(
            f"# {settings.title}\nWhere is the protein, and how does the cell look? Open a cell, read the answer."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                buttons = _inputs(demo)
            with gr.Column(scale=5, min_width=320):
                outputs = _outputs()
        status, picture, shown, choice = outputs[:4]
        hide = buttons.pop("hide")[0]
        for name, (button, inputs) in buttons.items():
            button.click(
                getattr(demo, f"open_{name}"), inputs, outputs, show_progress_on=[status], api_visibility="private"
            )
        choice.input(demo.choose, [picture, choice, hide], outputs, show_progress_on=[status], api_visibility="private")
        hide.input(demo.choose, [picture, choice, hide], outputs, show_progress_on=[status], api_visibility="private")
        shown.select(demo.click, [picture, hide], outputs, show_progress_on=[status], api_visibility="private")
        gr.Markdown(HELP)
    return page


def _inputs(demo: Demo) -> dict[str, Any]:
    """Buttons with what they read: name of the handler → button and inputs; `hide` → the switch alone."""
    settings = demo.settings
    with gr.Accordion("Mask, pixel size", open=False, render=False) as more:
        mask = gr.File(label="Cell mask (optional): labels, or black outside of the cell", file_types=KINDS)
        size = gr.Number(label="Pixel size in µm (empty: the model's own)", value=None, elem_id="pixel-size")
    hide = gr.Checkbox(label="Blot out what is outside of the cell", value=False, render=False)
    buttons: dict[str, Any] = {"hide": [hide]}
    with gr.Tabs():
        if settings.examples:
            with gr.Tab("Example"):
                name = gr.Radio(list(settings.examples), label="Simulated cells", value=next(iter(settings.examples)))
                buttons["example"] = (gr.Button("Show it", variant="primary", elem_id="open-example"), [name, hide])
        with gr.Tab("Channel files"):
            files = [
                gr.File(
                    label=f"{channel}{f' ({settings.stains[channel]})' if channel in settings.stains else ''}",
                    file_types=KINDS, height=110, elem_id=f"file-{index}",
                )
                for index, channel in enumerate(demo.channels)
            ]  # fmt: skip
            button = gr.Button("Read the cell", variant="primary", elem_id="open-files")
            buttons["files"] = (button, [mask, size, hide, *files])
        with gr.Tab("One file"):
            stack = gr.File(label="TIFF or .npy, one plane per channel", file_types=KINDS, elem_id="file-stack")
            order = gr.Textbox(", ".join(demo.channels), label="Channels in the order of the file")
            button = gr.Button("Read the cell", variant="primary", elem_id="open-stack")
            buttons["stack"] = (button, [mask, size, hide, stack, order])
    hide.render()
    more.render()
    return buttons


def _outputs() -> list[Any]:
    """In the order of `Demo`'s answers."""
    status = gr.HTML(message("Choose an example or your own files on the left.", is_error=False), elem_id="status")
    picture = gr.State(None)
    quiet: dict[str, Any] = {"format": "png", "interactive": False, "visible": False, "buttons": ["fullscreen"]}
    with gr.Row():
        with gr.Column(min_width=300):
            locations = gr.HTML(elem_id="locations")
        with gr.Column(min_width=300), gr.Row():
            seen = gr.Image(label="What the model saw", elem_id="seen", min_width=140, **quiet)
            attention = gr.Image(label="Where it looked", elem_id="attention", min_width=140, **quiet)
    with gr.Row():
        with gr.Column(min_width=280):
            shown = gr.Image(label="Your image", elem_id="shown", **quiet)
            choice = gr.Dropdown([], label="Cell", visible=False, elem_id="cell")
        with gr.Column(min_width=280):
            chart = gr.HTML(elem_id="map")
    with gr.Row():
        npy = gr.DownloadButton("Embedding (.npy)", visible=False, elem_id="npy", size="md", min_width=240)
        csv = gr.DownloadButton("Table (.csv)", visible=False, elem_id="csv", size="md", min_width=240)
    return [status, picture, shown, choice, seen, attention, locations, chart, npy, csv]


def launch(settings: DemoSettings, **options: Any) -> None:
    """Load the model and serve the page until it is stopped.

    Args:
        settings: What is shown.
        **options: Of gradio's `launch`, such as `server_port`.
    """
    page = build_page(Demo(settings))
    page.queue(default_concurrency_limit=1, max_size=_MAX_WAITING)
    page.launch(
        css=CSS,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        max_file_size=LIMITS.max_request_bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        strict_cors=True,
        **options,
    )


if __name__ == "__main__":
    launch(DemoSettings.read(Path(__file__).parent))
