"""Baselines of the cells of a table: an untrained network, classical features, pixel components.

`compute_baselines` computes features and pixel components of crops or shards. `find_baselines` finds all three beside a
table, or computes them from the images that its cells were cut from. Evaluation takes tables and never a model, so
what needs both is combined here.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd

from subcell_hf.errors import InputError, UnreachableError, counted
from subcell_hf.evaluation.baselines.baselines import FEATURES, PIXELS, BaselineSettings, make_baselines
from subcell_hf.evaluation.perturbation.table import holds_profiles
from subcell_hf.settings import Setting
from subcell_hf.shards.splits import parse_named
from subcell_hf.storage.folder_lock import claim_folder, is_writable
from subcell_hf.storage.parquet_files import check_parquet, read_parquet_file
from subcell_hf.tables.files import EMBEDDINGS_FILE, H5AD_FILE, EmbeddingTable, read_table, write_parquet
from subcell_hf.tables.parquet import parquet_facts
from subcell_hf.tables.run_record import RUN_FILE, read_run

if TYPE_CHECKING:
    from subcell_hf.workflows.evaluation.table_origin import TableOrigin

UNTRAINED = "untrained"
BASELINES = (UNTRAINED, FEATURES, PIXELS)
"""Names of the baselines that every evaluation includes by default."""

KEPT_IN = "baselines"
"""Folder of the baselines, in the folder of `subcell embed`, or of the evaluation if the table has no such folder."""

_MADE_FOR = "made_for"

_FAULTS = (InputError, OSError, UnreachableError)
"""What keeps baselines from being computed; the table itself is evaluated all the same."""

_logger = logging.getLogger(__name__)


def _read_given(texts: Sequence[str]) -> dict[str, Path]:
    return {name: Path(path) for name, path in parse_named(texts, "--baseline").items()}


def _read_computed(computed: bool) -> tuple[str, ...]:
    return BASELINES if computed else ()


@dataclass(frozen=True)
class BaselineOptions:
    """Baselines that a benchmark compares with.

    Attributes:
        given: NAME=TABLE with the same cells or wells, such as cellprofiler=profiles.csv; repeatable. untrained,
            features and pixels replace the table that would be computed. In Python, `{name: table}`.
        computed: Compare with an untrained network, classical features and pixel components of the same cells; they
            are computed if they do not exist yet. In Python, names of `BASELINES`.
        images: Images, crops or shards of the cells; default: as recorded by `subcell embed`.
        workers: Number of processes that read cells and compute baselines.
    """

    given: Annotated[Mapping[str, Path], Setting("--baseline", parse=_read_given, repeatable=True)] = field(
        default_factory=dict
    )
    computed: Annotated[
        tuple[str, ...], Setting("--baselines/--no-baselines", kind=bool, parse=_read_computed, default=True)
    ] = BASELINES
    images: Annotated[str | None, Setting("--crops")] = None
    workers: Annotated[int, Setting(minimum=0)] = 0

    def missing_in(self, names: Mapping[str, object]) -> list[str]:
        """The baselines to compute where those of `names` exist, in the order of `BASELINES`."""
        return [name for name in BASELINES if name in self.computed and name not in names]


@dataclass(frozen=True)
class FoundBaselines:
    """Baselines of a table.

    Attributes:
        tables: Name → table.
        missing: One sentence for each reason why baselines are missing, with the remedy.
    """

    tables: Mapping[str, Path]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class WrittenBaseline:
    """A baseline in a file.

    Attributes:
        path: Parquet file of the table.
        cells: Number of cells.
        width: Numbers per cell.
    """

    path: Path
    cells: int
    width: int


def compute_baselines(
    source: str, output: str | Path, settings: BaselineSettings | None = None, *, workers: int = 1
) -> dict[str, WrittenBaseline]:
    """Compute classical features and pixel components of cells, as baselines for a model.

    Args:
        source: Folder or URL of shards, or output folder of `subcell crops`.
        output: Folder for `features.parquet` and `pixels.parquet`.
        settings: How they are computed.
        workers: Parallel processes.

    Returns:
        Name → what was written.

    Raises:
        InputError: If there are no crops, they cannot be measured, or the folder is in use.
    """
    output = Path(output)
    with claim_folder(output):
        tables = make_baselines(source, settings or BaselineSettings(), workers=workers)
        written = {}
        for name, table in tables.items():
            path = output / f"{name}.parquet"
            write_parquet(table, path)
            written[name] = WrittenBaseline(path, *table.embeddings.shape)
        return written


def find_baselines(
    path: Path, table: EmbeddingTable, wanted: Sequence[str], *, images: str | None, output: Path, workers: int = 0
) -> FoundBaselines:
    """Find the baselines of a table, or compute those that do not exist.

    Args:
        path: File or folder that the table was read from.
        table: The table.
        wanted: Names of the baselines, of `BASELINES`.
        images: Images, crops or shards of its cells; None: as `run.json` records.
        output: Folder of the evaluation; baselines are stored there if the table does not lie in a folder of
            `subcell embed`.
        workers: Processes that read and measure; 0 and 1: this process alone.

    Returns:
        The baselines; what could not be computed is listed with the reason.

    Raises:
        InputError: If baselines cannot be computed from the given `images`.
    """
    if not wanted:
        return FoundBaselines({})
    from subcell_hf.workflows.evaluation.table_origin import TableOrigin  # with torch, which tables alone do not need

    path = _run_of(path)
    folder = (path if (path / EMBEDDINGS_FILE).is_file() else output) / KEPT_IN
    files = {name: _file_of(folder, name) for name in wanted}
    try:
        origin = TableOrigin.of_table(path, table.provenance, images)
    except InputError as error:
        if images is not None:
            raise
        kept = {name: file for name, file in files.items() if _is_kept(file, table.cells, None)}
        lacking = {name: str(error) for name in wanted if name not in kept}
        return FoundBaselines(kept, _explain(lacking, images_known=False))

    def find_pending() -> list[str]:
        return [name for name in wanted if not _is_kept(files[name], table.cells, origin.identity)]

    computed, failed = False, dict[str, str]()
    if find_pending():
        if not is_writable(folder):
            _logger.warning("%s is not writable; baselines are stored in %s.", folder, output / KEPT_IN)
            folder = output / KEPT_IN
            files |= {name: _file_of(folder, name) for name in find_pending()}
        # Two evaluations of one table need the same baselines: the second waits and takes them.
        with claim_folder(folder, wait=True):
            if pending := find_pending():
                what = f"baselines ({', '.join(pending)}) of the same {counted(len(table), 'cell')}"
                _logger.info("Computing %s, stored in %s; --no-baselines skips them.", what, folder)
                failed = _compute(origin, table.cells, folder, pending, workers)
                computed = True
    if not computed:
        _logger.info("Using the stored baselines (%s) in %s.", ", ".join(wanted), folder)
    if images is not None and (reasons := [reason for name, reason in failed.items() if name != UNTRAINED]):
        raise InputError(f"Baselines cannot be computed from --crops {images}: {reasons[0]}")
    return FoundBaselines({name: file for name, file in files.items() if name not in failed}, _explain(failed))


def find_profile_baselines(
    profiles: Sequence[Path], wanted: Sequence[str], *, images: str | None, output: Path, workers: int = 0
) -> FoundBaselines:
    """Find or compute the baselines of a table of cells that are aggregated to wells; see `find_baselines`.

    Raises:
        InputError: If `images` is given for what is no table of cells, or baselines cannot be computed from it.
    """
    if not wanted:
        return FoundBaselines({})
    reason = ""
    if len(profiles) > 1:
        reason = "they are fitted on the cells of one table, got several tables. Embed all images into one folder"
    elif holds_profiles(profiles[0]):
        reason = (
            f"{profiles[0]} contains profiles, but baselines are computed from images of single cells. Evaluate an "
            "output folder of `subcell embed`"
        )
    if not reason:
        table = read_table(profiles[0])
        return find_baselines(profiles[0], table, wanted, images=images, output=output, workers=workers)
    sentence = (
        f"Not compared with the baselines {', '.join(wanted)}: {reason}, or give other profiles of the same wells"
    )
    if images is not None:
        raise InputError(f"--crops cannot be used. {sentence} with --baseline NAME=TABLE.")
    return FoundBaselines({}, (f"{sentence} with --baseline NAME=TABLE.",))


def _file_of(folder: Path, name: str) -> Path:
    """Where a baseline is kept."""
    return folder / (name if name == UNTRAINED else f"{name}.parquet")


def _run_of(path: Path) -> Path:
    """The folder of `subcell embed` that a table lies in, or the table itself."""
    own = path.name in (EMBEDDINGS_FILE, H5AD_FILE) and path.is_file() and (path.parent / RUN_FILE).is_file()
    return path.parent if own else path


def _explain(failed: Mapping[str, str], *, images_known: bool = True) -> tuple[str, ...]:
    """One sentence for all baselines that fail for one reason."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    sentences = []
    for reason, which in names.items():
        remedy = "Give the images with --crops INPUT, or tables of the same cells with --baseline NAME=TABLE"
        if images_known and which == [UNTRAINED]:
            remedy = (
                "Create its table with `subcell untrained` and `subcell embed`, and give it with --baseline "
                f"{UNTRAINED}=TABLE"
            )
        said = f"baseline{'s' if len(which) > 1 else ''} {', '.join(which)}: {reason.rstrip('.')}"
        sentences.append(f"Not compared with the {said}. {remedy}.")
    return tuple(sentences)


