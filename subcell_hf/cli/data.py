"""Commands on images, crops and shards: from images to training batches."""

import json
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf.cli.option_groups import CellOptions, ImageOptions, Segmentation, grouped
from subcell_hf.errors import counted


def examples(folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")]) -> None:
    """Write a small simulated plate to try the commands on, and print the command that embeds it."""
    from subcell_hf.workflows.examples import write_examples

    made = write_examples(folder)
    locations = ", ".join(made.locations)
    typer.echo(f"{folder} contains {counted(made.fields, 'simulated field')} of {locations}. Embed them with\n")
    typer.echo(f"    {made.command}")


def simulate(
    fields: Annotated[int, typer.Option(help="Fields of view to simulate, about ten cells each at the default size.")],
    output: Annotated[Path, typer.Option(help="Output folder: new, empty, or of an earlier call, which is resumed.")],
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives identical output.")] = 0,
    antibodies: Annotated[
        int | None, typer.Option(help="Number of antibodies; default: one per three fields, four at a time.")
    ] = None,
    size_px: Annotated[int, typer.Option(help="Width and height of the fields in pixels.")] = 1024,
    pixel_size_um: Annotated[float, typer.Option(help="Pixel size in micrometres.")] = 0.0800885,
    channels: Annotated[str, typer.Option(help="rybg, rbg, ybg, bg, or comma-separated colours.")] = "rybg",
    bit_depth: Annotated[int, typer.Option(help="8 or 16 bits per pixel.")] = 8,
    workers: Annotated[int, typer.Option(help="Number of parallel processes.")] = 1,
) -> None:
    """Simulate fields of view with known protein locations, masks and metadata."""
    from subcell_hf.ontology import channels_from_variant
    from subcell_hf.simulation.simulate import simulate_dataset

    made = simulate_dataset(
        fields,
        seed,
        output,
        antibodies=antibodies,
        size_px=size_px,
        pixel_size_um=pixel_size_um,
        channels=channels_from_variant(channels),
        bit_depth=bit_depth,
        workers=workers,
    )
    simulated = counted(fields, "simulated field")
    typer.echo(f"{output} contains {simulated}, {made} of them new; metadata.csv lists their content.")


@grouped
def inspect(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="Folder as the microscope wrote it, its index, an image, or a table."),
    ],
    images: ImageOptions,
    look_at: Annotated[int, typer.Option(min=0, help="Number of fields whose pixels are checked.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Picture of the plates to write: .png, .pdf or .svg.")] = None,
) -> None:
    """Show what a folder of images contains. Exit code 3: something would be skipped; 2: nothing can be used."""
    from subcell_hf.workflows.inspect_images import inspect_images

    found = inspect_images(source, images.reading(), look_at=look_at)
    if as_json:
        typer.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=1))
    else:
        from subcell_hf.workflows.inspection_text import describe_inspection

        typer.echo(describe_inspection(found))
    if plot is not None:
        from subcell_hf.workflows.plate_pictures import draw_plates

        draw_plates(found, plot)
    if found.usable < len(found.fields):
        raise typer.Exit(3 if found.usable else 2)


