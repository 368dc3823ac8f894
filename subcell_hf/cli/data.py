"""Commands on images, crops and shards: from images to training batches."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf import cells, images, simulation
from subcell_hf.cli.option_groups import (
    AsJson,
    Count,
    CroppingRun,
    Folder,
    ImageOptions,
    ImageOptionsWithChannels,
    Seed,
    ShardOptions,
    show_skipped,
)
from subcell_hf.cli.options import Without
from subcell_hf.errors import InputError, counted
from subcell_hf.settings import Setting


def examples(folder: Folder) -> None:
    """Write a small simulated plate to try the commands on, and print the command that embeds it.

    Args:
        folder: New or empty folder.
    """
    from subcell_hf.workflows.examples import write_examples

    made = write_examples(folder)
    locations = ", ".join(made.locations)
    typer.echo(f"{folder} contains {counted(made.fields, 'simulated field')} of {locations}. Embed them with\n")
    typer.echo(f"    {made.command}")


def simulate(
    *,
    fields: int | None = None,
    screen: bool = False,
    output: Path,
    settings: "simulation.SimulationSettings",
    workers: Count = 1,
) -> None:
    """Simulate fields of view with known protein locations, masks and metadata; or a screen with known hits.

    Args:
        fields: Fields of view to simulate, about ten cells each at the default size.
        screen: Simulate profiles of a screen: profiles.parquet, plate_map.csv and truth.csv; only --seed applies.
        output: Output folder: new, empty, or of an earlier call, which is resumed.
        settings: What is simulated.
        workers: Number of parallel processes.
    """
    from subcell_hf.simulation.screen import write_screen
    from subcell_hf.simulation.simulate import simulate_dataset

    if screen == (fields is not None) or (screen and settings != simulation.SimulationSettings(settings.seed)):
        raise InputError("Give either --fields and how they look, or --screen with --seed only.")
    if fields is None:
        wells = len(write_screen(settings.seed, output).profiles)
        typer.echo(f"{output} contains {counted(wells, 'well')}; truth.csv lists which treatments are active.")
        return
    made = simulate_dataset(fields, output=output, workers=workers, **asdict(settings))
    simulated = counted(fields, "simulated field")
    typer.echo(f"{output} contains {simulated}, {made} of them new; metadata.csv lists their content.")


def inspect(
    source: Annotated[Path, Setting(metavar="INPUT")],
    *,
    reading: ImageOptions,
    look_at: Annotated[int, Setting(minimum=0)] = 3,
    as_json: AsJson = False,
    plot: Path | None = None,
) -> None:
    """Show what a folder of images contains. Exit code 3: something would be skipped; 2: nothing can be used.

    Args:
        source: Folder as the microscope wrote it, its index, an image, or a table.
        reading: How images are read.
        look_at: Number of fields whose pixels are checked.
        as_json: Print one JSON object, for programs.
        plot: Picture of the plates to write: .png, .pdf or .svg.
    """
    from subcell_hf.workflows.inspect_images import inspect_images

    found = inspect_images(source, reading, look_at=look_at)
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


def crops(
    source: Annotated[Path, Setting(metavar="INPUT")],
    *,
    output: Path,
    reading: "images.ReadingOptions",
    boxes: Path | None = None,
    settings: Annotated["cells.CropSettings", Without("reference_pixel_size_um", "dilation_px")],
    run: CroppingRun,
) -> None:
    """Crop single cells from fields of view. Exit code 3: some fields were skipped, see skipped.csv.

    Args:
        source: Folder of <plate>_<well>_<sample>_<colour> images or of multi-channel images, one image, or a table.
        output: Output folder: new, empty, or of an earlier call, which is resumed.
        reading: How images are read.
        boxes: CSV of bounding boxes: field_of_view,cell_id,top,left,height,width in pixels.
        settings: How crops are cut, and which cells are excluded.
        run: How fields are segmented and cropped.
    """
    from subcell_hf.workflows.crop import crop_images

    report = crop_images(source, output, settings=settings, reading=reading, boxes=boxes, **asdict(run))
    typer.echo(
        f"{output} contains {counted(report.cells, 'crop')} of {counted(report.fields, 'field')}; "
        f"{counted(report.filtered_cells, 'cell was', 'cells were')} filtered out, "
        f"{counted(len(report.skipped), 'field')} skipped."
    )
    show_skipped(report.skipped.values())
    if report.skipped:
        raise typer.Exit(3)


def shards(
    source: Annotated[str, Setting(metavar="INPUT")],
    *,
    output: Path,
    split: str | None = None,
    choice: "cells.CellChoice",
    split_by: str | None = None,
    settings: ShardOptions,
    reading: ImageOptionsWithChannels,
    run: CroppingRun,
) -> None:
    """Write crops as tar shards for training. Exit code 3: some fields were skipped, see skipped.csv.

    For more ways to crop, run `subcell crops` first and give its folder.

    Args:
        source: Crops, images, which are cropped first, or hpa: for published cells.
        output: Output folder: new, empty, or of an earlier call, which is resumed.
        split: For shards and hpa: use only the cells of this split.
        choice: Which of the published cells are used.
        split_by: gene (default): antibodies of one gene stay together; antibody; none; for hpa: published.
        settings: What the shards contain.
        reading: How images are read.
        run: How fields are segmented and cropped.
    """
    from subcell_hf.workflows.shards import shard_images

    report = shard_images(
        source,
        output,
        split_by=split_by,
        split=split,
        choice=choice,
        settings=settings,
        reading=reading,
        **asdict(run),
    )
    splits = ", ".join(f"{name} {len(names)}" for name, names in report.index.splits.items()) or "none"
    typer.echo(
        f"{output} contains {counted(report.index.cells, 'cell')} of "
        f"{counted(len(report.index.antibodies), 'antibody', 'antibodies')} in "
        f"{counted(len(report.index.shards), 'shard')}; splits: {splits}; "
        f"{counted(len(report.skipped), 'field')} skipped."
    )
    show_skipped(f"{name}: {reason}" for name, reason in report.skipped)
    if report.skipped:
        raise typer.Exit(3)


def shards_inspect(folder: Folder, *, contact_sheet: Path | None = None, workers: Count = 1) -> None:
    """Verify all files of a folder of shards and draw a contact sheet. Exit code 1: a file is damaged.

    Args:
        folder: Output folder of `subcell shards`.
        contact_sheet: Contact sheet to write (.html or .png); default: DIR/contact_sheet.html.
        workers: Number of parallel processes.
    """
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
    folder: Folder,
    *,
    by: str = "gene",
    fractions: str = "train=0.8,validation=0.1,test=0.1",
    seed: Seed = 0,
    lists: Annotated[tuple[str, ...], Setting("--list")] = (),
    published: Path | None = None,
) -> None:
    """Split the antibodies of a folder of shards again, or import lists of antibodies.

    Args:
        folder: Output folder of `subcell shards`.
        by: gene: antibodies of one gene stay together; or antibody.
        fractions: Fraction of the antibodies in each split.
        seed: Seed of the splits.
        lists: SPLIT=FILE with one antibody per line, instead of random splits; repeatable.
        published: Folder with the published antibody lists to verify and import.
    """
    from subcell_hf.shards.splits import parse_fractions, parse_named
    from subcell_hf.workflows.shards import change_splits

    files = {name: Path(path) for name, path in parse_named(lists, "--list").items()}
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
    shards: str,
    *,
    output: Path,
    pipeline: str = "multi_task",
    split: str | None = None,
    antibodies: Count = 2,
    cells: Count = 4,
    seed: Seed = 0,
) -> None:
    """Draw cells beside the augmented views used for training.

    Args:
        shards: Folder or URL of shards.
        output: Image to write (.png).
        pipeline: reconstruction, multi_task, contrastive, gentle, moderate, orientations, half_affine, validation,
            or a YAML file of view settings.
        split: Split to draw cells from; default: all cells.
        antibodies: Number of antibodies to show.
        cells: Number of cells per antibody.
        seed: Seed of the selection of cells and of their views.
    """
    from subcell_hf.workflows.shards import draw_views

    drawn = draw_views(shards, output, pipeline=pipeline, split=split, antibodies=antibodies, cells=cells, seed=seed)
    typer.echo(f"Drew {counted(drawn, 'cell')} to {output}.")
