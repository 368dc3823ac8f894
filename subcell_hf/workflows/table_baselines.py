"""The baselines of the very cells of a table: found beside it, or made of the images that its cells were cut from.

Evaluation takes tables and never a model, so what a baseline needs of the other rooms is put together here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from subcell_hf.tables.files import EmbeddingTable
    from subcell_hf.workflows.embed_input import EmbedInput

UNTRAINED = "untrained"
BASELINES = (UNTRAINED, "features", "pixels")
"""Names of the baselines that stand in every evaluation."""

KEPT_IN = "baselines"
"""Folder of the baselines, in the folder of `subcell embed`, or of the evaluation where the table has none."""

_MADE_FOR = "made_for"


@dataclass(frozen=True)
class FoundBaselines:
    """Baselines of a table.

    Attributes:
        tables: Name → table.
        missing: One sentence for what could not be had, with the remedy.
    """

    tables: Mapping[str, Path]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where the cells of a table come from.

    Attributes:
        identity: What the baselines must have been made for.
        source: Path or URL of the images, crops or shards.
        input: What `subcell embed` was given, as far as known.
        models: Facts of the models that embedded the cells; empty where it was no SubCell model.
        precision: Of the embedding.
    """

    identity: str
    source: str
    input: "EmbedInput | None"
    models: tuple[Mapping[str, Any], ...]
    precision: str = "auto"

    @classmethod
    def of_table(cls, path: Path, provenance: Mapping[str, Any], crops: str | None) -> "Origin":
        """Find out.

        Args:
            path: The table.
            provenance: What it says of itself.
            crops: Where the user says that the images lie.

        Raises:
            InputError: If nobody says where, or nothing is there.
        """
        from subcell_hf.errors import InputError
        from subcell_hf.tables.run_record import RUN_FILE, read_run
        from subcell_hf.workflows.embed_input import read_embed_input

        run = read_run(path)
        given = read_embed_input(run, str(path / RUN_FILE))
        source = crops or (given.source if given else None)
        if source is None:
            raise InputError(f"{path} does not say which images its cells were cut from")
        source = given.find(source) if given else source
        if "://" not in source and not Path(source).exists():
            raise InputError(f"{source}, which its cells were cut from, is not there")
        facts = run or provenance
        identity = run.get("fingerprint", source)
        return cls(identity, source, given, tuple(facts.get("models", ())), facts.get("precision", "auto"))


def find_baselines(
    path: Path, table: "EmbeddingTable", wanted: Sequence[str], *, crops: str | None, output: Path, workers: int
) -> FoundBaselines:
    """Find the baselines of a table, or make those that are not there.

    Args:
        path: Where the table was read from.
        table: The table.
        wanted: Names of the baselines, of `BASELINES`.
        crops: Images, crops or shards of its cells, if the user said; otherwise as `run.json` says.
        output: Folder of the evaluation; baselines are kept in it where the table has no folder of its own.
        workers: Processes that read and measure; 0 and 1: this one.

    Raises:
        InputError: If baselines cannot be made of `crops`.
    """
    from subcell_hf.errors import InputError
    from subcell_hf.storage.folder_lock import claim_folder, is_writable
    from subcell_hf.tables.files import EMBEDDINGS_FILE

    if not wanted:
        return FoundBaselines({})
    path = _run_of(path)
    folder = (path if (path / EMBEDDINGS_FILE).is_file() else output) / KEPT_IN
    files = {name: _file_of(folder, name) for name in wanted}
    try:
        origin = Origin.of_table(path, table.provenance, crops)
    except InputError as error:
        if crops is not None:
            raise
        kept = {name: file for name, file in files.items() if _is_kept(file, table.cells, None)}
        lacking = {name: str(error) for name in wanted if name not in kept}
        return FoundBaselines(kept, _explain(lacking, images_known=False))

    def find_pending() -> list[str]:
        return [name for name in wanted if not _is_kept(files[name], table.cells, origin.identity)]

    made, failed = False, dict[str, str]()
    if find_pending():
        if not is_writable(folder):
            typer.echo(f"{folder} cannot be written: baselines are kept in {output / KEPT_IN}.", err=True)
            folder = output / KEPT_IN
            files |= {name: _file_of(folder, name) for name in find_pending()}
        # Two evaluations of one table need the same baselines: the second waits and takes them.
        with claim_folder(folder, wait=True):
            if pending := find_pending():
                what = f"baselines ({', '.join(pending)}) of the same {len(table):,} cells"
                typer.echo(f"Making {what}, kept in {folder}; --no-baselines leaves them out.")
                failed = _make(origin, table.cells, folder, pending, workers)
                made = True
    if not made:
        typer.echo(f"Baselines ({', '.join(wanted)}) are taken from {folder}.")
    if crops is not None and (reasons := [reason for name, reason in failed.items() if name != UNTRAINED]):
        raise InputError(f"No baselines can be made of --crops {crops}: {reasons[0]}")
    return FoundBaselines({name: file for name, file in files.items() if name not in failed}, _explain(failed))


