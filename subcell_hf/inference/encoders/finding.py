"""What was typed for an encoder → the encoder: a name, a file, an entry point, a folder or a model on the Hub."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from subcell_hf.cells.custom_functions import import_function, last_change_ns, source_checksum
from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.backbones import build_backbone
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.encoders.encoder_variants import EncoderVariant
from subcell_hf.inference.encoders.found_encoder import FoundEncoder
from subcell_hf.inference.encoders.licences import note_licence
from subcell_hf.inference.encoders.measured import build_cellprofiler, build_features
from subcell_hf.inference.encoders.remote_code import build_remote_code
from subcell_hf.inference.encoders.specs import EncoderSpec
from subcell_hf.inference.models.loading import AUTO, ModelFolder, find_models
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.storage.model_folders import CONFIG_FILE
from subcell_hf.storage.plain_files import read_json
from subcell_hf.weights.model_names import find_folder
from subcell_hf.weights.published_variants import published_variants

ENTRY_POINTS = "subcell_hf.encoders"
"""Group of entry points by which an installed package adds encoders: `name = "module:function"`."""

BUILT_IN: dict[str, Callable[[EncoderSpec], Encoder]] = {"features": build_features, "cellprofiler": build_cellprofiler}
"""Name → what builds the encoder."""

_OWN_OPTIONS = ("channels", "pixel_size_um", "input_px", "scaling", "mask")
_logger = logging.getLogger(__name__)

Model = ModelFolder | FoundEncoder


def added_encoders() -> dict[str, EntryPoint]:
    """Name → entry point of the encoders that installed packages add."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def find_encoders(
    text: str,
    *,
    models: str | None = None,
    revision: str | None = None,
    proteins: Sequence[str] = (),
    crop_px: int | None = None,
    mask_cells: bool | None = None,
) -> tuple[Model, ...]:
    """Find what embeds the cells of a run: SubCell models, or one other encoder.

    Args:
        text: `SOURCE[,KEY=VALUE]…`, see `EncoderSpec`; a SubCell model has no options.
        models: See `find_models`.
        revision: Branch, tag or commit on the Hub.
        proteins: See `find_models`; for SubCell models only.
        crop_px: Edge of the window in the pixels of the model; None: its own.
        mask_cells: Whether surroundings are set to 0; None: as the model was trained.

    Returns:
        SubCell models, those with most channels first; or one other encoder. Without declared channels the variant of
        that has none yet.

    Raises:
        InputError: If there is no such encoder, it cannot be loaded, or an option has no meaning for it.
    """
    spec = EncoderSpec.parse(text)
    if is_subcell(spec, models):
        if spec.options:
            raise InputError(f"--model {text}: SubCell models have no options, got {', '.join(spec.options)}.")
        return find_models(
            spec.source, models=models, revision=revision, proteins=proteins, crop_px=crop_px, mask_cells=mask_cells
        )
    if models is not None:
        raise InputError(f"--models {models} is only used with --model auto; got --model {text}.")
    if revision is not None:
        spec.options.setdefault("revision", revision)
    build = _Builder(spec.source, json.dumps(spec.options), spec.name)
    encoder = build()
    if proteins:
        _logger.info("--protein-channel is for SubCell models; %s takes its own channels.", encoder.name)
    if crop_px is not None and encoder.pixel_size_um is not None and encoder.input_px is not None:
        _logger.warning("%s keeps its window of %d px: --crop-size-px has no effect.", encoder.name, encoder.input_px)
    variant = EncoderVariant.of(encoder, crop_px, mask_cells)
    return (FoundEncoder(encoder.name, spec.text, variant, build, encoder.describe(), encoder.checksum()),)


def subcell_models(models: Sequence[Model]) -> list[ModelFolder]:
    """The SubCell models among encoders."""
    return [model for model in models if isinstance(model, ModelFolder)]


def declare_channels(models: Sequence[Model], channels: Callable[[], Sequence[str]]) -> tuple[Model, ...]:
    """The encoders, those that declare no channels with those of the images.

    Args:
        models: See `find_encoders`.
        channels: Finds out the channels of the images; called only if it is needed.

    Returns:
        The models, in the same order, all with channels.
    """
    return tuple(
        model if model.variant.channels or isinstance(model, ModelFolder) else with_channels(model, channels())
        for model in models
    )


def with_channels(model: FoundEncoder, channels: Sequence[str]) -> FoundEncoder:
    """An encoder that declares no channels, for those of the images.

    Args:
        model: The encoder.
        channels: Names of the planes, in order.

    Returns:
        The same encoder, which takes exactly these.
    """
    encoder = replace(model.build(), channels=tuple(channels))
    variant = replace(
        model.variant, channels=encoder.channels, settings={**model.variant.settings, "channels": list(channels)}
    )
    return replace(model, variant=variant, checksum=encoder.checksum())


