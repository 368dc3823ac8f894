"""The `subcell` command: one thin sub-command per job. Rooms are imported only when their command runs."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="subcell",
    help="SubCell: embeddings and protein locations from fluorescence images of cells.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def convert(
    encoder: Annotated[Path, typer.Option(help="Published encoder (.pth) or training checkpoint (.ckpt).")],
    channels: Annotated[str, typer.Option(help="rybg, rbg, ybg, bg, or channel names separated by commas.")],
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty.")],
    classifier: Annotated[
        list[Path] | None, typer.Option(help="Published classifier (.pth); repeat for every member of the ensemble.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="model_config.yaml that came with the encoder.")] = None,
    attention_heads: Annotated[
        int | None, typer.Option(help="Attention heads of the encoder; default: from the yaml, else width / 64.")
    ] = None,
    crop_size_px: Annotated[int, typer.Option(help="Edge in pixels of the crops that the image processor makes.")] = 640,
    pixel_size_um: Annotated[float, typer.Option(help="Pixel size in micrometres of those crops.")] = 0.0800885,
) -> None:
    """Convert published weights to a folder that AutoModel.from_pretrained loads."""
    from subcell_hf.hub.conversion import convert

    convert(
        encoder=encoder,
        classifiers=classifier or (),
        config=config,
        channels=channels,
        output=output,
        num_attention_heads=attention_heads,
        crop_size_px=crop_size_px,
        pixel_size_um=pixel_size_um,
    )


if __name__ == "__main__":
    app()
