"""Commands of the room hub: published weights in, Hub repositories out."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    encoder: Annotated[Path, typer.Option(help="Published encoder (.pth) or training checkpoint (.ckpt).")],
    channels: Annotated[str, typer.Option(help="rybg, rbg, ybg, bg, or channel names separated by commas.")],
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty.")],
    classifier: Annotated[
        list[Path] | None, typer.Option(help="Published classifier (.pth); repeat for every member of the ensemble.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="model_config.yaml that came with the encoder.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line; default: SubCell's locations.")
    ] = None,
    keep_pretraining: Annotated[
        bool, typer.Option("--keep-pretraining", help="Keep decoder, heads and teacher of a training checkpoint.")
    ] = False,
    attention_heads: Annotated[
        int | None, typer.Option(help="Attention heads of the encoder; default: from the yaml, else width / 64.")
    ] = None,
    crop_size_px: Annotated[
        int | None,
        typer.Option(help="Edge in pixels to which the image processor crops and pads; default: size is kept."),
    ] = None,
    pixel_size_um: Annotated[float, typer.Option(help="Pixel size in micrometres of the model's input.")] = 0.0800885,
) -> None:
    """Convert published weights to a folder that AutoModel.from_pretrained loads."""
    from subcell_hf.hub.conversion import convert

    folder = convert(
        encoder=encoder,
        classifiers=classifier or (),
        config=config,
        channels=channels,
        output=output,
        num_attention_heads=attention_heads,
        labels=labels.read_text(encoding="utf-8").splitlines() if labels else None,
        keep_pretraining=keep_pretraining,
        crop_size_px=crop_size_px,
        pixel_size_um=pixel_size_um,
    )
    typer.echo(f"Converted to {folder}. Load it with AutoModel.from_pretrained({str(folder)!r}).")
