"""Commands on embedding tables: aggregate them, write them for other tools, show them."""

from pathlib import Path
from typing import Annotated

import typer

from subcell_hf import evaluation, tables, workflows
from subcell_hf.cli.option_groups import AsJson, Count, Folder, Seed, Table
from subcell_hf.errors import counted
from subcell_hf.process import notes_on_stderr
from subcell_hf.settings import Setting


def aggregate(
    table: Table,
    *,
    by: str,
    output: Path,
    probabilities: str = "mean",
    plate_maps: Annotated[tuple[Path, ...], Setting("--plate-map")] = (),
) -> None:
    """Aggregate embeddings of cells. Exit code 3: cells without a group were excluded, see OUTPUT.skipped.csv.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        by: Level of aggregation: field, well, antibody or gene.
        output: File to write: .parquet, or .h5ad for scanpy.
        probabilities: mean, or max over the cells of a group, which keeps rare locations.
        plate_maps: Table of what is in the wells: barcode_platemap.csv, one row per well, or a grid as the plate;
            repeatable.
    """
    from subcell_hf.workflows.tables import aggregate_table

    result = aggregate_table(table, by, output, probabilities=probabilities, plate_maps=plate_maps)
    rows, cells = counted(len(result.table), "row"), counted(result.cells, "cell")
    typer.echo(f"{output} contains {rows}, one per {by}, from {cells}.")
    if dropped := result.aggregation.dropped_columns:
        typer.echo(f"Columns left out because they differ within a {by}: {', '.join(dropped)}.")
    if result.skipped_file is not None:
        skipped = counted(len(result.aggregation.skipped), "cell")
        typer.echo(f"Skipped: {skipped} without a {by}, listed in {result.skipped_file}.", err=True)
        raise typer.Exit(3)


def portable(table: Table, *, output: Path, form: str = "2025", csv_only: bool = False) -> None:
    """Write a table in SubCellPortable's format: result.csv, arrays of each cell, attention maps where available.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        output: Output folder; files with the same names are replaced.
        form: Version of the format: 2025, or 2024 (top_3_classes from third to first, attention dark on white).
        csv_only: Write only result.csv, no files per cell.
    """
    from subcell_hf.workflows.tables import write_portable

    write_portable(table, output, form=form, csv_only=csv_only)


def table(table: Table, *, to: str, output: Path) -> None:
    """Write a table for another program: scanpy, squidpy, QuPath, scPortrait, pycytominer, LanceDB, Cell Maps, ….

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        to: anndata (.h5ad), profiles (.csv or .parquet), or a folder: cellmaps, datasets, lance; h5sc (.h5sc), qupath
            (folder) and spatialdata (.zarr) also read the images of the run again.
        output: New file or folder.
    """
    from subcell_hf.workflows.partners.table_for import write_table_for

    written = write_table_for(table, to, output)
    typer.echo(f"{written.path} contains {counted(written.rows, 'row')}.")
    for name, other in written.renamed.items():
        typer.echo(f"{name} is called {other} there.")


def report(
    folder: Folder,
    *,
    output: Path | None = None,
    title: str | None = None,
    max_cells: Count = 20_000,
    seed: Seed = 0,
) -> None:
    """Write report.html, a self-contained page with cells, locations, a map, quality and skipped inputs.

    Args:
        folder: Output folder of `subcell embed`.
        output: File to write; default: DIR/report.html.
        title: Title of the page; default: the name of the folder.
        max_cells: Maximum number of cells on the map and in the table.
        seed: Seed of the map and of the selection of cells.
    """
    from subcell_hf.workflows.tables import draw_report

    draw_report(folder, title=title, max_cells=max_cells, seed=seed, output=output)


def calibrate(
    table: Table, *, output: Path, model: str | None = None, settings: "workflows.CalibrationSettings"
) -> None:
    """Calibrate sets of locations with a guaranteed recall or precision, by antibody, for a classifier.

    Args:
        table: Table embedded by the classifier, with columns locations and antibody.
        output: Folder of the classifier, or a new folder for a calibrated copy.
        model: The classifier; default: the one that the table names.
        settings: What is guaranteed.
    """
    from subcell_hf.workflows.answers.calibrate import calibrate

    typer.echo(calibrate(table, output, settings, model=model).describe())


def annotate(
    table: Table,
    *,
    given: "workflows.AnnotationInput",
    page: "workflows.AnnotationPage",
    settings: "evaluation.annotation.AnnotationSettings",
    export: bool = False,
) -> None:
    """Sort cells into custom classes in the browser; a classifier learns from them. Exit code 3: none was exported.

    Args:
        table: Output folder of `subcell embed`, with pictures.
        given: Labels and annotator.
        page: Where the page is served, until Ctrl-C.
        settings: How labels are used.
        export: Write labels, scores, fractions of wells and the classifier, and open no page.
    """
    from subcell_hf.workflows.annotation.annotate import export_annotation, serve_annotation

    if not export:
        serve_annotation(table, given, page, settings, announce=typer.echo)
        return
    written = export_annotation(table, given, settings)
    typer.echo("\n".join(written.describe()))
    raise typer.Exit(3 if written.no_classifier else 0)


def search(
    table: Table,
    *,
    query: "tables.SearchQuery",
    k: Annotated[int, Setting("-k", minimum=1)] = 10,
    filters: "tables.SearchFilters",
    index: bool = False,
    exact: bool = False,
    output: Path | None = None,
    as_json: AsJson = False,
) -> None:
    """Find the cells most similar to a cell, a selection or an image, by the cosine of their embeddings.

    Args:
        table: Embedding table, or output folder of `subcell embed`.
        query: What is searched for.
        k: Number of cells to find.
        filters: Which cells may be found.
        index: Build an index beside the table (TABLE.search), which this and later searches use; without a query,
            only build it.
        exact: Search without an index.
        output: Page with pictures of the cells, to write.
        as_json: Print JSON: one object per cell, with cell_id, similarity and all columns.
    """
    from subcell_hf.workflows.answers.search import search_table

    with notes_on_stderr():
        found = search_table(table, query, k, filters, index=index, exact=exact, output=output)
    typer.echo(found.as_json() if as_json else found.as_text())
