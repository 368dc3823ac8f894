"""A field of view that was found → its pixels, channels, pixel size and mask."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.images.decoders.file_metadata import (
    MAX_PIXEL_SIZE_UM,
    MIN_PIXEL_SIZE_UM,
    ImageMetadata,
    is_sane_pixel_size,
)
from subcell_hf.images.decoders.image import ImageHeader
from subcell_hf.images.files import FieldError, Image, read_header, read_image, refuse_empty
from subcell_hf.images.listed_fields import FilePlace, ListedField
from subcell_hf.images.masks.instances import check_instances
from subcell_hf.images.masks.label_files import read_labels
from subcell_hf.images.metadata_columns import keep_apart
from subcell_hf.images.planes import (
    ZProjection,
    channel_stack,
    check_intensities,
    project,
    sharpest_plane,
    single_plane,
    stack_planes,
    z_planes_of,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well
from subcell_hf.ontology import CHANNEL_STAINS, PROTEIN_CHANNEL
from subcell_hf.types import FieldOfView


@dataclass(frozen=True)
class FieldFacts:
    """What is known of a field before it is read.

    Attributes:
        channels: Names, in order; empty where nothing names them.
        pixel_size_um: None where nobody says it, or where it cannot be used.
        pixel_size_source: What says it.
        z_planes: Of every channel.
        problem: Why the field cannot be used, as far as known.
    """

    channels: tuple[str, ...]
    pixel_size_um: float | None
    pixel_size_source: str
    z_planes: int
    problem: str | None


@dataclass(frozen=True)
class FieldSource:
    """A field of view that has been found and not yet read.

    Attributes:
        listed: Name, files and metadata.
        options: How to read them.
    """

    listed: ListedField
    options: ReadingOptions

    @property
    def name(self) -> str:
        """The field's unique id."""
        return self.listed.name

    @property
    def metadata(self) -> Mapping[str, str]:
        """Everything known of the field without reading an image, under names that no table of ours writes itself.

        Wells are written as `A01`, whatever they are called in names and tables.
        """
        known = self.listed.metadata
        return keep_apart({**known, "well": standard_well(known["well"])} if "well" in known else known)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that `read` opens."""
        return self.listed.files

    def read(self) -> FieldOfView:
        """Read the field's images and mask.

        Raises:
            FieldError: If anything about them is wrong: see `images.files` and `images.planes`.
        """
        if self.listed.problem:
            raise FieldError(self.listed.problem)
        try:
            source = self._in_focus()
            pixels, channels, said_by_files = source._read_channels()
            size_um, size_from = self._pixel_size(said_by_files)
            mask = None
            if self.listed.mask_file is not None:
                mask = read_labels(self.listed.mask_file, pixels.shape[1:], self.options.max_decoded_bytes)
            metadata = {**_said_of_field(said_by_files), **source.metadata}
            field = FieldOfView(self.name, pixels, channels, size_um, mask, metadata, size_from)
            if not self.options.trust_masks:
                check_instances(field, f"label mask {self.listed.mask_file}")
        except FieldError as error:
            raise FieldError(f"Field {self.name!r}: {error}") from error
        return field

    def _read_channels(self) -> tuple[npt.NDArray[Any], tuple[str, ...], list[ImageMetadata]]:
        """Pixels, their channels, and what the files say of themselves."""
        projection = self.options.z_projection
        if self.listed.stack_file is not None:
            source, wanted_planes = self._narrowed()
            image = self._read_stack(self.listed.stack_file, wanted_planes)
            stack = channel_stack(image, projection, len(source.options.channel_names))
            planes = dict(zip(source._stack_channels(image, len(stack)), stack, strict=True))
            said_by_files = [image.metadata]
        else:
            planes, said_by_files = self._read_planes()
        wanted = self.options.channels or tuple(sorted(planes, key=channel_order))
        missing = [name for name in wanted if name not in planes]
        if missing:
            raise FieldError(
                f"channel {missing[0]} is missing: found {', '.join(planes)}, expected {', '.join(wanted)}. Add its "
                "file, map another name to it (--channel-mapping), or choose fewer channels (a smaller --model, or "
                "--channels)."
            )
        pixels = stack_planes({name: check_intensities(planes[name], f"channel {name}") for name in wanted})
        if all(plane.min() == plane.max() for plane in pixels):
            raise FieldError("every channel is constant, expected at least one with signal. Take the field again.")
        return pixels, wanted, said_by_files

    def _narrowed(self) -> tuple["FieldSource", dict[str, list[int]]]:
        """With the channels alone that are needed, and axis → indices of them; all of what is no OME-Zarr is read."""
        file, options, wanted = self.listed.stack_file, self.options, dict[str, list[int]]()
        if file is None or not file.is_dir():
            return self, wanted
        header = read_header(file)
        names = self._named_channels(header)
        chosen = [n for n, name in enumerate(names) if name in (options.channels or ())]
        if chosen:
            wanted["C"] = chosen
            given = options.channel_names or header.metadata.channel_names
            options = replace(options, channel_names=tuple(given[number] for number in chosen))
        if isinstance(options.z_projection, int) and options.z_projection < header.count("Z"):
            wanted["Z"] = [options.z_projection]
        return replace(self, options=options), wanted

    def _named_channels(self, header: ImageHeader) -> list[str]:
        """Our names of the entries along the axis of channels; none where not every one has a name."""
        names = self.options.channel_names or header.metadata.channel_names
        if header.count("C") != len(names) or "C" not in header.axes:
            return []
        return [_mapped(name, self.options.channel_mapping) for name in names]

    def known_channels(self) -> tuple[str, ...]:
        """Our names of the channels as far as they are known before a pixel is read; none where they are not."""
        file = self.listed.stack_file
        if file is None or not file.is_dir():
            return tuple(self.listed.channel_planes)
        try:
            return tuple(self._named_channels(read_header(file)))
        except FieldError:  # reported when it is read
            return ()

    def describe(self) -> FieldFacts:
        """What is known of the field from its listing and the headers of its files; nothing is decoded."""
        listed, problem = self.listed, self.listed.problem
        channels, headers, z_planes = tuple(listed.channel_planes), list[ImageHeader](), 1
        try:
            if listed.stack_file is not None:
                header = read_header(listed.stack_file, listed.stack_position)
                headers, z_planes = [header], header.count("Z")
                channels = self.options.channel_names or header.metadata.channel_names
                if not channels:
                    raise FieldError(
                        f"{listed.stack_file} (shape {header.shape}, axes {header.axes}) names no channels. Give their "
                        "names (--channel-names)."
                    )
            else:
                z_planes = max((len(listed.channel_planes[name]) for name in self._wanted_channels()), default=1)
                for plane in (plane for name in self._wanted_channels() for plane in listed.channel_planes[name]):
                    refuse_empty(plane.path)
                first = next(iter(listed.channel_planes.values()), ())
                if first and (listed.pixel_size_um is None or len(first) == 1) and first[0].path.exists():
                    headers = [read_header(first[0].path, first[0].position, first[0].page)]
                    z_planes = max(z_planes, headers[0].count("Z"))
            if z_planes > 1 and self.options.z_projection is None and z_planes != len(self.options.channel_names):
                problem = problem or (
                    f"Field {self.name!r}: it has {z_planes} Z-planes, expected one. Choose a projection "
                    "(--z-projection): max, mean, focus, or the index of a plane."
                )
        except FieldError as error:
            problem = problem or f"Field {self.name!r}: {error}"
        size_um: float | None
        try:
            size_um, source = self._pixel_size([header.metadata for header in headers])
        except FieldError as error:
            size_um, source, problem = None, "", problem or f"Field {self.name!r}: {error}"
        return FieldFacts(tuple(channels), size_um, source, z_planes, problem)

    def _read_planes(self) -> tuple[dict[str, npt.NDArray[Any]], list[ImageMetadata]]:
        """One plane per channel; of Z-stacks in many files only those that the projection needs are read."""
        # Whoever maps a name says what its picture shows.
        mapped = {ours for name, ours in self.options.channel_mapping.items() if name != ours}
        projection = self.options.z_projection
        planes, said_by_files = {}, []
        for name in self._wanted_channels():
            files = _chosen_files(self.listed.channel_planes[name], projection, name)
            images = [self._read_plane_file(file) for file in files]
            colour = None if name in mapped else name
            stack = [single_plane(image, projection, colour) for image in images]
            if len(stack) > 1 and isinstance(projection, str):
                planes[name] = project(np.stack(stack), 0, projection)
            else:
                planes[name] = stack[0]
            if name in self.listed.illumination:
                planes[name] = self._evenly_lit(planes[name], self.listed.illumination[name])
            said_by_files += [image.metadata for image in images]
        return planes, said_by_files

    def _read_plane_file(self, file: FilePlace) -> Image:
        return read_image(file.path, self.options.max_decoded_bytes, file.position, file.page)

    def _evenly_lit(self, plane: npt.NDArray[Any], function: Path) -> npt.NDArray[np.float32]:
        """A plane divided by its illumination function, as CellProfiler's CorrectIlluminationApply does."""
        light = single_plane(read_image(function, self.options.max_decoded_bytes))
        if light.shape != plane.shape:
            raise FieldError(
                f"the illumination function {function} has the shape {light.shape}, its images {plane.shape}, expected "
                "the same. Give the function that was made of these images, or leave --illumination out."
            )
        if light.dtype.kind not in "uif" or not np.isfinite(light).all() or light.min() <= 0:
            raise FieldError(
                f"the illumination function {function} has values that are not above 0, by which nothing can be "
                "divided. Make it again, or leave --illumination out."
            )
        return np.asarray(plane / light.astype(np.float32), np.float32)

    def _read_stack(self, path: Path, wanted: Mapping[str, Sequence[int]]) -> Image:
        position, time = self.listed.stack_position, self.listed.stack_time
        return read_image(path, self.options.max_decoded_bytes, position, time=time, wanted=wanted)

    def _wanted_channels(self) -> list[str]:
        there = self.listed.channel_planes
        return [name for name in self.options.channels or there if name in there]

    def _in_focus(self) -> "FieldSource":
        """With the number of the sharpest plane in the place of `focus`, as the field's metadata record it."""
        if self.options.z_projection != "focus":
            return self
        listed = self.listed
        if listed.stack_file is not None:
            images = [self._read_stack(listed.stack_file, self._narrowed()[1])]
            stacks = []
        else:
            stacks = [listed.channel_planes[name] for name in self._wanted_channels()]
            images = [self._read_plane_file(stack[0]) for stack in stacks if len(stack) == 1]
            stacks = [stack for stack in stacks if len(stack) > 1]
        counts = {z_planes_of(image) for image in images} | {len(stack) for stack in stacks}
        if len(counts) > 1:
            raise FieldError(
                f"its channels have {' and '.join(map(str, sorted(counts)))} Z-planes, expected as many each."
            )

        def planes_at(z: int) -> Iterator[npt.NDArray[Any]]:
            for image in images:
                yield from channel_stack(image, z, len(self.options.channel_names))
            for stack in stacks:
                yield single_plane(self._read_plane_file(stack[z]))

        (count,) = counts or {1}
        if count == 1:
            return replace(self, options=replace(self.options, z_projection=None))
        z = sharpest_plane(count, planes_at)
        listed = replace(listed, metadata={**listed.metadata, "z_plane": str(z)})
        return FieldSource(listed, replace(self.options, z_projection=z))

    def _stack_channels(self, image: Image, count: int) -> list[str]:
        """Our names of the planes of a multi-channel file."""
        names = self.options.channel_names or image.metadata.channel_names
        if count == 1 and not names:
            raise FieldError(
                f"{image.path} has one channel, and nothing says which. If each channel of a field has a separate "
                "file, name the files <field of view>_<channel>, such as A1_1_blue.tif, or map your names of channels "
                "(--channel-mapping DAPI=blue, once for each); if there is only this one, give its name "
                "(--channel-names)."
            )
        if len(names) != count:
            given = f"{len(names)} channel names ({', '.join(names)})" if names else "no channel names"
            raise FieldError(
                f"{image.path} has {count} channel{'' if count == 1 else 's'} (shape {image.pixels.shape}, axes "
                f"{image.axes}) and {given}. Give one name per channel (--channel-names), in the order of the file, "
                "such as "
                f"{','.join(CHANNEL_STAINS)}."
            )
        mapped = [_mapped(name, self.options.channel_mapping) for name in names]
        repeated = {name for name in mapped if mapped.count(name) > 1}
        if repeated:
            raise FieldError(
                f"{image.path}: channels {', '.join(names)} include {sorted(repeated)[0]!r} more than once."
            )
        return mapped

    def _pixel_size(self, said_by_files: Sequence[ImageMetadata]) -> tuple[float, str]:
        """Edge of a pixel in micrometres, and where it comes from."""
        said = self.metadata.get("pixel_size_um")
        try:
            stated = float(said) if said else None
        except ValueError as error:
            raise FieldError(f"pixel_size_um is {said!r} in the metadata, expected one such as 0.08.") from error
        is_given = self.options.pixel_size_um is not None or stated is not None
        measured_um = None if is_given or self.listed.pixel_size_wins else _one_pixel_size(said_by_files)
        listed_um, listed_from = self.listed.pixel_size_um, self.listed.pixel_size_from
        if listed_um is not None and measured_um is not None and not 0.99 < listed_um / measured_um < 1.01:
            raise FieldError(
                f"{listed_from} says that a pixel is {listed_um:g} um, the image files say {measured_um:g} um. Give "
                "the true size (--pixel-size-um)."
            )
        sizes = {"option": self.options.pixel_size_um, "metadata": stated, listed_from: listed_um, "file": measured_um}
        for source, size in (*sizes.items(), (self.listed.default_pixel_size_from, self.listed.default_pixel_size_um)):
            if size is None:
                continue
            if not is_sane_pixel_size(size):
                raise FieldError(
                    f"pixel size is {size} um, expected {MIN_PIXEL_SIZE_UM} to {MAX_PIXEL_SIZE_UM} um. Give the true "
                    "size in micrometres (--pixel-size-um, or a metadata column pixel_size_um)."
                )
            return size, source
        raise FieldError(
            "pixel size is unknown: neither its files nor its metadata say it, and they are not named as the Human "
            "Protein Atlas names its own, such as 800_A6_1_green. Give it in micrometres (--pixel-size-um, or a "
            "metadata column pixel_size_um)."
        )


