"""Which views are made of a cell and by which transforms: settings from a dict or YAML, and the published pipelines.

| preset | views | random intensities | recipes |
| --- | --- | --- | --- |
| `reconstruction` | 1 | none | MAE |
| `multi_task` | 2 | second view | MAE-cellS-protS-contrast, MAE-cellS-protS-byol |
| `contrastive` | 2 | both | cellS, protS, cellS-protS, byol-ssl, supervised |
| `gentle` | 2 | both, milder ones; every cell masked, every channel scaled on its own | quickstart |
| `moderate` | 2 | as `gentle`, but stronger, and so is the geometry | quickstart on more cells |
| `orientations` | 2 | as `gentle`; the geometry: eight orientations, not interpolated | small cells, few steps |
| `half_affine` | 2 | as `orientations`; half of the views are also rotated, shifted and scaled | small |
| `validation` | 1 | none, no geometry either, every cell masked | all |
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from subcell_hf.augmentation import geometric as geometric
from subcell_hf.augmentation import intensity as intensity
from subcell_hf.augmentation.registry import OneOf, Transform, build_transform, refuse_unknown_keys

# Importing the two modules of transforms registers their names.
from subcell_hf.errors import InputError
from subcell_hf.ontology import PROTEIN_CHANNEL
from subcell_hf.storage.plain_files import explaining, read_yaml

SCALINGS = ("image", "channel")
"""How views are scaled to [0, 1]: the whole image by its minimum and maximum, or each channel by its own."""
_PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class ViewSettings:
    """How one view is made.

    Attributes:
        mask_probability: Share of an antibody's cells that lose their surroundings: of N, `int(N · (1 − p))` keep them.
        transforms: Steps in order.
    """

    mask_probability: float = 0.5
    transforms: tuple[Transform | OneOf, ...] = ()


@dataclass(frozen=True)
class AugmentationSettings:
    """How all views of a cell are made.

    Attributes:
        views: One entry per view.
        size_px: Edge of the square views.
        scaling: `"image"`: each crop to [0, 1] by the minimum and maximum of all its channels together; `"channel"`:
            each channel by its own.
        protein_channel: Name of the channel that `drop_channel` spares and `rescale_protein` rescales.
    """

    views: tuple[ViewSettings, ...]
    size_px: int = 448
    scaling: str = "image"
    protein_channel: str = PROTEIN_CHANNEL

    def __post_init__(self) -> None:
        if not self.views:
            raise InputError("There are no `views`: list at least one.")
        for index, view in enumerate(self.views):
            if not _is_share(view.mask_probability):
                raise InputError(
                    f"views[{index}].mask_probability is {view.mask_probability!r}: expected a number from 0 to 1."
                )
        if not isinstance(self.size_px, int) or isinstance(self.size_px, bool) or self.size_px < 1:
            raise InputError(f"size_px is {self.size_px!r}: expected a positive whole number of pixels.")
        if self.scaling not in SCALINGS:
            raise InputError(f"scaling is {self.scaling!r}: expected one of {', '.join(SCALINGS)}.")

    def with_size(self, size_px: int) -> "AugmentationSettings":
        """The same settings for views of another size."""
        return replace(self, size_px=size_px)


def settings_from_dict(values: Mapping[str, Any], where: str = "augmentation") -> AugmentationSettings:
    """Read settings from plain data.

    Args:
        values: Keys of `AugmentationSettings`; each of `views` a mapping with the keys of `ViewSettings`; each
            transform a mapping with its `name` and any of its parameters. Lists within `transforms` are joined to one,
            so that YAML anchors can name parts of a pipeline.
        where: What is being read, for messages.

    Raises:
        InputError: If a key, a transform or a value is unknown or refused.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}: expected a mapping with `views`.")
    refuse_unknown_keys(values, [field.name for field in fields(AugmentationSettings)], where)
    views = values.get("views")
    if not isinstance(views, list):
        raise InputError(f"{where}: `views` is {views!r}: expected a list with one entry per view.")
    parsed = tuple(_read_view(view, f"{where}: views[{index}]") for index, view in enumerate(views))
    return AugmentationSettings(**{**values, "views": parsed})


def settings_from_yaml(path: Path | str) -> AugmentationSettings:
    """Read settings from a YAML file; see `settings_from_dict`.

    Raises:
        InputError: If there is no such file, it is no YAML, or its content is refused.
    """
    if not Path(path).exists():
        raise InputError(f"The file of view settings {path} does not exist: check the path.")
    values = read_yaml(Path(path))
    with explaining(path, "Correct the file."):
        return settings_from_dict(values, where=str(path))


def preset_names() -> tuple[str, ...]:
    """Names of the presets."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.yaml")))


def load_preset(name: str) -> AugmentationSettings:
    """Settings of a preset; see the table above.

    Args:
        name: One of `preset_names()`.

    Raises:
        InputError: If there is no such preset.
    """
    if name not in preset_names():
        raise InputError(
            f"Unknown preset {name!r}: expected one of {', '.join(preset_names())}, or a file ending in .yaml."
        )
    return settings_from_yaml(_PRESETS / f"{name}.yaml")


def load_settings(name: str) -> AugmentationSettings:
    """Settings of a preset, or from a YAML file.

    Args:
        name: Name of a preset, or a path that ends in `.yaml` or `.yml`.

    Raises:
        InputError: If there is no such preset or file, or the file is refused.
    """
    return settings_from_yaml(name) if Path(name).suffix in (".yaml", ".yml") else load_preset(name)


def validation_views(training_views: AugmentationSettings) -> AugmentationSettings:
    """One view of every cell without its surroundings and without augmentation, sized and scaled as in training.

    Args:
        training_views: Settings whose size and scaling are kept.
    """
    return replace(training_views, views=load_preset("validation").views)


def _read_view(view: object, where: str) -> ViewSettings:
    if not isinstance(view, Mapping):
        raise InputError(f"{where} is {view!r}: expected a mapping with `mask_probability` and `transforms`.")
    refuse_unknown_keys(view, [field.name for field in fields(ViewSettings)], where)
    entries = view.get("transforms", [])
    if not isinstance(entries, list):
        raise InputError(f"{where}: `transforms` is {entries!r}: expected a list.")
    flat = [entry for part in entries for entry in (part if isinstance(part, list) else [part])]
    transforms = tuple(build_transform(entry, f"{where}.transforms[{index}]") for index, entry in enumerate(flat))
    return ViewSettings(view.get("mask_probability", ViewSettings.mask_probability), transforms)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
