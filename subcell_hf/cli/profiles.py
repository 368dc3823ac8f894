"""Commands of the room evaluation: perturbation profiles and the proteome map."""

from pathlib import Path
from typing import Annotated

import typer


def perturbation(
    profiles: Annotated[
        list[Path],
        typer.Argument(
            help="Profiles of cells, fields or wells: csv, parquet with Metadata_ columns, or any embedding table. "
            "Several are put below each other."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    group_column: Annotated[str, typer.Option(help="Column that names the perturbation of a well.")],
    plate_column: Annotated[str, typer.Option(help="Column that names the plate.")] = "Metadata_Plate",
    well_column: Annotated[
        str, typer.Option(help="Column that names the well; rows of one well are aggregated.")
    ] = "Metadata_Well",
    field_column: Annotated[
        str, typer.Option(help="Column that names the field of view in a well; cells become fields, fields wells.")
    ] = "Metadata_Site",
    control: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE of control wells; repeat for more kinds.")
    ] = None,
    statistic: Annotated[str, typer.Option(help="How cells become fields and fields wells: mean or median.")] = "mean",
    positives: Annotated[
        str, typer.Option(help="Wells that should be found: any-plate or other-plates, of the same group.")
    ] = "any-plate",
    negatives: Annotated[
        str, typer.Option(help="Wells they are told from: same-plate-controls, controls, same-plate-others, others.")
    ] = "same-plate-controls",
    normalize: Annotated[str, typer.Option(help="Per plate: none, standardize or robust.")] = "robust",
    reference: Annotated[str, typer.Option(help="Wells that give each plate's scale: all or controls.")] = "all",
    sphering: Annotated[str, typer.Option(help="By the controls: none, PCA, PCA-cor, ZCA, ZCA-cor or TVN.")] = "none",
    shrinkage: Annotated[
        float | None, typer.Option(help="Shrinkage of covariances, 0 to 1; default: estimated (Ledoit and Wolf).")
    ] = None,
    select_features: Annotated[
        bool, typer.Option("--select-features", help="Leave out features that hardly vary or repeat others.")
    ] = False,
    search_share: Annotated[
        float | None,
        typer.Option(help="Choose normalisation and sphering on this share of the groups; report the others."),
    ] = None,
    moa_column: Annotated[
        str | None, typer.Option(help="Column of mechanisms of action, several separated by |; scores them, too.")
    ] = None,
    moa_table: Annotated[
        Path | None, typer.Option(help="CSV with the group column and the mechanism column, if profiles lack it.")
    ] = None,
    null_size: Annotated[int, typer.Option(help="Random rankings behind each p-value.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
) -> None:
    """Do replicates of a perturbation, and perturbations of one mechanism, find each other?"""
    from subcell_hf.errors import InputError
    from subcell_hf.evaluation.perturbation import (
        PerturbationSettings,
        add_mechanisms,
        evaluate_perturbation,
        parse_controls,
    )
    from subcell_hf.evaluation.profiles.postprocessing import PostProcessing
    from subcell_hf.evaluation.profiles.report import write_report
    from subcell_hf.evaluation.profiles.table import read_profiles

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
    table = read_profiles(profiles)
    if moa_table is not None and moa_column is not None:
        table = add_mechanisms(table, moa_table, group_column, moa_column)
    result = evaluate_perturbation(table, settings)
    write_report(result, output)
    scores = result.summary["replicate_retrieval"]
    typer.echo(
        f"Replicate mAP {scores['mean_average_precision']:.4f} over {scores['groups']} groups, "
        f"{scores['share_retrieved']:.0%} above chance; {output / 'report.html'} shows them."
    )
