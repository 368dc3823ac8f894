"""What a run of `subcell embed` was given: kept in its `run.json` for later runs, such as those of baselines."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.errors import InputError
from subcell_hf.images.reading_options import ReadingOptions, parse_channel_mapping, parse_z_projection
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.settings import Setting
from subcell_hf.storage.typed_json import settings_from_json
from subcell_hf.tables.run_record import RUN_FORMAT


@dataclass(frozen=True)
class EmbedInput:
    """What is embedded, and by which models.

    Attributes:
        source: Images, an archive or dataset of images, a table, a folder of subcell crops, a folder or URL of shards,
            or hpa: for published cells.
        model: Published model (mae-rybg, …), folder or Hub id, or another encoder, see `docs/encoders.md`; auto: for
            each field the largest SubCell model whose channels it has.
        models: With --model auto: folder of models, or their owner on the Hub; OWNER/*-mae to select some.
        revision: Branch, tag or commit of a model on the Hub.
        protein_channels: Channel to use as the protein channel; repeat for several passes per cell. In Python, a
            tuple; empty: the model's own.
        mask_cells: Mask the surroundings of the cell; default: as configured in the model.
        options: How images are read and cropped.
        working_folder: Folder that relative paths start from.
        command: Command line of the run, where there was one.
    """

    source: Annotated[str, Setting(metavar="INPUT", argument=True)]
    model: str = ""
    models: str | None = None
    revision: str | None = None
    protein_channels: Annotated[tuple[str, ...], Setting("--protein-channel")] = ()
    mask_cells: Annotated[bool | None, Setting("--mask-cells/--keep-surroundings")] = None
    options: SourceOptions = field(default_factory=SourceOptions)
    working_folder: str = "."
    command: str = ""

    def find(self, path: str) -> str:
        """A path of the run: relative to its working folder if it exists there, else unchanged, as are URLs and ids."""
        started = Path(self.working_folder) / path
        return str(started) if "://" not in path and started.exists() else path


def read_embed_input(run: Mapping[str, Any], where: str = "run.json") -> EmbedInput | None:
    """The input of a finished run.

    Args:
        run: Content of `run.json`, of this or an earlier version.
        where: What to call it in messages.

    Returns:
        The input, with the paths of its metadata, plate maps, mapped folders, masks and segmentation found; None where
        the record names none, as for arrays in memory.

    Raises:
        InputError: If the record is damaged or was written by a later version.
    """
    form = run.get("format", 1)
    if form not in (1, RUN_FORMAT):
        raise InputError(
            f"{where} has format {form!r}, expected {RUN_FORMAT} or earlier. Update subcell-hf, or "
            "embed the images again."
        )
    if form == 1:
        given = _read_texts(run.get("arguments"), where)
    else:
        given = None if run.get("input") is None else settings_from_json(EmbedInput, run["input"], f"{where}: input")
    if given is None:
        return None
    if form != 1 and not given.model:
        raise InputError(f"{where}: input lacks the field 'model'. Embed the images again.")
    reading = given.options.reading
    reading = replace(
        reading,
        metadata=None if reading.metadata is None else Path(given.find(str(reading.metadata))),
        plate_maps=tuple(Path(given.find(str(path))) for path in reading.plate_maps),
        path_mapping={old: given.find(new) for old, new in reading.path_mapping.items()},
        masks=None if reading.masks is None else _found_pattern(reading.masks, given),
    )
    file, colon, function = given.options.segmentation.rpartition(":")
    segmentation = f"{given.find(file) if file else ''}{colon}{function}"
    return replace(given, options=replace(given.options, reading=reading, segmentation=segmentation))


def _found_pattern(masks: str, given: EmbedInput) -> str:
    """A pattern of masks as seen from here: the one of a path starts from the run's working folder."""
    return str(Path(given.working_folder) / masks) if "/" in masks else masks


def _read_texts(arguments: Any, where: str) -> EmbedInput | None:
    """Format 1: the options of the command by name, each as the text that Python makes of its value."""
    if not isinstance(arguments, dict) or "source" not in arguments:
        return None

    def value(name: str, default: Any = None) -> Any:
        return ast.literal_eval(arguments[name]) if name in arguments else default

    try:
        names = arguments.get("channel_names", "")
        reading = ReadingOptions(
            channel_mapping=parse_channel_mapping(value("channel_mapping", ())),
            channel_names=tuple(name.strip() for name in names.split(",")) if names else (),
            pixel_size_um=value("pixel_size_um"),
            z_projection=parse_z_projection(arguments.get("z_projection")),
            metadata=Path(arguments["metadata"]) if "metadata" in arguments else None,
            trust_masks=value("trust_masks", False),
        )
        filters = CropSettings(
            min_area_um2=value("min_area_um2"),
            max_area_um2=value("max_area_um2"),
            exclude_border=value("exclude_border", False),
        )
        options = SourceOptions(
            reading,
            filters,
            segmentation=arguments.get("segmentation", "watershed"),
            single_cells=value("single_cells"),
            split=arguments.get("split"),
            crop_px=value("crop_size_px"),
        )
        return EmbedInput(
            source=arguments["source"],
            model=arguments.get("model", ""),
            models=arguments.get("models"),
            revision=arguments.get("revision"),
            protein_channels=tuple(value("protein_channel", ())),
            mask_cells=value("mask_cells"),
            options=options,
            working_folder=arguments.get("working_folder", "."),
            command=arguments.get("command", ""),
        )
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise InputError(f"{where} has arguments that cannot be read ({error}). Embed the images again.") from error
