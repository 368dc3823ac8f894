"""Commands of the room evaluation: embedding tables in, benchmarks out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcell_hf.cli.outputs import claims_output

if TYPE_CHECKING:
    from subcell_hf.evaluation.localization.probes import Predictor
    from subcell_hf.tables.files import EmbeddingTable

evaluate = typer.Typer(name="evaluate", help="Benchmark embedding tables against baselines.", no_args_is_help=True)


@claims_output
def baselines(
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="Folder or URL of shards, or output folder of `subcell crops`.")
    ],
    output: Annotated[Path, typer.Option(help="Output folder for features.parquet and pixels.parquet.")],
    components: Annotated[int, typer.Option(min=1, help="Maximum number of principal components of the pixels.")] = 128,
    pixel_edge: Annotated[
        int,
        typer.Option(min=1, help="Size in pixels to which channels are downsampled before the principal components."),
    ] = 32,
    fitting_cells: Annotated[
        int, typer.Option(min=1, help="Maximum number of training cells to fit the principal components on.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives identical output.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of parallel processes.")] = 1,
) -> None:
    """Compute classical features and pixel components of cells, as baselines for a model."""
    from subcell_hf.evaluation.baselines.baselines import BaselineSettings, make_baselines
    from subcell_hf.tables.files import write_parquet

    settings = BaselineSettings(pixel_edge, components, fitting_cells, seed)
    tables = make_baselines(source, settings, workers=workers)
    for name, table in tables.items():
        write_parquet(table, output / f"{name}.parquet")
        cells, width = table.embeddings.shape
        typer.echo(f"{output / name}.parquet holds {cells} cells of {width} numbers.")


@evaluate.command()
@claims_output
def localization(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE", help="Embedding table: folder of `subcell embed`, .parquet, .h5ad, .npz, .csv."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Output folder for report.html, results.json, tables and figures.")],
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TABLE with the same cells, such as cellprofiler=profiles.csv; repeatable. "
            "untrained, features and pixels replace the table that would be computed."
        ),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Compare with an untrained network, classical features and pixel components of the same cells; they "
            "are computed if they do not exist yet.",
        ),
    ] = True,
    crops: Annotated[
        str | None,
        typer.Option(help="Images, crops or shards of the cells of TABLE; default: as recorded by `subcell embed`."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that read cells and compute baselines.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the model in the report.")] = "subcell",
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet with cell_id and columns missing from TABLE: antibody, gene, locations, split, …."
        ),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="31, 19 or 35 locations, a grouping of the ontology, or a file with one class per line.")
    ] = "31",
    heads: Annotated[
        str,
        typer.Option(
            help="Comma-separated classifiers to train: linear, neighbours (k-NN); the first gives the headline."
        ),
    ] = "linear,neighbours",
    seeds: Annotated[
        int,
        typer.Option(min=0, help="Seeds of SubCell's MLP ensemble, which then gives the headline; published: 10."),
    ] = 0,
    resamples: Annotated[
        int, typer.Option(min=1, help="Bootstrap samples of the antibodies, and permutations.")
    ] = 1000,
    learning_curve: Annotated[bool, typer.Option(help="Score against the number of labelled antibodies.")] = True,
    allow_shared_genes: Annotated[
        bool, typer.Option("--allow-shared-genes", help="Allow splits that share genes, as the published splits do.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives identical output.")] = 0,
) -> None:
    """Benchmark protein localization of embeddings against baselines. Exit code 3: some cells were excluded."""
    from subcell_hf.evaluation.localization.benchmark import LocalizationSettings, evaluate
    from subcell_hf.evaluation.localization.labels import class_scheme, label_cells
    from subcell_hf.evaluation.localization.localization_report import write_report
    from subcell_hf.tables.files import read_table
    from subcell_hf.workflows.table_baselines import BASELINES, find_baselines

    tables = _read_tables(table, name, baseline or (), metadata)
    fractions = LocalizationSettings.learning_fractions if learning_curve else ()
    settings = LocalizationSettings(class_scheme(classes), resamples, seed, allow_shared_genes, fractions)
    predictors = _predictors(heads, seeds, seed)
    # A table that cannot be evaluated is refused before hours may go into its baselines.
    label_cells(tables[name].cells, settings.scheme, allow_shared_genes=allow_shared_genes)
    wanted = [own for own in BASELINES if own not in tables] if baselines else []
    found = find_baselines(table, tables[name], wanted, crops=crops, output=output, workers=workers)
    tables = _in_order(tables, {own: read_table(path) for own, path in found.tables.items()})
    result = evaluate(tables, predictors, settings)
    results = write_report(result, tables, output, found.missing)
    for model, score in results["macro_map"].items():
        typer.echo(f"{model}: macro average precision {'–' if score is None else f'{score:.3f}'} ({results['head']})")
    for verdict in results["verdicts"]:
        typer.echo(verdict)
    for sentence in (*results["notes"], *found.missing):
        typer.echo(sentence, err=True)
    typer.echo(f"Wrote {output / 'report.html'}.")
    if results["left_out"]:
        typer.echo(f"{results['left_out']} cells were left out: see {output / 'left_out.csv'}.", err=True)
        raise typer.Exit(3)


def _read_tables(
    table: Path, name: str, baselines: Sequence[str], metadata: Path | None
) -> "dict[str, EmbeddingTable]":
    """The model's table, then the baselines by name."""
    from dataclasses import replace

    from subcell_hf.errors import InputError
    from subcell_hf.evaluation.localization.labels import add_metadata
    from subcell_hf.shards.splits import parse_named
    from subcell_hf.tables.files import read_table

    named = parse_named(baselines, "--baseline")
    if name in named:
        raise InputError(f"A baseline is called {name!r}, as the model is. Choose another name (--name).")
    tables = {name: read_table(table)}
    if metadata is not None:
        tables[name] = replace(tables[name], cells=add_metadata(tables[name].cells, metadata))
    return tables | {other: read_table(path) for other, path in named.items()}


