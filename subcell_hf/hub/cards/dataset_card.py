"""Folders of shards as data sets on the Hub: checked against their index, with a card made from it."""

from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing.push import Content, readable_size
from subcell_hf.shards.index import CELLS_FILE, INDEX_FILE, ShardIndex
from subcell_hf.shards.inspection import inspect_shards
from subcell_hf.shipped import shipped_folder

_SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
                    (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip


def stage_shards(
    folder: Path, repository: str, *, license_id: str, name: str | None = None, workers: int = 1, progress: bool = True
) -> dict[str, Content]:
    """Check shards and say which files make up their repository.

    Args:
        folder: That `subcell shards` wrote.
        repository: `"owner/name"`.
        license_id: Of the images, the Hub's identifier.
        name: Of the data set, in words.
        workers: Processes that check.
        progress: Show a progress bar.

    Returns:
        Path in the repository → file: the shards, their index and table, and a card. Other files are not uploaded.

    Raises:
        InputError: If no licence is given, or a file does not match the index.
    """
    if not license_id.strip():
        raise InputError("license is empty: give the licence of the images, such as cc-by-sa-4.0.")
    report = inspect_shards(folder, workers=workers, progress=progress)
    if report.problems:
        raise InputError(
            f"{folder} does not match its index; nothing was uploaded: {'; '.join(report.problems[:5])}. "
            "Copy the damaged files again or write the shards again."
        )
    names = [INDEX_FILE, CELLS_FILE, *(shard.file for shard in report.index.shards)]
    files: dict[str, Content] = {file: folder / file for file in names}
    card = make_dataset_card(report.index, repository, license_id, name or repository.split("/")[-1])
    return files | {"README.md": str(card).encode()}


def make_dataset_card(index: ShardIndex, repository: str, license_id: str, name: str) -> DatasetCard:
    """A card from what the index knows; arguments as in `stage_shards`."""
    category = next((text for limit, text in _SIZE_CATEGORIES if index.cells < limit), "100M<n<1B")
    data = DatasetCardData(
        license=license_id,
        pretty_name=name,
        size_categories=[category],
        task_categories=["image-feature-extraction", "image-classification"],
        tags=["subcell", "biology", "microscopy", "fluorescence", "single-cell", "webdataset"],
    )
    card: DatasetCard = DatasetCard.from_template(
        data,
        template_path=str(shipped_folder("model_cards") / "dataset_card.md.jinja"),
        name=name,
        repository=repository,
        index=index,
        form=index.crop_format,
        genes=len({gene for gene in index.genes if gene}),
        size=readable_size(sum(shard.bytes for shard in index.shards)),
        license=license_id,
    )
    return card
