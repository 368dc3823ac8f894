"""Collections on the Hugging Face Hub: one page that lists repositories."""

from collections.abc import Sequence

from huggingface_hub import HfApi

from subcell_hf.hub.publishing.push import explaining_failures


def collect_repositories(
    owner: str,
    title: str,
    repositories: Sequence[str],
    *,
    description: str = "",
    private: bool = False,
    api: HfApi | None = None,
) -> str:
    """List models in a collection; it is created if it does not exist, and models that it lists already stay there.

    Args:
        owner: User or organization on the Hub.
        title: Title of the collection; with the owner it identifies it.
        repositories: Models, as `"owner/name"`.
        description: Text of a collection that is created, at most 150 characters.
        private: Whether a collection that is created is private.
        api: Client; None for one with the user's own settings.

    Returns:
        Address of the collection.

    Raises:
        InputError: If the Hub refuses or cannot be reached.
    """
    api = api or HfApi()
    with explaining_failures(f"the collection {title!r} of {owner}", "main", api):
        collection = api.create_collection(
            title, namespace=owner, description=description or None, private=private, exists_ok=True
        )
        listed = {item.item_id for item in collection.items}
        for repository in repositories:
            if repository not in listed:
                api.add_collection_item(collection.slug, repository, "model", exists_ok=True)
    return collection.url
