"""The demo page on this machine."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    model: Annotated[Path, typer.Argument(help="Folder of an exported, trained or converted model.")],
    port: Annotated[int, typer.Option(help="Port; 0 for a free one.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 allows other machines to connect.")
    ] = "127.0.0.1",
    reference: Annotated[
        Path | None,
        typer.Option(help="Embedding table of this model with known locations, drawn as a map behind the cell."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a demo page: upload a cell, see its locations, attention and position on a map. Stop with Ctrl-C."""
    import tempfile

    from subcell_hf.hub.demo.demo_app import launch
    from subcell_hf.hub.demo.space import local_settings
    from subcell_hf.progress import hide_weight_bars

    hide_weight_bars()
    with tempfile.TemporaryDirectory(prefix="subcell-demo-") as folder:
        settings = local_settings(model, Path(folder) / "examples", reference)
        launch(settings, server_name=host, server_port=port or None, inbrowser=browser)
