"""Commands of the room evaluation: embedding tables in, benchmarks and maps out."""

import math
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf import evaluation, workflows
from subcell_hf.cli.option_groups import Count, Seed, Table
from subcell_hf.cli.options import add_command
from subcell_hf.errors import InputError, counted
from subcell_hf.settings import Setting, column_values, comma_separated

LEFT_OUT = 3
"""Exit code of a command that did not evaluate all that it was given."""


def benchmark(
    name: Annotated[str | None, Setting(metavar="[NAME]")] = None,
    inputs: Annotated[tuple[Path, ...], Setting(metavar="[INPUT]...")] = (),
    *,
    output: Path | None = None,
) -> None:
    """Run a published benchmark of the field with its protocol; without INPUT, show its data, licence and download.

    Exit code 3: some wells, cells or collections were not scored.

    Args:
        name: Name of the benchmark; without it, all are listed.
        inputs: Profiles or embedding tables, as the benchmark says.
        output: Output folder, required with INPUT.
    """
    from subcell_hf.evaluation.field_benchmarks import field_benchmark, field_benchmarks
    from subcell_hf.workflows.evaluation.run_field_benchmark import run_field_benchmark

    if name is None:
        for found in field_benchmarks().values():
            typer.echo(f"{found.name}: {found.title}; licence {found.licence}")
        return
    if not inputs:
        typer.echo(field_benchmark(name).card())
        return
    if output is None:
        raise InputError("A benchmark writes files. Give their folder (--output).")
    report = run_field_benchmark(name, inputs, output)
    for score, value in report.scores.items():
        typer.echo(f"{score} {value:.4f}")
    typer.echo(f"Wrote {output / 'benchmark.json'}.")
    if report.left_out:
        raise typer.Exit(LEFT_OUT)


evaluate = typer.Typer(name="evaluate", help="Benchmark embedding tables against baselines.", no_args_is_help=True)


def baselines(
    source: Annotated[str, Setting(metavar="INPUT")],
    *,
    output: Path,
    settings: "evaluation.baselines.BaselineSettings",
    workers: Count = 1,
) -> None:
    """Compute classical features and pixel components of cells, as baselines for a model.

    Args:
        source: Folder or URL of shards, or output folder of `subcell crops`.
        output: Output folder for features.parquet and pixels.parquet.
        settings: How they are computed.
        workers: Number of parallel processes.
    """
    from subcell_hf.workflows.evaluation.table_baselines import compute_baselines

    for written in compute_baselines(source, output, settings, workers=workers).values():
        cells, width = counted(written.cells, "cell"), counted(written.width, "feature")
        typer.echo(f"{written.path} contains {cells} with {width} each.")


def localization(
    table: Table,
    *,
    output: Path,
    baselines: "workflows.BaselineOptions",
    name: str = "subcell",
    metadata: Path | None = None,
    settings: "evaluation.localization.LocalizationSettings",
    heads: str = "linear,neighbours",
    seeds: Seed = 0,
) -> None:
    """Benchmark protein localization of embeddings against baselines. Exit code 3: some cells were excluded.

    Args:
        table: Embedding table: folder of `subcell embed`, .parquet, .h5ad, .npz, .csv.
        output: Output folder for report.html, results.json, tables and figures.
        baselines: Tables to compare with.
        name: Name of the model in the report.
        metadata: CSV or Parquet with cell_id and columns missing from TABLE: antibody, gene, locations, split, ….
        settings: How the benchmark is run.
        heads: Comma-separated classifiers to train: linear, neighbours (k-NN); the first gives the headline.
        seeds: Seeds of SubCell's MLP ensemble, which then gives the headline; published: 10.
    """
    from subcell_hf.workflows.evaluation.benchmark_localization import benchmark_localization, make_predictors

    report = benchmark_localization(
        table,
        output,
        settings,
        name=name,
        predictors=make_predictors(comma_separated(heads), seeds, settings.seed),
        baselines=baselines,
        metadata=metadata,
    )
    for model, score in report.result.macro_map().items():
        shown = "–" if math.isnan(score) else f"{score:.3f}"
        typer.echo(f"{model}: macro average precision {shown} ({report.result.heads[0]})")
    for verdict in report.verdicts:
        typer.echo(verdict)
    typer.echo(f"Wrote {report.page}.")
    if len(report.result.left_out):
        raise typer.Exit(LEFT_OUT)


