"""One simulated plate, written in the layouts of instruments and programs.

Each writer follows the files that the instrument itself writes (as they lie in public repositories), not our readers:
byte order marks, carriage returns, misleading tags and extra files included.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from subcell_hf.simulation.antibodies import simulate_antibodies
from subcell_hf.simulation.fields import simulate_field
from tests.images.layouts import written_indices as indices
from tests.images.written_fields import write_png

PIXEL_UM = indices.PIXEL_UM
PLATE = "SIM-1"
DYES = {"blue": "Hoechst 33342", "green": "Alexa 488"}
SIZE_PX = 320

Planes = Mapping[str, npt.NDArray[np.uint16]]
Plate = Mapping[tuple[str, int], Planes]
"""(well as `B02`, site from 1) → colour → pixels."""


def simulate_plate(wells: tuple[str, ...] = ("B02", "C11"), sites: int = 2) -> Plate:
    """Two wells of two sites with several cells each, 16 bits."""
    antibodies = simulate_antibodies(len(wells), 0)
    return {
        (well, site): dict(
            zip(
                DYES,
                simulate_field(
                    [number, site], antibodies[number], size_px=SIZE_PX, pixel_size_um=PIXEL_UM, channels=tuple(DYES),
                    bit_depth=16,
                ).pixels,
                strict=True,
            )
        )
        for number, well in enumerate(wells)
        for site in range(1, sites + 1)
    }  # fmt: skip


@dataclass(frozen=True)
class WrittenLayout:
    """How a plate is written, and what its user types.

    Attributes:
        write: Writes the plate into an empty folder.
        names: Colour → what the instrument calls the channel.
        options: Further words of the command line.
        source: What is given, below the folder.
    """

    write: Callable[[Path, Plate], None]
    names: Mapping[str, str]
    options: tuple[str, ...] = ()
    source: str = "."


def places(plate: Plate) -> list[tuple[int, int, str, int, int, str, npt.NDArray[np.uint16]]]:
    """Row, column, well, site, number of the channel (all from 1), dye and pixels of every plane."""
    return [
        (ord(well[0]) - ord("A") + 1, int(well[1:]), well, site, number, DYES[colour], pixels)
        for (well, site), planes in plate.items()
        for number, (colour, pixels) in enumerate(planes.items(), 1)
    ]


def save_tiff(path: Path, pixels: npt.NDArray[Any], **tags: Any) -> None:
    """Write a TIFF of one plane without any metadata of tifffile's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, metadata=None, software=tags.pop("software", ""), **tags)


def write_hpa(folder: Path, plate: Plate) -> None:
    """Names of the Human Protein Atlas: `1_B2_1_blue.png`."""
    for (well, site), planes in plate.items():
        for colour, pixels in planes.items():
            write_png(folder / f"1_{well[0]}{int(well[1:])}_{site}_{colour}.png", pixels)


def _save_harmony(folder: Path, plate: Plate, with_xml: bool = False) -> None:
    for row, column, _, site, channel, _, pixels in places(plate):
        name = f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"
        text = indices.harmony_tag(row, column, site, channel, list(DYES.values()))
        extra = [(65500, 1, len(text), text, True)] if with_xml else []
        save_tiff(folder / name, pixels, resolution=(1550.4, 1550.4), resolutionunit="CENTIMETER", extratags=extra)


def write_harmony_v5(folder: Path, plate: Plate) -> None:
    """Harmony 4 and 5: everything in each `Image`; the resolution tags say 6.45 um."""
    _save_harmony(folder / f"{PLATE}__2024" / "Images", plate)
    index = indices.harmony_index([place[:6] for place in places(plate)], PLATE, version=5)
    (folder / f"{PLATE}__2024" / "Images" / "Index.idx.xml").write_bytes(index)


def write_harmony_v7(folder: Path, plate: Plate) -> None:
    """Harmony 6 and 7: names and pixel size of channels in a map of their own."""
    _save_harmony(folder / "Images", plate)
    index = indices.harmony_index([place[:6] for place in places(plate)], PLATE, version=7)
    (folder / "Images" / "Index.xml").write_bytes(index)