def _said_of_field(said_by_files: Sequence[ImageMetadata]) -> dict[str, str]:
    """Where the stage was, as the first file says that says it, and how many chunks of an OME-Zarr are not stored."""
    position = next((metadata.stage_um for metadata in said_by_files if metadata.stage_um is not None), ())
    said = {f"stage_{axis}_um": f"{at:.6g}" for axis, at in zip("xy", position, strict=False)}
    gaps = next((metadata.chunks_missing for metadata in said_by_files if metadata.chunks_missing), "")
    return {**said, "chunks_missing": gaps} if gaps else said


def channel_order(name: str) -> int:
    """Sort key: microtubules, ER, nucleus as SubCell stacks them, then others as they come, the protein last."""
    known = list(CHANNEL_STAINS)
    if name == PROTEIN_CHANNEL:
        return len(known) + 1
    return known.index(name) if name in known else len(known)


def _chosen_files(files: Sequence[FilePlace], projection: ZProjection | None, channel: str) -> Sequence[FilePlace]:
    """The Z-planes of a channel, one file each, that a projection needs."""
    if len(files) == 1:
        return files
    if projection is None:
        each = ", one file each" if files[0].path != files[1].path else ""
        raise FieldError(
            f"channel {channel} has {len(files)} Z-planes{each} ({files[0].path.name}, …), expected one. "
            "Choose a projection (--z-projection): max, mean, focus, or the index of a plane."
        )
    if not isinstance(projection, int):
        return files
    if not 0 <= projection < len(files):
        raise FieldError(f"channel {channel} has Z-planes 0 to {len(files) - 1}, asked for z_projection={projection}.")
    return files[projection : projection + 1]


def _mapped(name: str, channel_mapping: Mapping[str, str]) -> str:
    """Our name of a channel: as mapped, else as it is, colours in any case."""
    if name in channel_mapping:
        return channel_mapping[name]
    return name.lower() if name.lower() in CHANNEL_STAINS else name


def _one_pixel_size(said_by_files: Sequence[ImageMetadata]) -> float | None:
    """The pixel size on which the files of a field agree; None where they say nothing."""
    for metadata in said_by_files:
        if metadata.pixel_size_problem is not None:
            raise FieldError(
                f"{metadata.pixel_size_problem}. Give the true size in micrometres (--pixel-size-um, or a metadata "
                "column pixel_size_um)."
            )
    sizes = [metadata.pixel_size_um for metadata in said_by_files if metadata.pixel_size_um is not None]
    if sizes and max(sizes) > 1.01 * min(sizes):
        raise FieldError(
            f"channels differ in pixel size: {sizes} um, expected one. Give the true size (--pixel-size-um)."
        )
    return sizes[0] if sizes else None
