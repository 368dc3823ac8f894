"""Commands of the room evaluation: embedding tables in, benchmarks out."""

import typer

evaluate = typer.Typer(
    name="evaluate", help="Benchmarks on embedding tables, with baselines beside the model.", no_args_is_help=True
)