def write_harmony_names(folder: Path, plate: Plate) -> None:
    """Harmony's images alone, each with its description of the measurement."""
    _save_harmony(folder / PLATE / "Images", plate, with_xml=True)


def _save_imagexpress(folder: Path, plate: Plate) -> None:
    for _, _, well, site, wave, dye, pixels in places(plate):
        uuid = f"{wave:08X}-0F0F-4A4A-9B9B-{site:012X}"
        text = indices.metaseries(well, site, dye)
        name = folder / "TimePoint_1" / f"sim_{well}_s{site}_w{wave}{uuid}.tif"
        save_tiff(name, pixels, description=text, software="MetaSeries")
        save_tiff(name.with_name(f"sim_{well}_s{site}_w{wave}_thumb{uuid}.tif"), pixels[::8, ::8])


def write_imagexpress(folder: Path, plate: Plate) -> None:
    """MetaXpress with its `.HTD`, thumbnails and UUIDs in all names."""
    _save_imagexpress(folder / PLATE, plate)
    sites = max(site for _, site in plate)
    text = indices.htd({well for well, _ in plate}, sites, list(DYES.values()))
    for place in (folder / PLATE, folder / PLATE / "TimePoint_1"):
        (place / "sim.HTD").write_bytes(text)


def write_imagexpress_names(folder: Path, plate: Plate) -> None:
    """MetaXpress without the `.HTD`."""
    _save_imagexpress(folder / PLATE, plate)


def write_hcsai(folder: Path, plate: Plate) -> None:
    """ImageXpress HCS.ai: JSON, a table, and folders of time points."""
    columns = ["Well", "Row", "Column", "Field", "Wavelength", "Timepoint", "ZIndex", "ImageSubFolderPath"]
    columns += ["ImageFileName", "ExcitationEmissionFilter", "FieldOffsetPointX", "FieldOffsetPointY"]
    (folder / "experiment").mkdir()
    with (folder / "experiment" / "image_metadata_1.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row, column, well, site, channel, dye, pixels in places(plate):
            name = f"sim_t0_{well}_s{site - 1}_w{channel - 1}_z0.tif"
            save_tiff(folder / "experiment" / "timepoint0" / name, pixels)
            spelt = f"{well[0]} - {column}"
            writer.writerow([spelt, row, column, site - 1, channel - 1, 0, 0, "timepoint0", name, dye, -3.5, 7.25])
    (folder / "experiment" / "sim.jdce").write_text(json.dumps(indices.jdce(PLATE), ensure_ascii=False), "utf-8")


def write_cellvoyager(folder: Path, plate: Plate) -> None:
    """CV8000 with a record of an error, a correction image, and a channel that was not acquired."""
    names = []
    for row, column, well, site, channel, _, pixels in places(plate):
        name = f"{PLATE}_{well}_T0001F{site:03d}L01A0{channel}Z01C0{channel}.tif"
        save_tiff(folder / PLATE / name, pixels)
        names.append((row, column, site, channel, name))
    save_tiff(folder / PLATE / "DC_sim #1_CAM1.tif", np.ones((8, 8), np.uint16))
    for name, text in indices.cellvoyager(names, PLATE, list(DYES.values())).items():
        (folder / PLATE / name).write_bytes(text)


def write_incell(folder: Path, plate: Plate) -> None:
    """IN Cell 6000: `.xdce` in ISO-8859-1, names with blanks and brackets."""
    named = [
        (row, column, site, channel, f"{well[0]} - {column:02d}(fld {site:02d} wv {FILTERS[channel - 1]}).tif")
        for row, column, well, site, channel, _, _ in places(plate)
    ]
    for (*_, name), place in zip(named, places(plate), strict=True):
        save_tiff(folder / name, place[-1])
    (folder / "sim.xdce").write_bytes(indices.xdce(named, PLATE, FILTERS))


FILTERS = ("UV - DAPI", "Blue - FITC")


def write_scanr(folder: Path, plate: Plate) -> None:
    """scanR: wells in names of files and images alone."""
    named = []
    for row, column, well, site, channel, dye, pixels in places(plate):
        number = (row - 1) * 12 + column
        name = f"{well[0]}{column}--W{number:05d}--P{site:05d}--Z00000--T00000--{dye}.tif"
        save_tiff(folder / PLATE / "data" / name, pixels)
        named.append((number, f"{well[0]}{column}", site, channel - 1, name))
    (folder / PLATE / "data" / "metadata.ome.xml").write_bytes(indices.scanr(named, list(DYES.values()), SIZE_PX))


def _named(form: str) -> Callable[[Path, Plate], None]:
    """A writer of files that have nothing but names."""

    def write(folder: Path, plate: Plate) -> None:
        for _, column, well, site, channel, dye, pixels in places(plate):
            name = form.format(
                short=f"{well[0]}{column}", well=well, site=site, channel=channel, dye=dye, zero=channel - 1
            )
            save_tiff(folder / name, pixels)

    return write


def write_zarr(folder: Path, plate: Plate) -> None:
    """An OME-Zarr plate, version 0.4, with fields counted from 0."""
    root = zarr.open_group(folder / f"{PLATE}.zarr", mode="w", zarr_format=2)
    wells = [{"path": f"{well[0]}/{int(well[1:])}"} for well in dict.fromkeys(well for well, _ in plate)]
    root.attrs["plate"] = {"name": PLATE, "wells": wells, "version": "0.4"}
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1.0, PIXEL_UM, PIXEL_UM]}]
    for (well, site), planes in plate.items():
        group = root.require_group(f"{well[0]}/{int(well[1:])}")
        sites = sum(other == well for other, _ in plate)
        group.attrs["well"] = {"images": [{"path": str(number)} for number in range(sites)], "version": "0.4"}
        image = group.create_group(str(site - 1))
        pixels = np.stack(list(planes.values()))
        image.create_array("0", shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 128, 128))[...] = pixels
        datasets = [{"path": "0", "coordinateTransformations": scale}]
        image.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
        image.attrs["omero"] = {"channels": [{"label": dye} for dye in DYES.values()]}


