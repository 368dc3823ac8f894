"""Commands on embedding tables: aggregate them, write them for other tools, show them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf.cli.metadata_notes import say


def aggregate(
    table: Annotated[
        Path, typer.Argument(help="Embedding table, or output folder of `subcell embed`.", metavar="TABLE")
    ],
    by: Annotated[str, typer.Option(help="Level of aggregation: field, well, antibody or gene.")],
    output: Annotated[Path, typer.Option(help="File to write: .parquet, or .h5ad for scanpy.")],
    probabilities: Annotated[
        str, typer.Option(help="mean, or max over the cells of a group, which keeps rare locations.")
    ] = "mean",
) -> None:
    """Aggregate embeddings of cells. Exit code 3: cells without a group were excluded, see OUTPUT.skipped.csv."""
    from subcell_hf.errors import InputError
    from subcell_hf.storage.input_lists import write_csv
    from subcell_hf.tables.aggregation import aggregate as aggregate_table
    from subcell_hf.tables.files import read_table, write_h5ad, write_parquet
    from subcell_hf.tables.h5ad import stored_names

    writers = {".parquet": write_parquet, ".h5ad": write_h5ad}
    if output.suffix not in writers:
        raise InputError(f"Cannot write {output}: expected a file ending in {' or '.join(writers)}.")
    cells = read_table(table)
    result = aggregate_table(cells, by, probabilities=probabilities)
    if output.suffix == ".h5ad":
        names = stored_names(map(str, result.table.cells.columns))
        say(names, "The AnnData file cannot hold some names (HDF5); there they are")
    writers[output.suffix](result.table, output)
    for note in result.notes:
        typer.echo(f"Note: {note}", err=True)
    typer.echo(f"{output} holds {len(result.table)} rows, one per {by}, of {len(cells) - len(result.skipped)} cells.")
    if result.dropped_columns:
        typer.echo(f"Left out, since they differ within a {by}: {', '.join(result.dropped_columns)}.")
    skipped_file = output.with_name(output.name + ".skipped.csv")
    skipped_file.unlink(missing_ok=True)
    if result.skipped:
        rows = [{"cell_id": cell, "reason": reason} for cell, reason in result.skipped.items()]
        write_csv(skipped_file, ["cell_id", "reason"], rows)
        typer.echo(f"Skipped: {len(rows)} cells that name no {by}, listed in {skipped_file}.", err=True)
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
    write_portable(table, output, form=form, csv_only=csv_only)


def write_portable(table: Path, output: Path, *, form: str = "2025", csv_only: bool = False) -> None:
    """Write SubCellPortable's files of a table, with the attention that lies beside it, and say so."""
    from subcell_hf.tables.attention_maps import ATTENTION_FILE, CellAttention, iterate_attention
    from subcell_hf.tables.cell_pictures import PICTURES_FILE, iterate_attention_of_pictures
    from subcell_hf.tables.files import EMBEDDINGS_FILE, read_table
    from subcell_hf.tables.portable import write_portable_files

    folder, file = (table, table / EMBEDDINGS_FILE) if table.is_dir() else (table.parent, table)
    attention: Iterable[CellAttention] = ()
    if not csv_only and (folder / ATTENTION_FILE).is_file():
        attention = iterate_attention(folder / ATTENTION_FILE)
    elif not csv_only and (folder / PICTURES_FILE).is_file():
        attention = iterate_attention_of_pictures(folder / PICTURES_FILE)
    cells = file if file.suffix == ".parquet" and file.is_file() else read_table(table)
    written = write_portable_files(cells, output, form=form, single_files=not csv_only, attention=attention)
    files = "result.csv" if csv_only else "result.csv and the arrays of every cell"
    typer.echo(f"{output} holds {files}: {written.cells} cells, {written.attention_maps} attention maps.")
    if not csv_only and written.attention_maps < written.cells:
        typer.echo(
            "Only cells whose attention was kept have a map; `subcell embed --portable` keeps that of every one."
        )


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
    check_report_libraries()
    draw_report(folder, title=title, max_cells=max_cells, seed=seed, output=output)


def check_report_libraries() -> None:
    """Refuse before hours of work what would fail after them."""
    from importlib.util import find_spec

    from subcell_hf.errors import InputError

    missing = [name for name in ("jinja2", "sklearn", "umap") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"report.html needs {', '.join(missing)}, which is not installed. Install it with: "
            "pip install 'subcell-hf[analysis]', or leave the page out with --no-report."
        )


def draw_report(
    folder: Path, *, title: str | None = None, max_cells: int = 20_000, seed: int = 0, output: Path | None = None
) -> None:
    """Write the page of a run and say where it is."""
    from subcell_hf.report.page import write_report

    path = write_report(folder, title=title, max_cells=max_cells, seed=seed, output=output)
    typer.echo(f"Open {path} ({path.stat().st_size / 1e6:.1f} MB) in a browser.")


def say_locations(folder: Path) -> None:
    """Name the locations that most cells of a run were predicted to; nothing where there is no classifier."""
    from subcell_hf.storage.parquet_files import open_parquet
    from subcell_hf.tables.files import EMBEDDINGS_FILE

    with open_parquet(folder / EMBEDDINGS_FILE) as file:
        if "top_location_1" not in file.schema_arrow.names:
            return
        counts = file.read(columns=["top_location_1"]).to_pandas()["top_location_1"].value_counts()
    named = sorted(((str(name), int(count)) for name, count in counts.items()), key=lambda pair: (-pair[1], pair[0]))
    most = ", ".join(f"{name} ({count})" for name, count in named[:5])
    others = f" and {len(named) - 5} more" if len(named) > 5 else ""
    typer.echo(f"Predicted locations, in cells: {most}{others}.")
