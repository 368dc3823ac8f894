"""Images beside the inputs of a run that belong to none of them."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class ImageSource(Protocol):
    """A source that looks through a folder of images."""

    def unused(self) -> Mapping[str, str]:
        """Images that belong to no input, with the reason."""


def unused_of(source: object) -> Mapping[str, str]:
    """What a source does not use of its folder, with the reason; nothing where it looks through no folder of images.

    Args:
        source: Of cells or crops.
    """
    return source.unused() if isinstance(source, ImageSource) else {}