def _is_kept(path: Path, cells: pd.DataFrame, identity: str | None) -> bool:
    """Whether a baseline exists and holds these cells; one that was computed for other images does not count."""
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
        _logger.warning("A baseline is computed again: %s", error)
        return False
    if identity is not None and facts.get(_MADE_FOR, identity) != identity:
        return False
    ids = read_parquet_file(file, ["cell_id"])["cell_id"].to_pandas()
    return bool(cells["cell_id"].isin(ids).all())


def _compute(
    origin: "TableOrigin", cells: pd.DataFrame, folder: Path, pending: Sequence[str], workers: int
) -> dict[str, str]:
    """Compute baselines. Returns the reason for each that cannot be computed."""
    from subcell_hf.workflows.evaluation.baseline_computation import BaselineComputation

    failed: dict[str, str] = {}
    measured = [name for name in pending if name != UNTRAINED]
    if not origin.models:
        if UNTRAINED in pending:
            failed[UNTRAINED] = "the table does not record which SubCell model embedded it"
        try:
            _measure_given_crops(origin, cells, folder, measured, workers)
        except _FAULTS as error:
            failed |= dict.fromkeys(measured, str(error))
        return failed
    try:
        computation = BaselineComputation.open(origin, cells, folder, measured=bool(measured), workers=workers)
    except _FAULTS as error:
        return dict.fromkeys(pending, str(error))
    if UNTRAINED in pending:
        try:
            computation.embed_untrained(folder / UNTRAINED, {_MADE_FOR: origin.identity, "source": origin.source})
            if not _is_kept(folder / UNTRAINED, cells, origin.identity):
                raise InputError(f"{origin.source} no longer contains all cells of the table")
        except _FAULTS as error:
            failed[UNTRAINED] = str(error)
    if measured:
        try:
            _write(computation.measure(), folder, measured, origin.identity)
        except _FAULTS as error:
            failed |= dict.fromkeys(measured, str(error))
    return failed