@grouped
def crops(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Folder of <plate>_<well>_<sample>_<colour> images or of multi-channel images, one image, or a table.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Output folder: new, empty, or of an earlier call, which is resumed.")],
    *,
    channels: Annotated[
        str | None, typer.Option(help="Required channels: rybg, rbg, …, or comma-separated names.")
    ] = None,
    images: ImageOptions,
    boxes: Annotated[
        Path | None, typer.Option(help="CSV of bounding boxes: field_of_view,cell_id,top,left,height,width in pixels.")
    ] = None,
    segmentation: Segmentation = "watershed",
    crop_size_px: Annotated[int, typer.Option(help="Width of a crop in pixels of 0.0800885 um.")] = 896,
    output_size_px: Annotated[int, typer.Option(help="Width of the stored crop in pixels.")] = 448,
    min_area_um2: Annotated[float | None, typer.Option(help="Exclude cells smaller than this.")] = None,
    max_area_um2: Annotated[float | None, typer.Option(help="Exclude cells larger than this.")] = None,
    exclude_border: Annotated[
        bool, typer.Option("--exclude-border", help="Exclude cells that touch the border of their field.")
    ] = False,
    max_saturation: Annotated[
        float | None, typer.Option(help="Exclude cells with a larger fraction (0 to 1) of saturated pixels.")
    ] = None,
    max_decoded_gib: Annotated[float, typer.Option(help="Refuse images larger than this once decoded, in GiB.")] = 4.0,
    workers: Annotated[int, typer.Option(help="Number of parallel processes.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray: Ray Data on this machine or on a cluster.")] = "local",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first field that cannot be used, instead of skipping it.")
    ] = False,
) -> None:
    """Crop single cells from fields of view. Exit code 3: some fields were skipped, see skipped.csv."""
    from subcell_hf.cells.single_cells import CropSettings
    from subcell_hf.workflows.crop import crop_images

    report = crop_images(
        source,
        output,
        settings=CropSettings(
            crop_px=crop_size_px,
            output_px=output_size_px,
            min_area_um2=min_area_um2,
            max_area_um2=max_area_um2,
            exclude_border=exclude_border,
            max_saturation=max_saturation,
        ),
        reading=images.reading(channels, max_decoded_gib),
        segmentation=segmentation,
        boxes=boxes,
        workers=workers,
        strict=strict,
        engine=engine,
    )
    typer.echo(
        f"{output} contains {counted(report.cells, 'crop')} of {counted(report.fields, 'field')}; "
        f"{counted(report.filtered_cells, 'cell was', 'cells were')} filtered out, "
        f"{counted(len(report.skipped), 'field')} skipped."
    )
    for reason in list(report.skipped.values())[:5]:
        typer.echo(f"Skipped: {reason}", err=True)
    if report.skipped:
        raise typer.Exit(3)


@grouped
def shards(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="Crops, images, which are cropped first, or hpa: for published cells."),
    ],
    output: Annotated[Path, typer.Option(help="Output folder: new, empty, or of an earlier call, which is resumed.")],
    *,
    cells: CellOptions,
    split_by: Annotated[
        str | None,
        typer.Option(help="gene (default): antibodies of one gene stay together; antibody; none; for hpa: published."),
    ] = None,
    fractions: Annotated[
        str, typer.Option(help="Fraction of the antibodies in each split.")
    ] = "train=0.8,validation=0.1,test=0.1",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with one location per line; default: SubCell's 35 locations.")
    ] = None,
    fields_per_shard: Annotated[int, typer.Option(min=1, help="Approximate number of fields of view per shard.")] = 64,
    description: Annotated[str, typer.Option(help="Source of the images, stored in the index.")] = "",
    channels: Annotated[
        str | None, typer.Option(help="For images: channels to use: rybg, rbg, …, or comma-separated names.")
    ] = None,
    images: ImageOptions,
    segmentation: Segmentation = "watershed",
    workers: Annotated[int, typer.Option(min=1, help="Number of parallel processes.")] = 1,
    engine: Annotated[str, typer.Option(help="local, or ray: Ray Data on this machine or on a cluster.")] = "local",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first field that cannot be used, instead of skipping it.")
    ] = False,
) -> None:
    """Write crops as tar shards for training. Exit code 3: some fields were skipped, see skipped.csv.

    For more ways to crop, run `subcell crops` first and give its folder.
    """
    from subcell_hf.ontology import training_locations
    from subcell_hf.shards.sharding import ShardSettings
    from subcell_hf.shards.splits import parse_fractions
    from subcell_hf.storage.plain_files import read_lines
    from subcell_hf.workflows.shards import shard_images

    settings = ShardSettings(
        fields_per_shard=fields_per_shard,
        classes=tuple(read_lines(classes)) if classes else training_locations(),
        source=description,
        split_fractions=parse_fractions(fractions),
        seed=seed,
    )
    report = shard_images(
        source,
        output,
        split_by=split_by,
        split=cells.split,
        choice=cells.choice(),
        settings=settings,
        reading=images.reading(channels),
        segmentation=segmentation,
        workers=workers,
        strict=strict,
        engine=engine,
    )
    splits = ", ".join(f"{name} {len(names)}" for name, names in report.index.splits.items()) or "none"
    typer.echo(
        f"{output} contains {counted(report.index.cells, 'cell')} of "
        f"{counted(len(report.index.antibodies), 'antibody', 'antibodies')} in "
        f"{counted(len(report.index.shards), 'shard')}; splits: {splits}; "
        f"{counted(len(report.skipped), 'field')} skipped."
    )
    for name, reason in report.skipped[:5]:
        typer.echo(f"Skipped: {name}: {reason}", err=True)
    if report.skipped:
        raise typer.Exit(3)


