"""The fields of view of one file or folder: one, or one per position, well or series."""

from pathlib import Path

from subcell_hf.images.decoders.ome_zarr import is_zarr_folder, list_zarr_images
from subcell_hf.images.files import image_positions
from subcell_hf.images.listed_fields import ListedField


def list_positions(path: Path, stem: str) -> list[ListedField]:
    """The images of a file or an OME-Zarr folder as fields of view, named so that they stay apart.

    Positions of a TIFF are called `<stem>_0`, `<stem>_1` and so on, as are the series of an OME-Zarr that was converted
    from such a file; images of a plate `<stem>_<well>_<sample>`. What cannot be read is one field; reading it says why.

    Args:
        path: The file or folder.
        stem: Its name without the suffix.
    """
    if is_zarr_folder(path):
        return [
            ListedField(name=image.name, stack_file=image.path, metadata=image.metadata)
            for image in list_zarr_images(path, stem)
        ]
    positions = image_positions(path)
    if len(positions) < 2:
        return [ListedField(name=stem, stack_file=path, stack_position=positions[0].number if positions else None)]
    return [
        ListedField(
            name=f"{stem}_{index}",
            stack_file=path,
            stack_position=position.number,
            problem=position.problem and f"{path}, image {position.number}: {position.problem}",
        )
        for index, position in enumerate(positions)
    ]