def is_subcell(spec: EncoderSpec, models: str | None = None) -> bool:
    """Whether a spec names a SubCell model: `auto`, a published one, or a folder or Hub id whose configuration says so.

    Args:
        spec: What was typed.
        models: What `--models` is; only SubCell models are chosen among.

    Raises:
        InputError: If it is nothing that an encoder can be.
    """
    source = spec.source
    if source == AUTO or models is not None:
        return True
    if _is_function(source) or source in BUILT_IN or source in added_encoders():
        return False
    if source in published_variants():
        return not (Path(source) / CONFIG_FILE).is_file() or _kind(Path(source)) == SubCellConfig.model_type
    if Path(source).is_dir():
        return not (Path(source) / CONFIG_FILE).is_file() or _kind(Path(source)) == SubCellConfig.model_type
    try:
        folder, _ = find_folder(source, spec.options.get("revision"), weights=False)
    except InputError as error:
        if "/" in source:
            raise
        others = ", ".join([*BUILT_IN, *added_encoders()])
        raise InputError(
            f"{error} Other encoders are {others}, and file.py:function: see `subcell encoders`."
        ) from error
    return _kind(folder) == SubCellConfig.model_type


def _is_function(source: str) -> bool:
    """Whether a source is `file.py:function` or `module:function`; the name of a folder may have a colon, too."""
    return ":" in source and not Path(source).is_dir()


def _kind(folder: Path) -> str:
    values = read_json(folder / CONFIG_FILE)
    return str(values.get("model_type", "")) if isinstance(values, dict) else ""


class _Builder:
    """Builds an encoder in whichever process it is needed."""

    def __init__(self, source: str, options: str, name: str) -> None:
        self._given = source, options, name

    def __call__(self) -> Encoder:
        file = Path(self._given[0].rpartition(":")[0])
        changed_ns = 0
        if file.suffix == ".py" and file.is_file():
            with suppress(SyntaxError, ValueError):  # of which the import says more
                changed_ns = last_change_ns(file)
        return _build(*self._given, changed_ns)


@lru_cache(maxsize=8)
def _build(source: str, options: str, name: str, changed_ns: int) -> Encoder:
    """Build an encoder, once in a process for each version of its file; common options change its description."""
    spec = EncoderSpec(source, json.loads(options), name)
    own = {key: spec.options.pop(key) for key in _OWN_OPTIONS if key in spec.options}
    described = EncoderSpec(source, own, name)
    if "channels" in own and "rgb" in spec.options:
        spec.options["channels"] = own["channels"]  # refused there
    encoder = _build_undescribed(spec)
    if spec.options:
        known = ", ".join(_OWN_OPTIONS)
        raise InputError(f"--model {source}: unknown option {', '.join(spec.options)}; every encoder has {known}.")
    changes: dict[str, object] = {}
    if channels := described.take_names("channels"):
        changes["channels"] = channels
    if (size := described.take_number("pixel_size_um")) is not None:
        changes["pixel_size_um"] = size
    if (edge := described.take_number("input_px")) is not None:
        changes["input_px"] = int(edge)
    if (masked := described.take_switch("mask")) is not None:
        changes["mask_cells"] = masked
    if (scaling := described.take("scaling")) is not None:
        changes["scaling"] = scaling
    if name:
        changes["name"] = name
    return replace(encoder, **changes)  # type: ignore[arg-type]


def _build_undescribed(spec: EncoderSpec) -> Encoder:
    if spec.source in BUILT_IN:
        return BUILT_IN[spec.source](spec)
    if _is_function(spec.source):
        return _build_custom(import_function(spec.source, "encoder"), spec)
    added = added_encoders()
    if spec.source in added and not Path(spec.source).exists():
        return build_entry_point(added[spec.source], spec)
    trusted = spec.take_switch("trust_remote_code") or False
    revision = spec.take("revision")
    licence = note_licence(spec.source, revision)
    folder, commit = find_folder(spec.source, revision, code=trusted)
    own_code = bool(read_json(folder / CONFIG_FILE).get("auto_map"))
    if own_code and not trusted:
        raise InputError(
            f"The model {spec.source} comes with code of its authors, which would be run here. If you trust it, give "
            f"--model {spec.text},trust_remote_code=true."
        )
    encoder = (build_remote_code if own_code else build_backbone)(spec, folder, licence)
    name = encoder.name if spec.name else Path(spec.source).name
    return replace(encoder, name=name, source=f"{spec.source}@{commit}" if commit else spec.source)


def build_entry_point(point: EntryPoint, spec: EncoderSpec) -> Encoder:
    """An encoder that an installed package adds.

    Args:
        point: Entry point of its group.
        spec: What was typed.

    Raises:
        InputError: If it cannot be imported or built.
    """
    try:
        function = point.load()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"The encoder {point.name} ({point.value}) cannot be imported ({type(error).__name__}: {error})."
        ) from error
    return _build_custom(function, spec)


def _build_custom(function: Callable[..., object], spec: EncoderSpec) -> Encoder:
    """An encoder that a function of the user builds; other options are its arguments."""
    arguments = dict(spec.options)
    spec.options.clear()
    try:
        encoder = function(**arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"The encoder {spec.source} cannot be built ({type(error).__name__}: {error}).") from error
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"The encoder {spec.source} returned a {type(encoder).__name__}, expected subcell_hf.inference.Encoder."
        )
    version = f"{encoder.version} {source_checksum(function)[:16]} {json.dumps(arguments, sort_keys=True)}"
    return replace(encoder, source=encoder.source or spec.source, version=version)