def _in_order(
    tables: "Mapping[str, EmbeddingTable]", made: "Mapping[str, EmbeddingTable]"
) -> "dict[str, EmbeddingTable]":
    """The model, the baselines that always stand beside it, then what else was given."""
    from subcell_hf.workflows.table_baselines import BASELINES

    every = {**tables, **made}
    model = next(iter(tables))
    return {name: every[name] for name in dict.fromkeys((model, *BASELINES, *tables)) if name in every}


def _predictors(heads: str, seeds: int, seed: int) -> "list[Predictor]":
    """The classifiers to train, SubCell's own first."""
    from subcell_hf.errors import InputError
    from subcell_hf.evaluation.localization.probes import LinearProbe, NeighbourProbe

    known = {"linear": LinearProbe, "neighbours": NeighbourProbe}
    names = [part.strip() for part in heads.split(",") if part.strip()]
    unknown = [part for part in names if part not in known]
    if unknown or not (names or seeds):
        raise InputError(f"Unknown classifiers {heads!r}: expected {', '.join(known)}, with commas, or --seeds.")
    own: list[Predictor] = []
    if seeds:
        import torch

        from subcell_hf.workflows.ensemble import EnsemblePredictor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        own = [EnsemblePredictor(tuple(range(seed, seed + seeds)), device)]
    return own + [known[part](seed=seed) for part in names]


@evaluate.command()
@claims_output
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PATH...",
            help="Two or more folders of `subcell evaluate localization`, or embedding tables with probabilities.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Output folder for tables, the figure and model-index blocks.")],
    head: Annotated[
        str | None, typer.Option(help="Classifier to compare, such as linear; default: the first of each folder.")
    ] = None,
    dataset_id: Annotated[
        str, typer.Option(help="Hub id of the data set, for the model-index blocks.")
    ] = "local/cells",
    dataset_name: Annotated[
        str, typer.Option(help="Title of the data set, for the model-index blocks.")
    ] = "Single-cell crops",
    resamples: Annotated[
        int, typer.Option(min=1, help="Bootstrap samples of the antibodies, and permutations.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives identical output.")] = 0,
) -> None:
    """Compare models in pairs on the same cells. Exit code 3: cells without predictions of all models were excluded."""
    from subcell_hf.evaluation.comparison.comparison_files import write_comparison
    from subcell_hf.evaluation.comparison.embeddings import compare_models, read_predictions

    # A path may hold a =, a name no folder separator.
    named = [text.partition("=") if "=" in text.split("/")[0] else ("", "", text) for text in models]
    predictions = [read_predictions(Path(path), name or None, head) for name, _, path in named]
    comparison = compare_models(predictions, resamples=resamples, seed=seed)
    sentences = write_comparison(comparison, output, dataset_id=dataset_id, dataset_name=dataset_name)
    for sentence in sentences:
        typer.echo(sentence)
    typer.echo(f"Wrote {output / 'table.md'}, {output / 'comparison.pdf'} and more.")
    if len(comparison.left_out):
        typer.echo(f"{len(comparison.left_out)} cells were left out: see {output / 'left_out.csv'}.", err=True)
        raise typer.Exit(3)
