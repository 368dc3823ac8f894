"""Commands that run a model on images: `embed`, and `optimize`, which makes it faster on CPUs."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from subcell_hf import inference, workflows
from subcell_hf.cli.option_groups import AsJson, ImageOptions, show_skipped
from subcell_hf.cli.options import Without
from subcell_hf.settings import Setting


def doctor(*, as_json: AsJson = False) -> None:
    """Check this machine and measure its speed. Exit code 2: the package cannot work here.

    Args:
        as_json: Print one JSON object, for programs.
    """
    from subcell_hf.workflows.machine.doctor import check_machine, describe_checkup

    found = check_machine()
    typer.echo(json.dumps(found.as_json(), indent=1) if as_json else describe_checkup(found))
    if not found.possible:
        raise typer.Exit(2)


def embed(
    *,
    given: Annotated[
        "workflows.EmbedInput",
        Without(
            "model",
            "working_folder",
            "command",
            "reading.channels",
            "max_decoded_bytes",
            "filters.crop_px",
            "output_px",
            "reference_pixel_size_um",
            "dilation_px",
            "max_saturation",
        ),
    ],
    model: Annotated[tuple[str, ...], Setting(metavar="[NAME=]MODEL")],
    output: Path,
    settings: Annotated["inference.EmbedSettings", Without("attention_maps", "progress")],
    report: bool = True,
    portable: bool = False,
) -> None:
    """Compute embeddings and protein locations of cells. Exit code 3: some inputs were skipped, see skipped.csv.

    On several GPUs: accelerate launch -m subcell_hf.cli embed INPUT …

    Args:
        given: What is embedded, and by which models.
        model: Published SubCell model (mae-rybg, …), folder or Hub id; features, or another encoder that `subcell
            encoders` lists; file.py:function. Options follow as ,KEY=VALUE. auto: for each field the largest SubCell
            model whose channels it has. Repeat as NAME=MODEL to embed the same cells by several, each into OUTPUT/NAME.
        output: Output folder: new, empty, or of an earlier call, which is resumed.
        settings: How it is done.
        report: Also write report.html, a summary of the run.
        portable: Also write SubCellPortable's files for each cell, to OUTPUT/portable.
    """
    from subcell_hf.inference.encoders.specs import EncoderSpec
    from subcell_hf.inference.engine.embedding import EmbedReport
    from subcell_hf.parallel.processes import is_launched
    from subcell_hf.workflows.embed import embed_to_folder
    from subcell_hf.workflows.encoders.embed_encoders import EncodersReport, embed_with_encoders

    command = shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "subcell"), *sys.argv[1:]])
    given = replace(given, working_folder=str(Path.cwd()), command=command)
    run: EmbedReport | EncodersReport
    if len(model) == 1 and not EncoderSpec.parse(model[0]).name:
        given = replace(given, model=model[0])
        run = embed_to_folder(given, output, settings, report=report, portable=portable)
    else:
        run = embed_with_encoders(given, model, output, settings, report=report, portable=portable)
    failed = run.failed if isinstance(run, EncodersReport) else {}
    show_skipped(f"{name}: {reason}" for name, reason in run.skipped)
    if not run.skipped and not failed:
        return
    if is_launched() and not failed:
        typer.echo(
            "The tables are complete; skipped.csv lists the inputs that are not in them. The exit code is 0, because "
            "launchers take any other code for a failure."
        )
        return
    raise typer.Exit(3)


def encoders(*, as_json: AsJson = False) -> None:
    """List what can be given to `subcell embed --model`, with licence, channels, embedding size and what it needs.

    Args:
        as_json: Print a JSON list, for programs.
    """
    from subcell_hf.inference.encoders.catalogue import list_encoders

    listed = [encoder.as_json() for encoder in list_encoders()]
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
        return
    rows = [("ENCODER", "CHANNELS", "SIZE", "LICENCE", "NEEDS")]
    for found in listed:
        size = str(found["embedding_size"] or "depends on channels")
        rows.append(
            (found["name"], ", ".join(found["channels"]) or "any", size, found["licence"] or "-", found["needs"])
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


def optimize(
    model: str,
    *,
    calibrate: str,
    output: Path,
    judge: str | None = None,
    images: ImageOptions,
    settings: "workflows.OptimizeSettings",
) -> None:
    """Quantize a model to int8 for CPUs, and write it if it agrees with the float model on other cells.

    Args:
        model: Folder or Hub id of a model, or name of a published one, such as mae-rybg.
        calibrate: Images, crops or shards to calibrate on, as `subcell embed` takes them.
        output: Output folder; must not exist or be empty.
        judge: Others to judge the result on; default: half of CALIBRATE.
        images: How images are read.
        settings: How much is calibrated on, and what is accepted.
    """
    from subcell_hf.inference import SourceOptions
    from subcell_hf.workflows.machine.optimize import optimize_model

    optimize_model(model, calibrate, output, judge=judge, options=SourceOptions(images), settings=settings)
    typer.echo(f"{output} is ready: subcell embed IMAGES --model {output} --output run")
