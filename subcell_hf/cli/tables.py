"""Commands on embedding tables: aggregate them, write them for other tools, show them."""

from pathlib import Path
from typing import Annotated

import typer

from subcell_hf.cli.option_groups import PlateMaps
from subcell_hf.errors import counted


def aggregate(
    table: Annotated[
        Path, typer.Argument(help="Embedding table, or output folder of `subcell embed`.", metavar="TABLE")
    ],
    by: Annotated[str, typer.Option(help="Level of aggregation: field, well, antibody or gene.")],
    output: Annotated[Path, typer.Option(help="File to write: .parquet, or .h5ad for scanpy.")],
    probabilities: Annotated[
        str, typer.Option(help="mean, or max over the cells of a group, which keeps rare locations.")
    ] = "mean",
    plate_map: PlateMaps = None,
) -> None:
    """Aggregate embeddings of cells. Exit code 3: cells without a group were excluded, see OUTPUT.skipped.csv."""
    from subcell_hf.workflows.tables import aggregate_table

    result = aggregate_table(table, by, output, probabilities=probabilities, plate_maps=plate_map or ())
    rows, cells = counted(len(result.table), "row"), counted(result.cells, "cell")
    typer.echo(f"{output} contains {rows}, one per {by}, from {cells}.")
    if dropped := result.aggregation.dropped_columns:
        typer.echo(f"Columns left out because they differ within a {by}: {', '.join(dropped)}.")
    if result.skipped_file is not None:
        skipped = counted(len(result.aggregation.skipped), "cell")
        typer.echo(f"Skipped: {skipped} without a {by}, listed in {result.skipped_file}.", err=True)
        raise typer.Exit(3)


def portable(
    table: Annotated[
        Path, typer.Argument(help="Embedding table, or output folder of `subcell embed`.", metavar="TABLE")
    ],
    output: Annotated[Path, typer.Option(help="Output folder; files with the same names are replaced.")],
    form: Annotated[
        str,
        typer.Option(
            help="Version of the format: 2025, or 2024 (top_3_classes from third to first, attention dark on white)."
        ),
    ] = "2025",
    csv_only: Annotated[bool, typer.Option("--csv-only", help="Write only result.csv, no files per cell.")] = False,
) -> None:
    """Write a table in SubCellPortable's format: result.csv, arrays of each cell, attention maps where available."""
    from subcell_hf.workflows.tables import write_portable

    write_portable(table, output, form=form, csv_only=csv_only)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of `subcell embed`.")],
    output: Annotated[Path | None, typer.Option(help="File to write; default: DIR/report.html.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page; default: the name of the folder.")] = None,
    max_cells: Annotated[
        int, typer.Option(min=1, help="Maximum number of cells on the map and in the table.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the map and of the selection of cells.")] = 0,
) -> None:
    """Write report.html, a self-contained page with cells, locations, a map, quality and skipped inputs."""
    from subcell_hf.workflows.tables import draw_report

    draw_report(folder, title=title, max_cells=max_cells, seed=seed, output=output)
