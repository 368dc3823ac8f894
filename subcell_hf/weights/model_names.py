"""A model's name → the folder with its files: a folder on this machine, a model on the Hub, or a published variant."""

import logging
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.storage.model_folders import CONFIG_FILE
from subcell_hf.storage.plain_files import one_line
from subcell_hf.weights.fetching import fetch_weights
from subcell_hf.weights.published_variants import published_variants, suggest_variants

_SETTINGS_FILES = ("*.json",)
_CARD = "README.md"  # which names the licence
_NEEDED_FILES = (*_SETTINGS_FILES, _CARD, "*.safetensors", "openvino/*")  # the last one by `subcell optimize`
_CODE_FILES = ("*.py",)

_logger = logging.getLogger(__name__)


def find_folder(
    name: str | Path, revision: str | None = None, *, weights: bool = True, code: bool = False
) -> tuple[Path, str | None]:
    """The folder of a model by its name.

    A folder on this machine comes first. If it has the name of a published model, it must contain a model itself, and
    which of the two is used is logged.

    Args:
        name: A folder, the id of a model on the Hub, which is downloaded, or the name of a published model, such as
            `mae-rybg`, which is fetched (see `fetch_weights`).
        revision: Branch, tag or commit on the Hub.
        weights: Whether the weights are needed, too.
        code: Whether Python files are downloaded, too; nothing is run here.

    Returns:
        The folder, and the commit on the Hub or None for any other folder.

    Raises:
        InputError: If there is no such folder or model, or the Hub or the published weights cannot be reached.
    """
    path, text = Path(name), str(name)
    published = text in published_variants()
    holds_model = any((place / CONFIG_FILE).is_file() for place in (path, path / "model"))  # or is the folder of a run
    if path.is_dir() and (holds_model or not published):
        if revision is not None:
            raise InputError(f"{name} is a local folder, which has no revision {revision!r}. Leave --revision out.")
        if published:
            _logger.info("Using the folder %s, not the published model of the same name.", path.absolute())
        return path, None
    if published:
        if revision is not None:
            raise InputError(f"{name} is a published model, which has no revision {revision!r}. Leave --revision out.")
        if path.exists():
            _logger.info("%s contains no model; using the published model of the same name.", path.absolute())
        return fetch_weights(text).folder, None
    if not path.exists() and text.count("/") == 1 and not text.startswith((".", "/")):
        needed = (*(_NEEDED_FILES if weights else _SETTINGS_FILES), *(_CODE_FILES if code else ()))
        return _download(text, revision, needed)
    raise InputError(
        f"The model {text!r} is neither a folder, nor an id such as owner/name, nor a published model. "
        f"{suggest_variants(text)} `subcell convert` makes a folder from other weights."
    )


def _download(name: str, revision: str | None, patterns: tuple[str, ...]) -> tuple[Path, str]:
    """A snapshot of a model on the Hub, and its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise InputError(
            f"The model {name} is gated. Accept its conditions on its page on the Hub, then run `hf auth login` with a "
            "token of the same account."
        ) from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"The model {name!r} is no folder here and was not found on the Hub: check the name, or run `hf auth "
            f"login` if it is private. {suggest_variants(name)}"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(
            f"The model {name} has no revision {revision!r}: check its branches, tags and commits."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InputError(
            f"The model {name!r} is no folder here and was not found on the Hub: {one_line(error)}"
        ) from error
    return folder, folder.name