def write_ome_tiff(folder: Path, plate: Plate) -> None:
    """One OME-TIFF of all fields, with an element `Plate`."""
    planes = [pixels for *_, pixels in places(plate)]
    with tifffile.TiffWriter(folder / "sim.ome.tif", ome=False) as file:
        for number, pixels in enumerate(planes):
            text = indices.ome_plate(list(plate), PLATE, list(DYES.values()), SIZE_PX) if number == 0 else None
            file.write(pixels, metadata=None, description=text, contiguous=False)


def write_loaddata(folder: Path, plate: Plate) -> None:
    """CellProfiler's LoadData with folders of another machine, as pe2loaddata writes it."""
    _save_harmony(folder / "images", plate)
    stains = dict(zip(DYES, ("OrigDNA", "OrigER"), strict=True))
    columns = [f"{kind}_{stain}" for stain in stains.values() for kind in ("FileName", "PathName")]
    with (folder / "load_data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [*columns, "Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_ImageResolutionX",
             "Metadata_ImageResolutionY"]
        )  # fmt: skip
        for well, site in plate:
            row, column = ord(well[0]) - ord("A") + 1, int(well[1:])
            names = [f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff" for channel in (1, 2)]
            files = [part for name in names for part in (name, "/home/ubuntu/bucket/projects/sim/images/")]
            writer.writerow([*files, PLATE, well, site, PIXEL_UM * 1e-6, PIXEL_UM * 1e-6])


def write_portable(folder: Path, plate: Plate) -> None:
    """SubCellPortable's list of fields."""
    lines = ["b_image,g_image,output_prefix,plate,well,site"]
    for (well, site), planes in plate.items():
        for colour, pixels in planes.items():
            save_tiff(folder / "files" / f"{well}-{site}-{colour}.tif", pixels)
        name = f"{well}-{site}"
        lines.append(f"files/{name}-blue.tif,files/{name}-green.tif,{name},{PLATE},{well},{site}")
    (folder / "path_list.csv").write_text("\n".join(lines) + "\n")


def write_micromanager(folder: Path, plate: Plate, version: int = 2) -> None:
    """Micro-Manager's separate image files: a folder for each position, labelled by its generator of plates."""
    for (well, site), planes in plate.items():
        label = f"{well[0]}{int(well[1:])}-Site_{site}"
        described: dict[str, Any] = {"Summary": {"ChNames": list(DYES.values()), "Prefix": PLATE}}
        for channel, (colour, pixels) in enumerate(planes.items()):
            said = {"PositionName": label, "PixelSizeUm": PIXEL_UM, "XPositionUm": 10.5 * site, "YPositionUm": -3.0}
            if version == 1:
                name = f"img_000000000_{DYES[colour]}_000.tif"
                described[f"FrameKey-0-{channel}-0"] = {**said, "Channel": DYES[colour], "FileName": name}
            else:
                name = f"img_channel{channel:03d}_position{site:03d}_time000000000_z000.tif"
                described[f"Coords-{label}/{name}"] = {"FrameIndex": 0, "ChannelIndex": channel, "SliceIndex": 0}
                described[f"Metadata-{label}/{name}"] = {**said, "FileName": f"{label}/{name}"}
            save_tiff(folder / PLATE / label / name, pixels)
        entries = ",\n".join(f"{json.dumps(key)}: {json.dumps(said)}" for key, said in described.items())
        (folder / PLATE / label / "metadata.txt").write_text(f"{{\n{entries}\n}}\n")


SIZE = ("--pixel-size-um", str(PIXEL_UM))
LAYOUTS: dict[str, WrittenLayout] = {
    "Harmony 5": WrittenLayout(write_harmony_v5, DYES),
    "Harmony 7": WrittenLayout(write_harmony_v7, DYES),
    "Harmony without index": WrittenLayout(write_harmony_names, DYES),
    "ImageXpress": WrittenLayout(write_imagexpress, DYES),
    "ImageXpress without index": WrittenLayout(write_imagexpress_names, DYES),
    "ImageXpress HCS.ai": WrittenLayout(write_hcsai, DYES),
    "CellVoyager": WrittenLayout(
        write_cellvoyager, {"blue": "Ch1 Hoechst 33342 BP445/45", "green": "Ch2 Alexa 488 BP525/50"}
    ),
    "IN Cell": WrittenLayout(write_incell, dict(zip(DYES, FILTERS, strict=True))),
    "scanR": WrittenLayout(write_scanr, DYES),
    "Micro-Manager": WrittenLayout(write_micromanager, DYES),
    "Gen5": WrittenLayout(_named(f"{PLATE}/{{short}}_01_{{channel}}_{{site}}_{{dye}}_001.tif"), DYES, SIZE),
    "Cellomics": WrittenLayout(_named("AS_{dye}_0901_{well}f0{site}d{zero}.tif"), {"blue": "d0", "green": "d1"}, SIZE),
    "Incucyte": WrittenLayout(_named(f"{PLATE}/{{dye}}_{{short}}_{{site}}_00d00h00m.tif"), DYES, SIZE),
    "pattern": WrittenLayout(
        _named("run7_{well}-{site}-{dye}.tif"),
        DYES,
        (*SIZE, "--pattern", r"_(?P<Well>[A-H]\d\d)-(?P<Site>\d)-(?P<Channel>.+)\.tif"),
    ),
    "OME-Zarr": WrittenLayout(write_zarr, DYES),
    "OME-TIFF": WrittenLayout(write_ome_tiff, DYES),
    "LoadData": WrittenLayout(
        write_loaddata,
        {"blue": "OrigDNA", "green": "OrigER"},
        ("--path-mapping", "/home/ubuntu/bucket/projects/sim={folder}"),
        "load_data.csv",
    ),
    "SubCellPortable": WrittenLayout(write_portable, {}, SIZE, "path_list.csv"),
}
