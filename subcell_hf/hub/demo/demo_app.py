"""A page that shows what SubCell sees in a cell; lies as `app.py` in a Space, beside `demo.json`.

`demo.json` says which model is shown, a repository or a folder beside it, and the colours of its locations. Files of
visitors are checked before they are decoded and deleted within two hours; nothing is sent anywhere.
"""

from pathlib import Path
from typing import Any

import gradio as gr

from subcell_hf.hub.demo.demo_answers import Demo, DemoSettings
from subcell_hf.hub.demo.demo_images import KINDS, LIMITS
from subcell_hf.hub.demo.demo_page import CSS, HELP
from subcell_hf.hub.demo.demo_pictures import message

_MAX_WAITING = 32
_KEEP_FILES_S = 3600
_MOST_VISITORS = 16
"""Maximum number of visitors whose images are kept in memory; older images have to be opened again."""


def build_page(demo: Demo) -> gr.Blocks:
    """Lay out the page.

    Args:
        demo: What its buttons do.
    """
    settings = demo.settings
    page = gr.Blocks(title=settings.title, analytics_enabled=False, delete_cache=(_KEEP_FILES_S, _KEEP_FILES_S))
    with page:
        gr.Markdown(
            f"# {settings.title}\nOpen an image of a cell to predict the locations of its protein and to compute its "
            "embedding."
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
        size = gr.Number(label="Pixel size in µm (empty: pixel size of the model)", value=None, elem_id="pixel-size")
    hide = gr.Checkbox(label="Mask the surroundings of the cell", value=False, render=False)
    buttons: dict[str, Any] = {"hide": [hide]}
    with gr.Tabs():
        if settings.examples:
            with gr.Tab("Example"):
                name = gr.Radio(list(settings.examples), label="Simulated cells", value=next(iter(settings.examples)))
                buttons["example"] = (
                    gr.Button("Show the cell", variant="primary", elem_id="open-example"),
                    [name, hide],
                )
        with gr.Tab("Channel files"):
            files = [
                gr.File(
                    label=f"{channel}{f' ({settings.stains[channel]})' if channel in settings.stains else ''}",
                    file_types=KINDS, height=110, elem_id=f"file-{index}",
                )
                for index, channel in enumerate(demo.channels)
            ]  # fmt: skip
            button = gr.Button("Analyse the cell", variant="primary", elem_id="open-files")
            buttons["files"] = (button, [mask, size, hide, *files])
        with gr.Tab("One file"):
            rgb = "RGB picture, " if set(demo.channels) <= {"red", "green", "blue"} else ""
            stack = gr.File(label=f"Channel sheet, {rgb}TIFF or .npy", file_types=KINDS, elem_id="file-stack")
            order = gr.Textbox(", ".join(demo.channels), label="Channels in the order of the file")
            button = gr.Button("Analyse the cell", variant="primary", elem_id="open-stack")
            buttons["stack"] = (button, [mask, size, hide, stack, order])
    hide.render()
    more.render()
    return buttons


def _outputs() -> list[Any]:
    """In the order of `Demo`'s answers."""
    status = gr.HTML(message("Choose an example, or open your own files.", is_error=False), elem_id="status")
    picture = gr.State(None, time_to_live=_KEEP_FILES_S)
    quiet: dict[str, Any] = {
        "format": "png", "interactive": False, "visible": False, "buttons": ["fullscreen"], "elem_classes": "picture"
    }  # fmt: skip
    with gr.Row():
        with gr.Column(min_width=300):
            locations = gr.HTML(elem_id="locations")
            shown = gr.Image(label="Your image", elem_id="shown", **quiet)
            choice = gr.Dropdown([], label="Cell", visible=False, elem_id="cell")
        with gr.Column(min_width=300):
            with gr.Row():
                seen = gr.Image(label="Model input", elem_id="seen", min_width=140, **quiet)
                attention = gr.Image(label="Attention", elem_id="attention", min_width=140, **quiet)
            chart = gr.HTML(elem_id="map")
    with gr.Row():
        npy = gr.DownloadButton("Embedding (.npy)", visible=False, elem_id="npy", size="md", min_width=240)
        csv = gr.DownloadButton("Table (.csv)", visible=False, elem_id="csv", size="md", min_width=240)
    similar = gr.HTML(elem_id="similar")
    return [status, picture, shown, choice, seen, attention, locations, chart, npy, csv, similar]


def launch(demo: Demo, **options: Any) -> None:
    """Serve the page until it is stopped.

    Args:
        demo: What its buttons do.
        **options: Of gradio's `launch`, such as `server_port`.
    """
    page = build_page(demo)
    page.queue(default_concurrency_limit=1, max_size=_MAX_WAITING)
    page.launch(
        css=CSS,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        max_file_size=LIMITS.max_request_bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        strict_cors=True,
        state_session_capacity=_MOST_VISITORS,
        **options,
    )


if __name__ == "__main__":
    launch(Demo(DemoSettings.read(Path(__file__).parent)))
