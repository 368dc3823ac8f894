"""Commands of the room evaluation: embedding tables in, benchmarks out."""

from pathlib import Path
from typing import Annotated

import typer

evaluate = typer.Typer(
    name="evaluate", help="Benchmarks on embedding tables, with baselines beside the model.", no_args_is_help=True
)


def baselines(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Folder or URL of shards, or folder that `subcell crops` wrote.")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write features.parquet and pixels.parquet to.")],
    components: Annotated[int, typer.Option(min=1, help="Principal components of the pixels, at most.")] = 128,
    pixel_edge: Annotated[
        int, typer.Option(min=1, help="Edge in pixels to which channels are shrunk before the principal components.")
    ] = 32,
    fitting_cells: Annotated[
        int, typer.Option(min=1, help="Training cells to fit the principal components on, at most.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same bytes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work side by side.")] = 1,
) -> None:
    """Measure classical features and pixel components of cells: the tables that a model must beat."""
    from subcell_hf.evaluation.baselines import BaselineSettings, make_baselines
    from subcell_hf.inference.tables import write_parquet

    settings = BaselineSettings(pixel_edge, components, fitting_cells, seed)
    tables = make_baselines(source, settings, workers=workers)
    for name, table in tables.items():
        write_parquet(table, output / f"{name}.parquet")
        cells, width = table.embeddings.shape
        typer.echo(f"{output / name}.parquet holds {cells} cells of {width} numbers.")