def _file_of(folder: Path, name: str) -> Path:
    """Where a baseline is kept."""
    return folder / (name if name == UNTRAINED else f"{name}.parquet")


def _run_of(path: Path) -> Path:
    """The folder of `subcell embed` that a table lies in, or the table itself."""
    from subcell_hf.inference.engine.parts import H5AD_FILE
    from subcell_hf.tables.files import EMBEDDINGS_FILE
    from subcell_hf.tables.run_record import RUN_FILE

    own = path.name in (EMBEDDINGS_FILE, H5AD_FILE) and path.is_file() and (path.parent / RUN_FILE).is_file()
    return path.parent if own else path


def find_profile_baselines(
    profiles: Sequence[Path], wanted: Sequence[str], *, crops: str | None, output: Path, workers: int
) -> FoundBaselines:
    """Find or make the baselines of a table of cells that are aggregated to wells; see `find_baselines`.

    Raises:
        InputError: If `crops` is given for what is no table of cells, or baselines cannot be made of it.
    """
    from subcell_hf.errors import InputError
    from subcell_hf.evaluation.perturbation.table import holds_profiles
    from subcell_hf.tables.files import read_table

    if not wanted:
        return FoundBaselines({})
    reason = ""
    if len(profiles) > 1:
        reason = "they are fitted on the cells of one table, and several were given. Embed all images into one folder"
    elif holds_profiles(profiles[0]):
        reason = (
            f"{profiles[0]} holds profiles, and those are made of the images of single cells. Evaluate a folder of "
            "`subcell embed`"
        )
    if not reason:
        return find_baselines(profiles[0], read_table(profiles[0]), wanted, crops=crops, output=output, workers=workers)
    sentence = (
        f"Not compared with the baselines {', '.join(wanted)}: {reason}, or give other profiles of the same wells"
    )
    if crops is not None:
        raise InputError(f"--crops cannot be used. {sentence} with --baseline NAME=TABLE.")
    return FoundBaselines({}, (f"{sentence} with --baseline NAME=TABLE.",))


