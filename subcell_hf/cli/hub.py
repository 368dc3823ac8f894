"""Commands of the room hub: published weights in, Hub repositories and pages out."""

from pathlib import Path
from typing import Annotated

import typer

from subcell_hf import hub, workflows
from subcell_hf.cli.option_groups import Count, NewSpaces, PushOptions, Seed
from subcell_hf.settings import Setting
from subcell_hf.storage.plain_files import read_lines

_Source = Annotated[str | None, Setting("--from", "--mirror", metavar="FOLDER|URL")]
_Repository = Annotated[str, Setting(metavar="OWNER/NAME")]
_Owner = Annotated[str, Setting(metavar="OWNER")]


def fetch(
    variants: tuple[str, ...] = (),
    *,
    every: Annotated[bool, Setting("--all")] = False,
    source: _Source = None,
    cache: Path | None = None,
) -> None:
    """Download published weights, verify and convert them; an interrupted download is resumed.

    Args:
        variants: Published models: mae-rybg, vit-bg, ….
        every: Fetch all published models.
        source: Files copied by hand, or mirror of SubCell's bucket.
        cache: Folder to keep them in; default: in HF_HOME.
    """
    from subcell_hf.workflows.hub.weights import fetch_models

    for model in fetch_models(variants, every=every, source=source, cache=cache):
        typer.echo(f"SubCell {model.variant} is in {model.folder}. Load it with\n\n{model.loading_code}\n")


def convert(
    *,
    encoder: Path,
    channels: str,
    output: Path,
    classifiers: Annotated[tuple[Path, ...], Setting("--classifier")] = (),
    config: Path | None = None,
    labels: Path | None = None,
    keep_pretraining: bool = False,
    attention_heads: int | None = None,
    crop_size_px: int | None = None,
    pixel_size_um: float = 0.0800885,
) -> None:
    """Convert published weights to a folder that AutoModel.from_pretrained loads.

    Args:
        encoder: Published encoder (.pth) or training checkpoint (.ckpt).
        channels: rybg, rbg, ybg, bg, or comma-separated channel names.
        output: Output folder; must not exist or be empty.
        classifiers: Published classifier (.pth); repeat for each member of the ensemble.
        config: model_config.yaml of the encoder.
        labels: Text file with one class name per line; default: SubCell's locations.
        keep_pretraining: Keep decoder, heads and teacher of a training checkpoint.
        attention_heads: Attention heads of the encoder; default: from the config, otherwise width / 64.
        crop_size_px: Size in pixels to which the image processor crops and pads; default: unchanged.
        pixel_size_um: Pixel size of the model input in micrometres.
    """
    from subcell_hf.progress import hide_weight_bars
    from subcell_hf.weights.conversion import convert

    hide_weight_bars()
    folder = convert(
        encoder=encoder,
        classifiers=classifiers,
        config=config,
        channels=channels,
        output=output,
        num_attention_heads=attention_heads,
        labels=read_lines(labels) if labels else None,
        keep_pretraining=keep_pretraining,
        crop_size_px=crop_size_px,
        pixel_size_um=pixel_size_um,
    )
    typer.echo(f"Converted to {folder}. Load it with AutoModel.from_pretrained({str(folder)!r}).")


def export(
    model: str,
    *,
    output: Path,
    repository: str | None = None,
    sources: "hub.ExportSources",
    encoder_only: bool = False,
    onnx: bool = False,
    bioimageio: bool = False,
    space: Path | None = None,
    space_reference: Path | None = None,
) -> None:
    """Stage a complete repository for the Hub: weights, code, card, notebook, example, endpoint handler.

    Args:
        model: Folder of a model or of a trained run, Hub id, or name of a published model.
        output: Output folder: new, empty, or an earlier export, which is replaced.
        repository: Repository on the Hub, OWNER/NAME; default: subcell/ and the name of OUTPUT.
        sources: Where the facts of the card come from.
        encoder_only: Export without heads and decoder.
        onnx: Also export to ONNX, for programs outside Python.
        bioimageio: Also write bioimageio.zip, with the ONNX model, for programs that take bioimage.io packages.
        space: Also stage a Space in this folder: the demo page, which loads REPOSITORY from the Hub.
        space_reference: For the map of the Space: embedding table of this model with known locations.
    """
    from subcell_hf.workflows.hub.publishing import export_repository

    exported = export_repository(
        model,
        output,
        repository=repository,
        sources=sources,
        encoder_only=encoder_only,
        onnx=onnx,
        bioimageio=bioimageio,
        space=space,
        space_reference=space_reference,
    )
    folder, shown = exported.folder, exported.repository
    typer.echo(f"{folder} is ready. Look at its README.md, then: subcell push {folder} {shown}")
    if exported.space is not None:
        typer.echo(f"After the push of the model, push its Space: subcell push {exported.space} OWNER/NAME")


def push(
    folder: Annotated[Path, Setting(metavar="DIR")],
    repository: _Repository,
    *,
    options: "workflows.PushOptions",
) -> None:
    """Upload a staged model, or its Space, in one commit; files that the Hub already has are not uploaded again.

    Args:
        folder: Output folder of `subcell export`: a model, or a Space.
        repository: Repository on the Hub.
        options: How files are pushed.
    """
    from subcell_hf.workflows.hub.publishing import push_folder

    typer.echo(push_folder(folder, repository, options).describe())