def _measure_given_crops(
    origin: "TableOrigin", cells: pd.DataFrame, folder: Path, names: Sequence[str], workers: int
) -> None:
    """Measure crops or shards for a table that is not of a SubCell model."""
    if not names:
        return
    try:
        tables = make_baselines(origin.source, workers=max(workers, 1))
    except FileNotFoundError as error:
        raise InputError(
            f"{error}. For a table that `subcell embed` did not write, give shards or the output of `subcell crops`"
        ) from error
    chosen = {}
    for name, table in tables.items():
        rows = pd.Index(table.cells["cell_id"]).get_indexer(pd.Index(cells["cell_id"]))
        if (rows < 0).any():
            raise InputError(
                f"{origin.source} lacks {int((rows < 0).sum())} of {len(cells)} cells of the table, first "
                f"{cells['cell_id'][rows < 0].iloc[0]!r}; its cells have names such as "
                f"{table.cells['cell_id'].iloc[0]!r}"
            )
        chosen[name] = table.select(rows)
    _write(chosen, folder, names, origin.identity)


def _write(tables: Mapping[str, EmbeddingTable], folder: Path, names: Sequence[str], identity: str) -> None:
    for name in names:
        table = tables[name]
        write_parquet(replace(table, provenance={**table.provenance, _MADE_FOR: identity}), folder / f"{name}.parquet")