def _explain(failed: Mapping[str, str], *, images_known: bool = True) -> tuple[str, ...]:
    """One sentence for all baselines that fail for one reason."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    sentences = []
    for reason, which in names.items():
        remedy = (
            "Say where the images are with --crops INPUT, or give tables of the same cells with --baseline NAME=TABLE"
        )
        if images_known and which == [UNTRAINED]:
            remedy = (
                f"`subcell untrained` and `subcell embed` make its table; give it with --baseline {UNTRAINED}=TABLE"
            )
        said = f"baseline{'s' if len(which) > 1 else ''} {', '.join(which)}: {reason.rstrip('.')}"
        sentences.append(f"Not compared with the {said}. {remedy}.")
    return tuple(sentences)


def _is_kept(path: Path, cells: "pd.DataFrame", identity: str | None) -> bool:
    """Whether a baseline is there and holds these cells; one that was made for other images does not count."""
    from subcell_hf.errors import InputError
    from subcell_hf.storage.parquet_files import check_parquet, read_parquet_file
    from subcell_hf.tables.files import EMBEDDINGS_FILE
    from subcell_hf.tables.parquet import parquet_facts
    from subcell_hf.tables.run_record import RUN_FILE, read_run

    file = path / EMBEDDINGS_FILE if path.is_dir() else path
    if not file.is_file() or (path.is_dir() and not (path / RUN_FILE).is_file()):
        return False
    try:
        check_parquet(file)
        facts = (parquet_facts(file) or {}).get("provenance", {})
        if path.is_dir():
            run = read_run(path)
            facts = {**run.get("arguments", {}), **run}  # `arguments`: of earlier versions
    except InputError as error:
        typer.echo(f"A baseline is made again: {error}", err=True)
        return False
    if identity is not None and facts.get(_MADE_FOR, identity) != identity:
        return False
    ids = read_parquet_file(file, ["cell_id"])["cell_id"].to_pandas()
    return bool(cells["cell_id"].isin(ids).all())


def _make(origin: Origin, cells: "pd.DataFrame", folder: Path, pending: Sequence[str], workers: int) -> dict[str, str]:
    """Make baselines. Returns the reason for each that cannot be made."""
    from subcell_hf.errors import InputError
    from subcell_hf.workflows.measuring import BaselineMaker

    failed: dict[str, str] = {}
    measured = [name for name in pending if name != UNTRAINED]
    if not origin.models:
        if UNTRAINED in pending:
            failed[UNTRAINED] = "the table does not say which SubCell model embedded it"
        try:
            _measure_given_crops(origin, cells, folder, measured, workers)
        except (InputError, OSError) as error:
            failed |= dict.fromkeys(measured, str(error))
        return failed
    try:
        maker = BaselineMaker.open(origin, cells, folder, measured=bool(measured), workers=workers)
    except (InputError, OSError) as error:
        return dict.fromkeys(pending, str(error))
    if UNTRAINED in pending:
        try:
            maker.embed_untrained(folder / UNTRAINED, {_MADE_FOR: origin.identity, "source": origin.source})
            if not _is_kept(folder / UNTRAINED, cells, origin.identity):
                raise InputError(f"{origin.source} no longer gives all cells of the table")
        except (InputError, OSError) as error:
            failed[UNTRAINED] = str(error)
    if measured:
        try:
            _write(maker.measure(), folder, measured, origin.identity)
        except (InputError, OSError) as error:
            failed |= dict.fromkeys(measured, str(error))
    return failed


def _measure_given_crops(
    origin: Origin, cells: "pd.DataFrame", folder: Path, names: Sequence[str], workers: int
) -> None:
    """Measure crops or shards for a table that is not of a SubCell model."""
    import pandas as pd

    from subcell_hf.errors import InputError
    from subcell_hf.evaluation.baselines.baselines import make_baselines

    if not names:
        return
    try:
        tables = make_baselines(origin.source, workers=max(workers, 1))
    except FileNotFoundError as error:
        raise InputError(
            f"{error}. For a table that is not of `subcell embed` give shards or the folder of `subcell crops`"
        ) from error
    chosen = {}
    for name, table in tables.items():
        rows = pd.Index(table.cells["cell_id"]).get_indexer(pd.Index(cells["cell_id"]))
        if (rows < 0).any():
            raise InputError(
                f"{origin.source} lacks {int((rows < 0).sum())} of {len(cells)} cells of the table, first "
                f"{cells['cell_id'][rows < 0].iloc[0]!r}; it has cells such as {table.cells['cell_id'].iloc[0]!r}"
            )
        chosen[name] = table.select(rows)
    _write(chosen, folder, names, origin.identity)


def _write(tables: "Mapping[str, EmbeddingTable]", folder: Path, names: Sequence[str], identity: str) -> None:
    from subcell_hf.tables.files import write_parquet

    for name in names:
        table = tables[name]
        write_parquet(replace(table, provenance={**table.provenance, _MADE_FOR: identity}), folder / f"{name}.parquet")
