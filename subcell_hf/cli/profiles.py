"""Commands of the room evaluation: perturbation profiles and the proteome map."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf.cli.outputs import claims_output


@claims_output
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
        typer.Option(help="Images, crops or shards of the cells; default: as recorded by `subcell embed`."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Number of processes that read cells and compute baselines.")] = 0,
    null_size: Annotated[int, typer.Option(help="Number of random rankings for each p-value.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives identical output.")] = 0,
) -> None:
    """Benchmark retrieval of replicates and mechanisms of action. Exit code 3: some wells were excluded."""
    from subcell_hf.errors import InputError
    from subcell_hf.evaluation.perturbation.benchmark import (
        PerturbationResult,
        PerturbationSettings,
        add_mechanisms,
        evaluate_perturbation,
        parse_controls,
    )
    from subcell_hf.evaluation.perturbation.left_out import sentences_of
    from subcell_hf.evaluation.perturbation.perturbation_report import LEFT_OUT_FILE, write_report
    from subcell_hf.evaluation.perturbation.postprocessing import PostProcessing
    from subcell_hf.evaluation.perturbation.profile_comparison import compare_groups
    from subcell_hf.evaluation.perturbation.table import read_profiles
    from subcell_hf.shards.splits import parse_named
    from subcell_hf.workflows.table_baselines import BASELINES, find_profile_baselines

    if moa_table is not None and moa_column is None:
        raise InputError("--moa-table needs --moa-column, the name of its column of mechanisms.")
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

    named = {group_column, plate_column, well_column, field_column, *(column for column, _ in settings.controls)}
    named |= {moa_column} if moa_column else set()

    def score(paths: Sequence[Path]) -> PerturbationResult:
        table = read_profiles(paths, named)
        if moa_table is not None and moa_column is not None:
            table = add_mechanisms(table, moa_table, group_column, moa_column)
        return evaluate_perturbation(table, settings)

    result = score(profiles)
    given = {name: Path(path) for name, path in parse_named(baseline or (), "--baseline").items()}
    wanted = [name for name in BASELINES if name not in given] if baselines else []
    found = find_profile_baselines(profiles, wanted, crops=crops, output=output, workers=workers)
    missing, comparisons = list(found.missing), []
    tables = {**given, **found.tables}
    for name in dict.fromkeys((*BASELINES, *given)):
        if name not in tables:
            continue
        try:
            scored = score([tables[name]])
        except InputError as error:
            if name in given:
                raise
            missing.append(f"Not compared with the baseline {name}: {error}")
            continue
        comparisons.append(compare_groups(result.replicates, scored.replicates, name, seed))
    write_report(result, output, tuple(comparisons), tuple(missing))
    for comparison in comparisons:
        typer.echo(comparison["sentence"])
    for sentence in missing:
        typer.echo(sentence, err=True)
    scores = result.summary["replicate_retrieval"]
    typer.echo(
        f"Replicate mAP {scores['mean_average_precision']:.4f} over {scores['groups']} groups, "
        f"{scores['share_retrieved']:.0%} above chance; {output / 'report.html'} shows them."
    )
    for sentence in sentences_of(result.summary["left_out"], str(output / LEFT_OUT_FILE)):
        typer.echo(sentence, err=True)
    if len(result.left_out):
        raise typer.Exit(3)


@claims_output
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
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives identical output.")] = 0,
) -> None:
    """Map the proteome: aggregate cells to genes, correct batch effects, cluster, test for enrichment, draw a page."""
    from subcell_hf.evaluation.perturbation.benchmark import parse_controls
    from subcell_hf.evaluation.proteome_map.map import MapSettings, make_map, parse_resolutions
    from subcell_hf.evaluation.proteome_map.map_files import write_map
    from subcell_hf.evaluation.proteome_map.thumbnails import find_pictures, read_thumbnails

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
    made = make_map(table, settings)
    pictures = find_pictures(table)
    write_map(made, output, title, read_thumbnails(pictures, made.example_cells) if pictures else None)
    for reason, count in made.summary["cells_left_out"].items():
        typer.echo(f"{count} cells are not on the map: {reason}.", err=True)
    if made.summary["pieces_of_the_graph"] > 1:
        typer.echo(f"The graph of genes fell into {made.summary['pieces_of_the_graph']} pieces, which were bridged.")
    for level in made.summary["levels"]:
        agreement = level["agreement_with_locations"]
        known = "" if agreement is None else f", adjusted Rand index with locations {agreement:.3f}"
        typer.echo(f"resolution {level['resolution']:g}: {level['clusters']} clusters{known}")
    typer.echo(
        f"{made.summary['genes']} genes of {made.summary['cells']} cells are on the map: open {output / 'map.html'}."
    )
