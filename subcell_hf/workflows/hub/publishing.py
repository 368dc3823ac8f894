"""Publishing on the Hugging Face Hub: repositories of models with their Spaces, data sets of shards, metrics."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.hub.cards.dataset_card import stage_shards
from subcell_hf.hub.publishing.export import check_export, export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.hub.publishing.metric_spaces import SPACE_SDK, stage_metrics
from subcell_hf.hub.publishing.push import Content, Kind, PushPlan, plan_push, push_files
from subcell_hf.hub.publishing.space_folder import check_space, read_sdk
from subcell_hf.progress import hide_weight_bars
from subcell_hf.weights.model_names import find_folder
from subcell_hf.workflows.hub.push_options import PushOptions

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedModel:
    """Result of `export_repository`.

    Attributes:
        folder: Complete repository of the model.
        repository: `"owner/name"` that its card and its Space name.
        space: Folder of the Space; None if none was staged.
    """

    folder: Path
    repository: str
    space: Path | None


def export_repository(
    model: str | Path,
    output: str | Path,
    *,
    repository: str | None = None,
    sources: ExportSources | None = None,
    encoder_only: bool = False,
    onnx: bool = False,
    bioimageio: bool = False,
    space: str | Path | None = None,
    space_reference: str | Path | None = None,
) -> ExportedModel:
    """Stage a complete repository of a model for the Hub, and with `space` the demo page that shows it.

    Args:
        model: Folder of a trained run or its model, of `subcell convert`, or of a classifier; Hub id; or name of a
            published model, which is fetched.
        output: Folder to write: new, empty, or an earlier export, which is replaced.
        repository: `"owner/name"` on the Hub; default: `subcell/` and the name of the output folder.
        sources: Sources of the facts on the card.
        encoder_only: Export without heads and decoder.
        onnx: Also write `onnx/model.onnx`, checked against the model in onnxruntime.
        bioimageio: Also write `bioimageio.zip`, this file as a bioimage.io package.
        space: Folder of the Space, which loads the repository from the Hub.
        space_reference: Embedding table of this model with known locations, for the map of the Space.

    Raises:
        InputError: If the weights are damaged, a required field of the card is missing, a folder holds something else,
            or a reference is given without a Space.
    """
    output = Path(output)
    space = None if space is None else Path(space)
    space_reference = None if space_reference is None else Path(space_reference)
    if space_reference is not None and space is None:
        raise InputError("--space-reference requires --space, the folder of the Space.")
    hide_weight_bars()
    folder = export_model(
        find_folder(model)[0],
        output,
        repository=repository,
        sources=sources,
        encoder_only=encoder_only,
        onnx=onnx,
        bioimageio=bioimageio,
    )
    named = repository or f"subcell/{output.resolve().name}"
    if space is not None:
        from subcell_hf.hub.demo.space import stage_space  # gradio is an extra

        stage_space(folder, space, repository=named, reference=space_reference)
    return ExportedModel(folder, named, space)


def push_folder(folder: str | Path, repository: str, options: PushOptions | None = None) -> PushPlan:
    """Upload a staged model, or its Space, in one commit; files that the Hub already has are not uploaded again.

    Args:
        folder: Output of `export_repository`: the folder of the model, or of the Space.
        repository: `"owner/name"`.
        options: Branch, message and visibility.

    Returns:
        What was uploaded, or would be.

    Raises:
        InputError: If the folder is incomplete or holds a link or a pickle, or the Hub refuses or cannot be reached.
    """
    folder = Path(folder)
    sdk = read_sdk(folder)
    if sdk is not None:
        return _push(check_space(folder), repository, "space", options, sdk)
    files = check_export(folder)
    if f'"{repository}"' not in (folder / "README.md").read_text(encoding="utf-8"):
        _logger.warning(
            "The examples of the card load another repository than %s. To correct them: subcell export --repository %s",
            repository,
            repository,
        )
    return _push(files, repository, "model", options)


def push_shards(
    folder: str | Path,
    repository: str,
    license_id: str,
    *,
    name: str | None = None,
    workers: int = 1,
    options: PushOptions | None = None,
) -> PushPlan:
    """Verify a folder of shards and upload it as a data set; call it again to resume an interrupted upload.

    Args:
        folder: Output of `subcell shards`.
        repository: `"owner/name"`.
        license_id: Licence of the images as a Hub identifier, such as `"cc-by-sa-4.0"`.
        name: Title of the data set; default: the name of the repository.
        workers: Processes that verify.
        options: Branch, message and visibility.

    Returns:
        What was uploaded, or would be.

    Raises:
        InputError: If the shards are not what their index says, or the Hub refuses or cannot be reached.
    """
    folder = Path(folder)
    files = stage_shards(folder, repository, license_id=license_id, name=name, workers=workers)
    return _push(files, repository, "dataset", options)


def push_metrics(
    owner: str, metrics: Sequence[str] = (), *, private: bool = False, dry_run: bool = False
) -> dict[str, PushPlan]:
    """Upload the metric modules as Spaces OWNER/METRIC, which `evaluate.load` can load.

    Each upload is logged when it has finished, since a later one may fail.

    Args:
        owner: User or organization on the Hub.
        metrics: Names of the modules; empty: all.
        private: Create the Spaces as private.
        dry_run: Compare with the Hub and change nothing.

    Returns:
        Metric → what was uploaded, or would be.

    Raises:
        InputError: If a metric is unknown, or the Hub refuses or cannot be reached.
    """
    plans = {}
    for name, files in stage_metrics(metrics).items():
        options = PushOptions(private=private, dry_run=dry_run)
        plans[name] = _push(files, f"{owner}/{name}", "space", options, SPACE_SDK)
        _logger.info(plans[name].describe())
    return plans


def _push(
    files: dict[str, Content], repository: str, kind: Kind, options: PushOptions | None, sdk: str | None = None
) -> PushPlan:
    chosen = options or PushOptions()
    if chosen.dry_run:
        return plan_push(files, repository, kind, chosen.revision)
    return push_files(
        files,
        repository,
        kind,
        revision=chosen.revision,
        create_revision=chosen.create_revision,
        private=chosen.private,
        message=chosen.message,
        space_sdk=sdk,
    )
