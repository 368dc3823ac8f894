"""Commands of the room hub: published weights in, Hub repositories and pages out."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf.cli.option_groups import grouped
from subcell_hf.storage.plain_files import read_lines

_Source = Annotated[
    str | None,
    typer.Option(
        "--from", "--mirror", metavar="FOLDER|URL", help="Files copied by hand, or mirror of SubCell's bucket."
    ),
]
_MODEL = "Folder or Hub id of a model, or name of a published one, such as mae-rybg."


def fetch(
    variants: Annotated[list[str] | None, typer.Argument(help="Published models: mae-rybg, vit-bg, ….")] = None,
    every: Annotated[bool, typer.Option("--all", help="Fetch all published models.")] = False,
    source: _Source = None,
    cache: Annotated[Path | None, typer.Option(help="Folder to keep them in; default: in HF_HOME.")] = None,
) -> None:
    """Download published weights, verify and convert them; an interrupted download is resumed."""
    from subcell_hf.workflows.hub.weights import fetch_models

    for model in fetch_models(variants or (), every=every, source=source, cache=cache):
        typer.echo(f"SubCell {model.variant} is in {model.folder}. Load it with\n\n{model.loading_code}\n")


def convert(
    encoder: Annotated[Path, typer.Option(help="Published encoder (.pth) or training checkpoint (.ckpt).")],
    channels: Annotated[str, typer.Option(help="rybg, rbg, ybg, bg, or comma-separated channel names.")],
    output: Annotated[Path, typer.Option(help="Output folder; must not exist or be empty.")],
    classifier: Annotated[
        list[Path] | None, typer.Option(help="Published classifier (.pth); repeat for each member of the ensemble.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="model_config.yaml of the encoder.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line; default: SubCell's locations.")
    ] = None,
    keep_pretraining: Annotated[
        bool, typer.Option("--keep-pretraining", help="Keep decoder, heads and teacher of a training checkpoint.")
    ] = False,
    attention_heads: Annotated[
        int | None, typer.Option(help="Attention heads of the encoder; default: from the config, otherwise width / 64.")
    ] = None,
    crop_size_px: Annotated[
        int | None,
        typer.Option(help="Size in pixels to which the image processor crops and pads; default: unchanged."),
    ] = None,
    pixel_size_um: Annotated[float, typer.Option(help="Pixel size of the model input in micrometres.")] = 0.0800885,
) -> None:
    """Convert published weights to a folder that AutoModel.from_pretrained loads."""
    from subcell_hf.progress import hide_weight_bars
    from subcell_hf.weights.conversion import convert

    hide_weight_bars()
    folder = convert(
        encoder=encoder,
        classifiers=classifier or (),
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
    model: Annotated[
        str, typer.Argument(help="Folder of a model or of a trained run, Hub id, or name of a published model.")
    ],
    output: Annotated[Path, typer.Option(help="Output folder: new, empty, or an earlier export, which is replaced.")],
    repository: Annotated[
        str | None, typer.Option(help="Repository on the Hub, OWNER/NAME; default: subcell/ and the name of OUTPUT.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the training run; default: the files beside the model.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Output folder of `subcell evaluate` whose results are added to the card; repeatable."),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="For converted weights: name of the published model, such as mae-rybg.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(help="YAML file with fields of the card: training_data, recipe, license, ….")
    ] = None,
    encoder_only: Annotated[bool, typer.Option("--encoder-only", help="Export without heads and decoder.")] = False,
    space: Annotated[
        Path | None,
        typer.Option(help="Also stage a Space in this folder: the demo page, which loads REPOSITORY from the Hub."),
    ] = None,
    space_reference: Annotated[
        Path | None,
        typer.Option(help="For the map of the Space: embedding table of this model with known locations."),
    ] = None,
) -> None:
    """Stage a complete repository for the Hub: weights, code, card, notebook, example, endpoint handler."""
    from subcell_hf.hub.publishing.export import ExportSources
    from subcell_hf.progress import hide_weight_bars
    from subcell_hf.workflows.hub.publishing import export_repository

    hide_weight_bars()
    exported = export_repository(
        model,
        output,
        repository=repository,
        sources=ExportSources(run=run, evaluations=tuple(evaluation or ()), variant=variant, facts=facts),
        encoder_only=encoder_only,
        space=space,
        space_reference=space_reference,
    )
    folder, shown = exported.folder, exported.repository
    typer.echo(f"{folder} is ready. Look at its README.md, then: subcell push {folder} {shown}")
    if exported.space is not None:
        typer.echo(f"After the push of the model, push its Space: subcell push {exported.space} OWNER/NAME")


_Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub.")]
_Owner = Annotated[str, typer.Argument(metavar="OWNER", help="User or organization on the Hub.")]


@dataclass(frozen=True)
class _Push:
    """Options of every command that pushes to the Hub."""

    private: Annotated[bool, typer.Option("--private", help="Create what does not exist yet as private.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "--dry_run", help="List what would be uploaded; the Hub is not changed.")
    ] = False


@dataclass(frozen=True)
class _PushToBranch(_Push):
    """The same, for a branch of one repository."""

    revision: Annotated[str, typer.Option(help="Branch to push to.")] = "main"
    create_revision: Annotated[
        bool, typer.Option("--create-revision", help="Create the branch if it does not exist.")
    ] = False


@grouped
def push(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Output folder of `subcell export`: a model, or a Space.")
    ],
    repository: _Repository,
    *,
    message: Annotated[str, typer.Option(help="Commit message.")] = "Publish with subcell_hf",
    push: _PushToBranch,
) -> None:
    """Upload a staged model, or its Space, in one commit; files that the Hub already has are not uploaded again."""
    from subcell_hf.workflows.hub.publishing import PushOptions, push_folder

    typer.echo(push_folder(folder, repository, PushOptions(message=message, **asdict(push))).describe())


@grouped
def push_shards(
    folder: Annotated[Path, typer.Argument(metavar="SHARDS", help="Output folder of `subcell shards`.")],
    repository: _Repository,
    license_id: Annotated[
        str, typer.Option("--license", help="Licence of the images as a Hub identifier, such as cc-by-sa-4.0.")
    ],
    *,
    name: Annotated[
        str | None, typer.Option(help="Title of the data set; default: the name of the repository.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that check the shards.")] = 1,
    push: _PushToBranch,
) -> None:
    """Verify a folder of shards and upload it as a data set; run again to resume an interrupted upload."""
    from subcell_hf.workflows.hub import publishing

    options = publishing.PushOptions(**asdict(push))
    plan = publishing.push_shards(folder, repository, license_id, name=name, workers=workers, options=options)
    typer.echo(plan.describe())


@grouped
def push_metrics(
    owner: _Owner,
    *,
    metric: Annotated[list[str] | None, typer.Option(help="Metric to upload; repeatable; default: all.")] = None,
    push: _Push,
) -> None:
    """Upload the metric modules as Spaces OWNER/METRIC, which `evaluate.load` can load."""
    from subcell_hf.workflows.hub import publishing

    publishing.push_metrics(owner, metric or (), **asdict(push))


@grouped
def publish(
    owner: _Owner,
    *,
    variants: Annotated[
        list[str] | None, typer.Option(help="Published model to push, such as mae-rybg; repeatable; default: all.")
    ] = None,
    source: _Source = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the staged repositories; default: in HF_HOME.")] = None,
    push: _Push,
) -> None:
    """Fetch, convert and push the published models as OWNER/subcell-VARIANT, with a collection; run again to resume."""
    from subcell_hf.workflows.hub.weights import publish_models

    typer.echo(publish_models(owner, variants or (), source=source, output=output, **asdict(push)).describe())


def sheet(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="A file per channel, or one TIFF with all.")],
    output: Annotated[Path, typer.Option(help="PNG to write.")],
    model: Annotated[str | None, typer.Option(help=_MODEL)] = None,
    channels: Annotated[str | None, typer.Option(help="Channels in the order of the files: rybg, …, or names.")] = None,
) -> None:
    """Join the channels of a cell into one grey picture, as widgets, InferenceClient and pipeline take it."""
    from subcell_hf.workflows.hub.sheets import write_sheet

    written = write_sheet(files, output, model=model, channels=channels)
    typer.echo(f"{written.path} shows {', '.join(written.channels)}, {written.width_px}×{written.height_px} px each.")


def serve(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for a free one.")] = 8000,
) -> None:
    """Serve a model over HTTP like an inference endpoint, for local tests. Stop with Ctrl-C."""
    from subcell_hf.progress import hide_weight_bars
    from subcell_hf.workflows.hub.serving import open_endpoint

    hide_weight_bars()
    with open_endpoint(model, host, port) as server:
        where = f"http://{host}:{server.server_port}/"
        typer.echo(f"POST an image file or JSON to {where} ; see help(subcell_hf.hub.EndpointHandler).")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("Stopped.")


def demo(
    model: Annotated[str, typer.Argument(help=_MODEL)],
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
    from subcell_hf.progress import hide_weight_bars
    from subcell_hf.workflows.hub.serving import serve_demo

    hide_weight_bars()
    serve_demo(model, host, port, reference=reference, browser=browser)


def untrained(
    model: Annotated[str, typer.Argument(help=_MODEL)],
    output: Annotated[Path, typer.Option(help="Output folder; must not exist or be empty.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random weights.")] = 0,
) -> None:
    """Save a model with the same architecture and random weights, as a baseline for `subcell embed`."""
    from subcell_hf.progress import hide_weight_bars
    from subcell_hf.weights.untrained import save_untrained

    hide_weight_bars()
    typer.echo(f"{save_untrained(model, output, seed)} contains an untrained model.")