def compare(
    models: Annotated[tuple[str, ...], Setting(metavar="[NAME=]PATH...")],
    *,
    output: Path,
    metadata: Path | None = None,
    head: str | None = None,
    dataset_id: str = "local/cells",
    dataset_name: str = "Single-cell crops",
    resamples: Count = 1000,
    seed: Seed = 0,
) -> None:
    """Compare models in pairs on the same cells. Exit code 3: cells without predictions of all models were excluded.

    Args:
        models: Two or more folders of `subcell evaluate localization`, or embedding tables with probabilities; or one
            run of `subcell embed` with several encoders.
        output: Output folder for tables, the figure and model-index blocks.
        metadata: Of a run of several encoders: CSV or Parquet with cell_id and columns that its tables lack, such as
            antibody, locations and split.
        head: Classifier to compare, such as linear; default: the first of each folder.
        dataset_id: Hub id of the data set, for the model-index blocks.
        dataset_name: Title of the data set, for the model-index blocks.
        resamples: Bootstrap samples of the antibodies, and permutations.
        seed: Random seed; the same seed gives identical output.
    """
    from subcell_hf.workflows.evaluation.compare_benchmarks import ComparedModel, compare_benchmarks

    # A path may hold a =, a name no folder separator.
    named = [text.partition("=") if "=" in text.split("/")[0] else ("", "", text) for text in models]
    report = compare_benchmarks(
        [ComparedModel(Path(path), name or None) for name, _, path in named],
        output,
        metadata=metadata,
        head=head,
        dataset_id=dataset_id,
        dataset_name=dataset_name,
        resamples=resamples,
        seed=seed,
    )
    for verdict in report.verdicts:
        typer.echo(verdict)
    typer.echo(f"Wrote {output / 'table.md'}, {output / 'comparison.pdf'} and more.")
    if len(report.comparison.left_out):
        raise typer.Exit(LEFT_OUT)


def perturbation(
    profiles: tuple[Path, ...],
    *,
    output: Path,
    settings: "evaluation.perturbation.PerturbationSettings",
    moa_table: Path | None = None,
    baselines: "workflows.BaselineOptions",
) -> None:
    """Benchmark retrieval of replicates and mechanisms of action. Exit code 3: some wells were excluded.

    Args:
        profiles: Profiles of cells, fields or wells: CSV or Parquet with Metadata_ columns, or any embedding table.
            Several are concatenated.
        output: Output folder.
        settings: What the columns mean and what is scored.
        moa_table: CSV with the group and mechanism columns, if the profiles do not contain mechanisms.
        baselines: Tables to compare with.
    """
    from subcell_hf.workflows.evaluation.benchmark_perturbation import benchmark_perturbation

    report = benchmark_perturbation(profiles, output, settings, mechanisms=moa_table, baselines=baselines)
    for comparison in report.comparisons:
        typer.echo(comparison["sentence"])
    scores = report.result.summary["replicate_retrieval"]
    typer.echo(
        f"Replicate mAP {scores['mean_average_precision']:.4f} over {counted(scores['groups'], 'group')}, "
        f"{scores['share_retrieved']:.0%} above chance; see {report.page}."
    )
    if len(report.result.left_out):
        raise typer.Exit(LEFT_OUT)


def screen(
    profiles: tuple[Path, ...],
    *,
    output: Path,
    plate_maps: Annotated[tuple[Path, ...], Setting("--plate-map")] = (),
    settings: "evaluation.screening.ScreenSettings",
    compared: Annotated[tuple[tuple[str, str], ...], Setting("--compare", parse=column_values, repeatable=True)] = (),
) -> None:
    """Find the hits of a screen: activity, doses, cell counts, positions and quality. Exit code 3: wells were left out.

    Args:
        profiles: Embedding tables of cells or wells, or profiles of another tool with columns of plate and well.
        output: Output folder for hits.csv, wells.csv, results.json and screen.html.
        plate_maps: Table of what is in the wells: barcode_platemap.csv, one row per well, or a grid; repeatable.
        settings: How the screen is read and judged.
        compared: NAME=TABLE of other profiles of the same wells, such as classical features; repeatable.
    """
    from subcell_hf.workflows.evaluation.screen_plates import screen_plates

    report = screen_plates(profiles, output, settings, plate_maps=plate_maps, compared=dict(compared))
    typer.echo(f"{report.sentence} Open {report.page}.")
    if report.left_out:
        raise typer.Exit(LEFT_OUT)


for command in (localization, compare, perturbation):
    add_command(evaluate, command)


def proteome_map(
    table: Table, *, output: Path, settings: "evaluation.proteome_map.MapSettings", title: str = "Proteome map"
) -> None:
    """Map the proteome: aggregate cells to genes, correct batch effects, cluster, test for enrichment, draw a page.

    Args:
        table: Embedding table with a column gene, or output folder of `subcell embed`.
        output: Output folder.
        settings: How the map is made.
        title: Heading of the interactive map.
    """
    from subcell_hf.workflows.evaluation.map_proteome import map_proteome

    summary = map_proteome(table, output, settings, title=title).summary
    for level in summary["levels"]:
        agreement = level["agreement_with_locations"]
        known = "" if agreement is None else f", adjusted Rand index with locations {agreement:.3f}"
        typer.echo(f"resolution {level['resolution']:g}: {counted(level['clusters'], 'cluster')}{known}")
    genes, cells = counted(summary["genes"], "gene"), counted(summary["cells"], "cell")
    typer.echo(f"The map shows {genes} from {cells}: open {output / 'map.html'}.")
