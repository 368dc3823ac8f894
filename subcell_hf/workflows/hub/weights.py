"""Published weights by name: fetched to this machine, and published on the Hub under an owner's name."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_token

from subcell_hf.errors import InputError, counted
from subcell_hf.hub.publishing.collections import collect_repositories
from subcell_hf.hub.publishing.push import NO_TOKEN, PushPlan
from subcell_hf.progress import hide_weight_bars
from subcell_hf.storage.downloads.cached_files import cache_folder
from subcell_hf.weights.fetching import FetchedModel, fetch_weights
from subcell_hf.weights.published_variants import published_variant, published_variants, suggest_variants
from subcell_hf.workflows.hub.publishing import export_repository, push_folder
from subcell_hf.workflows.hub.push_options import PushOptions

COLLECTION_TITLE = "SubCell"
"""Title of the collection that lists the published models of an owner."""

_DESCRIPTION = "Vision transformers for fluorescence images of single cells: embeddings and protein locations"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedModels:
    """Result of `publish_models`.

    Attributes:
        plans: Repository → what was uploaded, or would be.
        collection: Address of the collection; None in a dry run.
    """

    plans: dict[str, PushPlan]
    collection: str | None

    def describe(self) -> str:
        """The outcome as text, with the line that loads the first model."""
        if self.collection is None:
            return (
                f"Dry run: {counted(len(self.plans), 'repository', 'repositories')} and a collection; nothing changed."
            )
        loading = f'AutoModel.from_pretrained("{next(iter(self.plans))}", trust_remote_code=True)'
        return f"{self.collection} lists {counted(len(self.plans), 'model')}. Load one with\n\n{loading}\n"


def fetch_models(
    variants: Sequence[str] = (),
    *,
    every: bool = False,
    source: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> tuple[FetchedModel, ...]:
    """Fetch published models, unless they are on this machine already; call it again to resume.

    Args:
        variants: Names, such as `mae-rybg`.
        every: Fetch all published models.
        source: Address of a mirror, or folder of files that were copied by hand; default: SubCell's public bucket.
        cache: Folder to keep them in; default: in that of Hugging Face (`HF_HOME`).
        progress: Whether to show progress bars on stderr.

    Returns:
        The models, with their folders.

    Raises:
        InputError: If a name is unknown, or a file is missing, cannot be downloaded or is not what it should be.
        OSError: If the cache cannot be written.
    """
    if every == bool(variants):
        raise InputError(f"Name at least one published model, or all of them (--all). {suggest_variants('')}")
    names = _names(() if every else variants)
    hide_weight_bars()
    cache = None if cache is None else Path(cache)
    return tuple(fetch_weights(name, source=source, cache=cache, progress=progress) for name in names)


def publish_models(
    owner: str,
    variants: Sequence[str] = (),
    *,
    source: str | Path | None = None,
    output: str | Path | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> PublishedModels:
    """Publish SubCell's models as OWNER/subcell-VARIANT, and a collection that lists them.

    Each model is fetched, converted, staged with its card, and pushed before the next one, so that a call that was
    interrupted can be repeated: what is on this machine is not fetched, and what is on the Hub is not uploaded again.

    Args:
        owner: User or organization on the Hub.
        variants: Names, such as `mae-rybg`; empty: all.
        source: Address of a mirror, or folder of files that were copied by hand; default: SubCell's public bucket.
        output: Folder of the staged repositories; default: beside the fetched weights.
        private: Create repositories and collection as private.
        dry_run: Fetch and stage the models, compare them with the Hub, and do not change it.

    Returns:
        What was uploaded, or would be.

    Raises:
        InputError: If a name is unknown, weights cannot be fetched, or the Hub refuses or cannot be reached.
        OSError: If the cache or the output cannot be written.
    """
    names = _names(variants)
    if not owner or "/" in owner:
        raise InputError(f"{owner!r} is not an owner on the Hub, expected a user or organization, without /.")
    if not dry_run and not get_token():
        raise InputError(f"No token found to publish as {owner}: {NO_TOKEN}.")
    hide_weight_bars()
    folder = cache_folder() / "repositories" / owner if output is None else Path(output)
    options = PushOptions(private=private, dry_run=dry_run, message="Publish SubCell's weights with subcell_hf")
    plans = {}
    for number, name in enumerate(names, 1):
        _logger.info("%d of %d: SubCell %s", number, len(names), name)
        fetched, repository = fetch_weights(name, source=source), f"{owner}/subcell-{name}"
        staged = export_repository(fetched.folder, folder / f"subcell-{name}", repository=repository).folder
        plans[repository] = push_folder(staged, repository, options)
        _logger.info(plans[repository].describe())
    if dry_run:
        return PublishedModels(plans, None)
    address = collect_repositories(owner, COLLECTION_TITLE, list(plans), description=_DESCRIPTION, private=private)
    return PublishedModels(plans, address)


def _names(variants: Sequence[str]) -> list[str]:
    """Published models by their names, each once; all of them if none is named."""
    return [published_variant(name).name for name in dict.fromkeys(variants)] or list(published_variants())