def push_shards(
    folder: Annotated[Path, Setting(metavar="SHARDS")],
    repository: _Repository,
    *,
    license_id: Annotated[str, Setting("--license")],
    name: str | None = None,
    workers: Count = 1,
    options: PushOptions,
) -> None:
    """Verify a folder of shards and upload it as a data set; run again to resume an interrupted upload.

    Args:
        folder: Output folder of `subcell shards`.
        repository: Repository on the Hub.
        license_id: Licence of the images as a Hub identifier, such as cc-by-sa-4.0.
        name: Title of the data set; default: the name of the repository.
        workers: Number of processes that check the shards.
        options: How files are pushed.
    """
    from subcell_hf.workflows.hub import publishing

    plan = publishing.push_shards(folder, repository, license_id, name=name, workers=workers, options=options)
    typer.echo(plan.describe())


def push_metrics(
    owner: _Owner, *, metrics: Annotated[tuple[str, ...], Setting("--metric")] = (), options: NewSpaces
) -> None:
    """Upload the metric modules as Spaces OWNER/METRIC, which `evaluate.load` can load.

    Args:
        owner: User or organization on the Hub.
        metrics: Metric to upload; repeatable; default: all.
        options: How files are pushed.
    """
    from subcell_hf.workflows.hub import publishing

    publishing.push_metrics(owner, metrics, private=options.private, dry_run=options.dry_run)


def publish(
    owner: _Owner,
    *,
    variants: tuple[str, ...] = (),
    source: _Source = None,
    output: Path | None = None,
    options: NewSpaces,
) -> None:
    """Fetch, convert and push the published models as OWNER/subcell-VARIANT, with a collection; run again to resume.

    Args:
        owner: User or organization on the Hub.
        variants: Published model to push, such as mae-rybg; repeatable; default: all.
        source: Files copied by hand, or mirror of SubCell's bucket.
        output: Folder of the staged repositories; default: in HF_HOME.
        options: How files are pushed.
    """
    from subcell_hf.workflows.hub.weights import publish_models

    published = publish_models(
        owner, variants, source=source, output=output, private=options.private, dry_run=options.dry_run
    )
    typer.echo(published.describe())


def sheet(
    files: Annotated[tuple[Path, ...], Setting(metavar="FILE")],
    *,
    output: Path,
    model: str | None = None,
    channels: str | None = None,
) -> None:
    """Join the channels of a cell into one grey picture, as widgets, InferenceClient and pipeline take it.

    Args:
        files: A file per channel, or one TIFF with all.
        output: PNG to write.
        model: Folder or Hub id of a model, or name of a published one, such as mae-rybg.
        channels: Channels in the order of the files: rybg, …, or names.
    """
    from subcell_hf.workflows.hub.sheets import write_sheet

    written = write_sheet(files, output, model=model, channels=channels)
    typer.echo(f"{written.path} shows {', '.join(written.channels)}, {written.width_px}×{written.height_px} px each.")


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine_backend: str = "auto",
    precision: str = "fp32",
) -> None:
    """Serve a model over HTTP like an inference endpoint, for local tests. Stop with Ctrl-C.

    Args:
        model: Folder or Hub id of a model, or name of a published one, such as mae-rybg.
        host: Address to listen on.
        port: Port; 0 for a free one.
        engine_backend: torch, openvino, or auto: int8 if `subcell optimize` wrote the model and it is faster here.
        precision: Of torch: fp32, bf16, or auto for the one that is measured to be faster.
    """
    from subcell_hf.workflows.hub.serving import open_endpoint

    with open_endpoint(model, host, port, engine_backend=engine_backend, precision=precision) as server:
        where = f"http://{host}:{server.server_port}/"
        typer.echo(f"POST an image file or JSON to {where} ; see help(subcell_hf.hub.EndpointHandler).")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("Stopped.")


def demo(
    model: str,
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    reference: Path | None = None,
    browser: bool = False,
    engine_backend: str = "auto",
    precision: str = "fp32",
) -> None:
    """Serve a demo page: upload a cell, see its locations, attention and position on a map. Stop with Ctrl-C.

    Args:
        model: Folder or Hub id of a model, or name of a published one, such as mae-rybg.
        port: Port; 0 for a free one.
        host: Address to listen on; 0.0.0.0 allows other machines to connect.
        reference: Embedding table of this model with known locations, for a map and for similar cells.
        browser: Open the page in a browser.
        engine_backend: torch, openvino, or auto: int8 if `subcell optimize` wrote the model and it is faster here.
        precision: Of torch: fp32, bf16, or auto for the one that is measured to be faster.
    """
    from subcell_hf.workflows.hub.serving import serve_demo

    serve_demo(
        model,
        host,
        port,
        reference=reference,
        browser=browser,
        engine_backend=engine_backend,
        precision=precision,
    )


def untrained(model: str, *, output: Path, seed: Seed = 0) -> None:
    """Save a model with the same architecture and random weights, as a baseline for `subcell embed`.

    Args:
        model: Folder or Hub id of a model, or name of a published one, such as mae-rybg.
        output: Output folder; must not exist or be empty.
        seed: Seed of the random weights.
    """
    from subcell_hf.progress import hide_weight_bars
    from subcell_hf.weights.untrained import save_untrained

    hide_weight_bars()
    typer.echo(f"{save_untrained(model, output, seed)} contains an untrained model.")
