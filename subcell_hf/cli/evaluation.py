"""Commands of the room evaluation: embedding tables in, benchmarks and maps out."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subcell_hf.errors import counted

if TYPE_CHECKING:
    from subcell_hf.workflows.evaluation.table_baselines import BaselineOptions

LEFT_OUT = 3
"""Exit code of a command that did not evaluate all that it was given."""

evaluate = typer.Typer(name="evaluate", help="Benchmark embedding tables against baselines.", no_args_is_help=True)

_Seed = Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives identical output.")]
_AnySeed = Annotated[int, typer.Option(help="Random seed; the same seed gives identical output.")]
_Resamples = Annotated[int, typer.Option(min=1, help="Bootstrap samples of the antibodies, and permutations.")]
_Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines/--no-baselines",
        help="Compare with an untrained network, classical features and pixel components of the same cells; they are "
        "computed if they do not exist yet.",
    ),
]
_Workers = Annotated[int, typer.Option(min=0, help="Number of processes that read cells and compute baselines.")]


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
    seed: _Seed = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of parallel processes.")] = 1,
) -> None:
    """Compute classical features and pixel components of cells, as baselines for a model."""
    from subcell_hf.evaluation.baselines.baselines import BaselineSettings
    from subcell_hf.workflows.evaluation.table_baselines import compute_baselines

    settings = BaselineSettings(pixel_edge, components, fitting_cells, seed)
    for written in compute_baselines(source, output, settings, workers=workers).values():
        cells, width = counted(written.cells, "cell"), counted(written.width, "feature")
        typer.echo(f"{written.path} contains {cells} with {width} each.")


@evaluate.command()
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
    baselines: _Baselines = True,
    crops: Annotated[
        str | None,
        typer.Option(help="Images, crops or shards of the cells of TABLE; default: as recorded by `subcell embed`."),
    ] = None,
    workers: _Workers = 0,
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
    resamples: _Resamples = 1000,
    learning_curve: Annotated[bool, typer.Option(help="Score against the number of labelled antibodies.")] = True,
    allow_shared_genes: Annotated[
        bool, typer.Option("--allow-shared-genes", help="Allow splits that share genes, as the published splits do.")
    ] = False,
    seed: _Seed = 0,
) -> None:
    """Benchmark protein localization of embeddings against baselines. Exit code 3: some cells were excluded."""
    from subcell_hf.evaluation.localization.benchmark import LocalizationSettings
    from subcell_hf.evaluation.localization.labels import class_scheme
    from subcell_hf.workflows.evaluation.benchmark_localization import benchmark_localization, make_predictors

    fractions = LocalizationSettings.learning_fractions if learning_curve else ()
    report = benchmark_localization(
        table,
        output,
        LocalizationSettings(class_scheme(classes), resamples, seed, allow_shared_genes, fractions),
        name=name,
        predictors=make_predictors([part.strip() for part in heads.split(",") if part.strip()], seeds, seed),
        baselines=_baseline_options(baseline, baselines, crops, workers),
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


@evaluate.command()
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
    resamples: _Resamples = 1000,
    seed: _Seed = 0,
) -> None:
    """Compare models in pairs on the same cells. Exit code 3: cells without predictions of all models were excluded."""
    from subcell_hf.workflows.evaluation.compare_benchmarks import ComparedModel, compare_benchmarks

    # A path may hold a =, a name no folder separator.
    named = [text.partition("=") if "=" in text.split("/")[0] else ("", "", text) for text in models]
    report = compare_benchmarks(
        [ComparedModel(Path(path), name or None) for name, _, path in named],
        output,
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


@evaluate.command()
def perturbation(
    profiles: Annotated[
        list[Path],
        typer.Argument(
            help="Profiles of cells, fields or wells: CSV or Parquet with Metadata_ columns, or any embedding table. "
            "Several are concatenated."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Output folder.")],
    group_column: Annotated[str, typer.Option(help="Column that names the perturbation of a well.")],
    plate_column: Annotated[str, typer.Option(help="Column that names the plate.")] = "Metadata_Plate",
    well_column: Annotated[
        str, typer.Option(help="Column that names the well; rows of one well are aggregated.")
    ] = "Metadata_Well",
    field_column: Annotated[
        str, typer.Option(help="Column that names the field of view in a well; cells are first aggregated to fields.")
    ] = "Metadata_Site",
    control: Annotated[list[str] | None, typer.Option(help="COLUMN=VALUE of control wells; repeatable.")] = None,
    statistic: Annotated[
        str, typer.Option(help="Aggregation of cells to fields and of fields to wells: mean or median.")
    ] = "mean",
    positives: Annotated[
        str, typer.Option(help="Positives: wells of the same group, on any-plate or other-plates.")
    ] = "any-plate",
    negatives: Annotated[
        str,
        typer.Option(
            help="Negatives: same-plate-controls, controls, same-plate-others, other-plates-others or others."
        ),
    ] = "same-plate-controls",
    normalize: Annotated[str, typer.Option(help="Normalization per plate: none, standardize or robust.")] = "robust",
    reference: Annotated[str, typer.Option(help="Reference wells of the normalization: all or controls.")] = "all",
    sphering: Annotated[
        str, typer.Option(help="Sphering by the controls: none, PCA, PCA-cor, ZCA, ZCA-cor or TVN.")
    ] = "none",
    shrinkage: Annotated[
        float | None, typer.Option(help="Shrinkage of covariances, 0 to 1; default: estimated (Ledoit and Wolf).")
    ] = None,
    select_features: Annotated[
        bool, typer.Option("--select-features", help="Remove features with low variance or high correlation.")
    ] = False,
    search_share: Annotated[
        float | None,
        typer.Option(help="Choose normalization and sphering on this fraction of the groups; report the others."),
    ] = None,
    moa_column: Annotated[
        str | None, typer.Option(help="Column of mechanisms of action, separated by |; also scores mechanisms.")
    ] = None,
    moa_table: Annotated[
        Path | None,
        typer.Option(help="CSV with the group and mechanism columns, if the profiles do not contain mechanisms."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=TABLE of other profiles of the same wells, such as CellProfiler's; repeatable. untrained, "
            "features and pixels replace the table that would be computed."
        ),
    ] = None,
    baselines: _Baselines = True,
    crops: Annotated[
        str | None,
        typer.Option(help="Images, crops or shards of the cells; default: as recorded by `subcell embed`."),
    ] = None,
    workers: _Workers = 0,
    null_size: Annotated[int, typer.Option(help="Number of random rankings for each p-value.")] = 10_000,
    seed: _AnySeed = 0,
) -> None:
    """Benchmark retrieval of replicates and mechanisms of action. Exit code 3: some wells were excluded."""
    from subcell_hf.evaluation.perturbation.benchmark import PerturbationSettings, parse_controls
    from subcell_hf.evaluation.perturbation.postprocessing import PostProcessing
    from subcell_hf.workflows.evaluation.benchmark_perturbation import benchmark_perturbation

    settings = PerturbationSettings(
        group_column=group_column,
        plate_column=plate_column,
        well_column=well_column,
        field_column=field_column,
        controls=parse_controls(control or ()),
        statistic=statistic,
        positives=positives,
        negatives=negatives,
        steps=PostProcessing(
            select_features=select_features,
            normalization=normalize,
            reference=reference,
            sphering=sphering,
            shrinkage=shrinkage,
        ),
        search_share=search_share,
        mechanism_column=moa_column,
        null_size=null_size,
        seed=seed,
    )
    options = _baseline_options(baseline, baselines, crops, workers)
    report = benchmark_perturbation(profiles, output, settings, mechanisms=moa_table, baselines=options)
    for comparison in report.comparisons:
        typer.echo(comparison["sentence"])
    scores = report.result.summary["replicate_retrieval"]
    typer.echo(
        f"Replicate mAP {scores['mean_average_precision']:.4f} over {counted(scores['groups'], 'group')}, "
        f"{scores['share_retrieved']:.0%} above chance; see {report.page}."
    )
    if len(report.result.left_out):
        raise typer.Exit(LEFT_OUT)


def proteome_map(
    table: Annotated[
        Path, typer.Argument(help="Embedding table with a column gene, or output folder of `subcell embed`.")
    ],
    output: Annotated[Path, typer.Option(help="Output folder.")],
    where: Annotated[
        list[str] | None, typer.Option(help="Use only cells with COLUMN=VALUE, such as cell_line=U2OS; repeatable.")
    ] = None,
    correct: Annotated[
        list[str] | None,
        typer.Option(help="Column to correct for, or none; repeatable; default: plate and microscope, if available."),
    ] = None,
    reliability_column: Annotated[
        str, typer.Option(help="Column with the reliability of antibodies (Enhanced, Supported, Approved, Uncertain).")
    ] = "reliability",
    antibody_choice: Annotated[
        str,
        typer.Option(help="Choice among equally reliable antibodies: cells (most cells) or consistency (of fields)."),
    ] = "cells",
    components: Annotated[int, typer.Option(help="Number of principal components of the fields of view.")] = 64,
    neighbours: Annotated[int, typer.Option(help="Number of neighbours of each gene, including itself.")] = 30,
    metric: Annotated[str, typer.Option(help="Distance between genes: cosine or euclidean.")] = "cosine",
    hierarchy: Annotated[str, typer.Option(help="leiden, or hidef (requires the extra hidef).")] = "leiden",
    resolutions: Annotated[
        str, typer.Option(help="Comma-separated increasing resolutions; HiDeF uses the first and the last.")
    ] = "0.01,0.03,0.06,0.125,0.25,0.5,1,2,4,8",
    min_size: Annotated[int, typer.Option(help="Minimum number of genes in a cluster.")] = 4,
    gene_sets: Annotated[list[Path] | None, typer.Option(help="GMT file of gene sets; repeatable.")] = None,
    hpa_locations: Annotated[
        Path | None, typer.Option(help="subcellular_location.tsv (or .tsv.gz) of the Human Protein Atlas.")
    ] = None,
    corum: Annotated[
        Path | None, typer.Option(help="CSV of complexes with columns complex and gene_names, one row per member.")
    ] = None,
    background: Annotated[
        Path | None, typer.Option(help="Background genes for the tests, one per line; default: the genes of the map.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the interactive map.")] = "Proteome map",
    seed: _AnySeed = 0,
) -> None:
    """Map the proteome: aggregate cells to genes, correct batch effects, cluster, test for enrichment, draw a page."""
    from subcell_hf.evaluation.perturbation.benchmark import parse_controls
    from subcell_hf.evaluation.proteome_map.map import MapSettings, parse_resolutions
    from subcell_hf.workflows.evaluation.map_proteome import map_proteome

    settings = MapSettings(
        where=dict(parse_controls(where or ())),
        reliability=reliability_column,
        antibody_choice=antibody_choice,
        correct=None if correct is None else tuple(name for name in correct if name != "none"),
        components=components,
        neighbours=neighbours,
        metric=metric,
        hierarchy=hierarchy,
        resolutions=parse_resolutions(resolutions),
        min_size=min_size,
        gene_sets=tuple(gene_sets or ()),
        hpa_locations=hpa_locations,
        corum=corum,
        background=background,
        seed=seed,
    )
    summary = map_proteome(table, output, settings, title=title).summary
    for level in summary["levels"]:
        agreement = level["agreement_with_locations"]
        known = "" if agreement is None else f", adjusted Rand index with locations {agreement:.3f}"
        typer.echo(f"resolution {level['resolution']:g}: {counted(level['clusters'], 'cluster')}{known}")
    genes, cells = counted(summary["genes"], "gene"), counted(summary["cells"], "cell")
    typer.echo(f"The map shows {genes} from {cells}: open {output / 'map.html'}.")


def _baseline_options(given: list[str] | None, computed: bool, crops: str | None, workers: int) -> "BaselineOptions":
    """The options of baselines, shared by two benchmarks."""
    from subcell_hf.shards.splits import parse_named
    from subcell_hf.workflows.evaluation.table_baselines import BASELINES, BaselineOptions

    tables = {name: Path(path) for name, path in parse_named(given or (), "--baseline").items()}
    return BaselineOptions(tables, BASELINES if computed else (), crops, workers)
