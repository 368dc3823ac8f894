"""What `subcell embed` was told of its input: parsed once, and read back from the `run.json` of a run."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subcell_hf.inference.sources.recognition import SourceOptions

WORKING_FOLDER = "working_folder"
"""Argument in `run.json` that says where relative paths begin."""


@dataclass(frozen=True)
class EmbedInput:
    """Options of `subcell embed` that say how the input is to be understood; see there."""

    channel_mapping: Sequence[str] | None = None
    channel_names: str | None = None
    pixel_size_um: float | None = None
    z_projection: str | None = None
    metadata: Path | None = None
    trust_masks: bool = False
    segmentation: str = "watershed"
    min_area_um2: float | None = None
    max_area_um2: float | None = None
    exclude_border: bool = False
    single_cells: bool | None = None
    split: str | None = None
    crop_size_px: int | None = None

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, str]) -> "EmbedInput":
        """The options of a run, as `run.json` keeps them: texts, where an option was given."""
        texts = ("channel_names", "z_projection", "segmentation", "split")
        given = {field.name: arguments[field.name] for field in fields(cls) if field.name in arguments}
        values: dict[str, Any] = {
            name: text if name in texts or name == "metadata" else ast.literal_eval(text)
            for name, text in given.items()
        }
        if "metadata" in values:
            values["metadata"] = Path(find_path(values["metadata"], arguments))
        return cls(**values)

    def options(self) -> "SourceOptions":
        """The options in the words of the room inference.

        Raises:
            InputError: If one cannot be read.
        """
        from subcell_hf.cells.single_cells import CropSettings
        from subcell_hf.images.reading_options import ReadingOptions, parse_channel_mapping, parse_z_projection
        from subcell_hf.inference.sources.recognition import SourceOptions

        names = tuple(name.strip() for name in self.channel_names.split(",")) if self.channel_names else ()
        return SourceOptions(
            reading=ReadingOptions(
                channel_mapping=parse_channel_mapping(self.channel_mapping or ()),
                channel_names=names,
                pixel_size_um=self.pixel_size_um,
                z_projection=parse_z_projection(self.z_projection),
                metadata=self.metadata,
                trust_masks=self.trust_masks,
            ),
            filters=CropSettings(
                min_area_um2=self.min_area_um2, max_area_um2=self.max_area_um2, exclude_border=self.exclude_border
            ),
            segmentation=self.segmentation,
            single_cells=self.single_cells,
            split=self.split,
            crop_px=self.crop_size_px,
        )


def find_path(text: str, arguments: Mapping[str, str]) -> str:
    """A path of a run, from where the run was started if it is there, else as it stands; URLs and ids stay."""
    started = Path(arguments.get(WORKING_FOLDER, ".")) / text
    return str(started) if "://" not in text and started.exists() else text
