"""The demo page on this machine."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    model: Annotated[Path, typer.Argument(help="Exported, trained or converted model's folder.")],
    port: Annotated[int, typer.Option(help="Port; 0 for a free one.")] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    reference: Annotated[
        Path | None,
        typer.Option(help="Embedding table of cells of known location, made with this model: the map behind a cell."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
) -> None:
    """Show the model in a browser: upload a cell, see its locations, attention and place among others. Ctrl-C stops."""
    import tempfile

    from subcell_hf.hub.demo_app import launch
    from subcell_hf.hub.space import local_settings
    from subcell_hf.progress import hide_weight_bars

    hide_weight_bars()
    with tempfile.TemporaryDirectory(prefix="subcell-demo-") as folder:
        settings = local_settings(model, Path(folder) / "examples", reference)
        launch(settings, server_name=host, server_port=port or None, inbrowser=browser)