def shards_inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of `subcell shards`.")],
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet to write (.html or .png); default: DIR/contact_sheet.html.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of parallel processes.")] = 1,
) -> None:
    """Verify all files of a folder of shards and draw a contact sheet. Exit code 1: a file is damaged."""
    from subcell_hf.workflows.shards import check_shards

    found = check_shards(folder, contact_sheet=contact_sheet, workers=workers)
    if problems := found.inspection.problems:
        for problem in problems:
            typer.echo(problem, err=True)
        index = found.inspection.index
        typer.echo(
            f"{counted(index.cells, 'cell')}, {counted(len(index.antibodies), 'antibody', 'antibodies')}, "
            f"{counted(len(index.shards), 'shard')}: {counted(len(problems), 'problem')}. Copy the damaged files "
            "again or write the shards again."
        )
        raise typer.Exit(1)
    if found.contact_sheet is not None:
        typer.echo(f"Drew {found.contact_sheet}.")


def splits(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of `subcell shards`.")],
    by: Annotated[str, typer.Option(help="gene: antibodies of one gene stay together; or antibody.")] = "gene",
    fractions: Annotated[
        str, typer.Option(help="Fraction of the antibodies in each split.")
    ] = "train=0.8,validation=0.1,test=0.1",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    antibody_list: Annotated[
        list[str] | None,
        typer.Option("--list", help="SPLIT=FILE with one antibody per line, instead of random splits; repeatable."),
    ] = None,
    published: Annotated[
        Path | None, typer.Option(help="Folder with the published antibody lists to verify and import.")
    ] = None,
) -> None:
    """Split the antibodies of a folder of shards again, or import lists of antibodies."""
    from subcell_hf.shards.splits import parse_fractions, parse_named
    from subcell_hf.workflows.shards import change_splits

    files = {name: Path(path) for name, path in parse_named(antibody_list or (), "--list").items()}
    report = change_splits(
        folder, by=by, fractions=parse_fractions(fractions), seed=seed, lists=files, published=published
    )
    sizes = ", ".join(f"{name} {len(names)}" for name, names in report.index.splits.items())
    unused = counted(report.unused, "antibody is", "antibodies are")
    typer.echo(f"Antibodies in the splits of {folder}: {sizes}; {unused} in no split.")
    if report.unknown:
        unknown = counted(report.unknown, "antibody", "antibodies")
        typer.echo(f"Not in these shards: {unknown} of the lists.")


def views(
    shards: Annotated[str, typer.Argument(help="Folder or URL of shards.")],
    output: Annotated[Path, typer.Option(help="Image to write (.png).")],
    pipeline: Annotated[
        str,
        typer.Option(
            help="reconstruction, multi_task, contrastive, gentle, moderate, validation, or a YAML file of view "
            "settings."
        ),
    ] = "multi_task",
    split: Annotated[str | None, typer.Option(help="Split to draw cells from; default: all cells.")] = None,
    antibodies: Annotated[int, typer.Option(min=1, help="Number of antibodies to show.")] = 2,
    cells: Annotated[int, typer.Option(min=1, help="Number of cells per antibody.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the selection of cells and of their views.")] = 0,
) -> None:
    """Draw cells beside the augmented views used for training."""
    from subcell_hf.workflows.shards import draw_views

    drawn = draw_views(shards, output, pipeline=pipeline, split=split, antibodies=antibodies, cells=cells, seed=seed)
    typer.echo(f"Drew {counted(drawn, 'cell')} to {output}.")
