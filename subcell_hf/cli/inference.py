"""The command `embed`: from images to embeddings and protein locations."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf.cli.option_groups import CellOptions, ImageOptions, Segmentation, grouped


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Check this machine and measure its speed. Exit code 2: the package cannot work here."""
    from subcell_hf.workflows.machine.doctor import check_machine, describe_checkup

    found = check_machine()
    typer.echo(json.dumps(found.as_json(), indent=1) if as_json else describe_checkup(found))
    if not found.possible:
        raise typer.Exit(2)


@grouped
def embed(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Images, a table, a folder of subcell crops, a folder or URL of shards, or hpa: for published cells.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Published model (mae-rybg, …), folder or Hub id; auto: for each field the largest model whose "
            "channels it has."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Output folder: new, empty, or of an earlier call, which is resumed.")],
    *,
    models: Annotated[
        str | None,
        typer.Option(
            help="With --model auto: folder of models, or their owner on the Hub; OWNER/*-mae to select some."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the Hub.")] = None,
    protein_channel: Annotated[
        list[str] | None,
        typer.Option(help="Channel to use as the protein channel; repeat for several passes per cell."),
    ] = None,
    crop_size_px: Annotated[
        int | None, typer.Option(min=16, help="Width of the window around a cell, in pixels of the model.")
    ] = None,
    mask_cells: Annotated[
        bool | None,
        typer.Option(
            "--mask-cells/--keep-surroundings",
            help="Mask the surroundings of the cell; default: as configured in the model.",
        ),
    ] = None,
    single_cells: Annotated[
        bool | None,
        typer.Option(
            "--single-cells/--fields-of-view",
            help="Whether each image shows one cell or many; default: one if it fits into the window of the model.",
        ),
    ] = None,
    images: ImageOptions,
    segmentation: Segmentation = "watershed",
    min_area_um2: Annotated[float | None, typer.Option(help="Exclude cells smaller than this.")] = None,
    max_area_um2: Annotated[float | None, typer.Option(help="Exclude cells larger than this.")] = None,
    exclude_border: Annotated[
        bool, typer.Option("--exclude-border", help="Exclude cells that touch the border of their field.")
    ] = False,
    cells: CellOptions,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: the one measured as faster here.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ….")] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per forward pass; default: automatic, halved if memory runs out.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes for reading and cropping; 0: a thread of the main process.")
    ] = 0,
    pictures: Annotated[
        int, typer.Option(min=0, help="Maximum number of cells to save with picture and attention map.")
    ] = 2000,
    h5ad: Annotated[bool, typer.Option("--h5ad/--no-h5ad", help="Also write embeddings.h5ad for AnnData.")] = True,
    engine: Annotated[str, typer.Option(help="local, or ray: Ray Data on this machine or on a cluster.")] = "local",
    actors: Annotated[int, typer.Option(min=1, help="With --engine ray: processes that run the model.")] = 1,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Also write report.html, a summary of the run.")
    ] = True,
    portable: Annotated[
        bool,
        typer.Option("--portable", help="Also write SubCellPortable's files for each cell, to OUTPUT/portable."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first input that cannot be used, instead of skipping it.")
    ] = False,
) -> None:
    """Compute embeddings and protein locations of cells. Exit code 3: some inputs were skipped, see skipped.csv.

    On several GPUs: accelerate launch -m subcell_hf.cli embed INPUT …
    """
    from subcell_hf.cells.single_cells import CropSettings
    from subcell_hf.inference.engine.embedding import EmbedSettings
    from subcell_hf.inference.sources.recognition import SourceOptions
    from subcell_hf.parallel.processes import is_launched
    from subcell_hf.workflows.embed import embed_to_folder
    from subcell_hf.workflows.embed_input import EmbedInput

    options = SourceOptions(
        reading=images.reading(),
        filters=CropSettings(min_area_um2=min_area_um2, max_area_um2=max_area_um2, exclude_border=exclude_border),
        segmentation=segmentation,
        single_cells=single_cells,
        split=cells.split,
        choice=cells.choice(),
        crop_px=crop_size_px,
    )
    given = EmbedInput(
        source=source,
        model=model,
        models=models,
        revision=revision,
        protein_channels=tuple(protein_channel or ()),
        mask_cells=mask_cells,
        options=options,
        working_folder=str(Path.cwd()),
        command=shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "subcell"), *sys.argv[1:]]),
    )
    settings = EmbedSettings(
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        pictures=pictures,
        h5ad=h5ad,
        strict=strict,
        engine=engine,
        actors=actors,
    )
    run = embed_to_folder(given, output, settings, report=report, portable=portable)
    for name, reason in list(run.skipped)[:5]:
        typer.echo(f"Skipped: {name}: {reason}", err=True)
    if not run.skipped:
        return
    if is_launched():
        typer.echo(
            "The tables are complete; skipped.csv lists the inputs that are not in them. The exit code is 0, because "
            "launchers take any other code for a failure."
        )
        return
    raise typer.Exit(3)
