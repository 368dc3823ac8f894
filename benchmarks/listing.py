"""Listing a plate of 384 wells, 9 sites and 5 channels (17,280 empty files), against walking and stat-ing its folder.

The plate is written in the layouts of Harmony, ImageXpress and CellVoyager, with a table of CellProfiler's LoadData, as
files that are named as the Human Protein Atlas names its own and as a pattern describes, and as an OME-Zarr of 7,035
positions whose arrays are never opened. The reference is walking the same folder with `os.walk` and calling `os.stat`
for every file: that is what walking and stat-ing a folder is in Python. Beside it are the fastest way (`os.scandir`,
whose entries know their folder) and the slowest (`pathlib`), and a parser of XML whose handlers do nothing: nothing in
Python parses an index in less, and for Harmony's, of 20 MB, that alone takes four times the reference. (Ours takes less
than this parser, as it reads records that are written like an earlier one by a regular expression.) All run in turn in
this process, and the fastest of the rounds counts. Ratios are those of processor times, for other work on the
machine distorts a clock; those of clock times are beside them.

Memory is that of Python's objects: per plane of the list that is returned, and what listing takes beyond it at its
peak, for 1 and 8 plates of an eighth of the wells that are listed one after another, and for one folder that holds 8.
"""

import argparse
import gc
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from xml.parsers import expat

from subcell_hf.images.fields_of_view import ReadingOptions, list_fields
from subcell_hf.images.wells import well_name

CHANNELS = ("DAPI", "ER", "RNA", "AGP", "Mito")
COLOURS = ("red", "yellow", "blue", "green", "DIC")
_PATTERN = r"(?P<plate>\w+?)-(?P<well>[A-P]\d\d)-(?P<site>\d)-(?P<channel>\w+)\.tif"
_YOKOGAWA = 'xmlns:bts="http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"'

_Place = tuple[int, int, int, int]
"""Row, column, site and number of the channel, all from 1."""


def places(wells: int, sites: int = 9, channels: int = 5) -> Iterator[_Place]:
    """Where the planes of a plate of 24 columns lie."""
    for well, site, channel in product(range(wells), range(1, sites + 1), range(1, channels + 1)):
        yield well // 24 + 1, well % 24 + 1, site, channel


def write_harmony(folder: Path, wells: int) -> None:
    """Images and `Index.idx.xml`, as version 5 of Harmony writes them."""
    images = folder / "Images"
    images.mkdir(parents=True)
    entries = []
    for row, column, site, channel in places(wells):
        name = f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"
        (images / name).touch()
        entries.append(
            f"<Image Version='1'><id>{row:02d}{column:02d}K1F{site}P1R{channel}</id><State>Ok</State><URL>{name}</URL>"
            f"<Row>{row}</Row><Col>{column}</Col><FieldID>{site}</FieldID><PlaneID>1</PlaneID>"
            f"<TimepointID>0</TimepointID><ChannelID>{channel}</ChannelID><FlimID>1</FlimID>"
            f"<ChannelName>{CHANNELS[channel - 1]}</ChannelName><ImageType>Signal</ImageType>"
            "<AcquisitionType>NipkowConfocal</AcquisitionType><IlluminationType>Epifluorescence</IlluminationType>"
            "<ChannelType>Fluorescence</ChannelType><ImageResolutionX Unit='m'>5.98E-07</ImageResolutionX>"
            "<ImageResolutionY Unit='m'>5.98E-07</ImageResolutionY><ImageSizeX>1080</ImageSizeX>"
            f"<ImageSizeY>1080</ImageSizeY><BinningX>2</BinningX><BinningY>2</BinningY><PositionX Unit='m'>{site}e-4"
            f"</PositionX><PositionY Unit='m'>{site}e-4</PositionY><AbsPositionZ Unit='m'>0.135</AbsPositionZ>"
            "<ExposureTime Unit='s'>0.2</ExposureTime><OrientationMatrix>[[1.0,0,0,0]]</OrientationMatrix></Image>"
        )
    (images / "Index.idx.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?><EvaluationInputData xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5">'
        f"<Plates><Plate><PlateID>{folder.name}</PlateID><PlateRows>16</PlateRows><PlateColumns>24</PlateColumns>"
        f"</Plate></Plates><Images>{''.join(entries)}</Images></EvaluationInputData>"
    )


def write_imagexpress(folder: Path, wells: int) -> None:
    """One folder per time point, and the `.HTD`, as MetaXpress writes them."""
    images = folder / "TimePoint_1"
    images.mkdir(parents=True)
    for row, column, site, channel in places(wells):
        (images / f"{folder.name}_{well_name(row, column)}_s{site}_w{channel}.TIF").touch()
    chosen = {
        row: ", ".join(str((row - 1) * 24 + column < wells).upper() for column in range(24)) for row in range(1, 17)
    }
    lines = ['"HTSInfoFile", Version 1.0', '"TimePoints", 1', '"ZSeries", FALSE', '"XWells", 24', '"YWells", 16']
    lines += [f'"WellsSelection{row}", {line}' for row, line in chosen.items()]
    lines += ['"Sites", TRUE', '"XSites", 3', '"YSites", 3']
    lines += [f'"SiteSelection{row}", TRUE, TRUE, TRUE' for row in (1, 2, 3)]
    lines += ['"Waves", TRUE', f'"NWavelengths", {len(CHANNELS)}']
    lines += [f'"WaveName{number}", "{name}"' for number, name in enumerate(CHANNELS, 1)]
    (folder / f"{folder.name}.HTD").write_text("\r\n".join([*lines, '"EndFile"']))


def write_cellvoyager(folder: Path, wells: int) -> None:
    """Images with `MeasurementData.mlf` and `MeasurementDetail.mrf`."""
    folder.mkdir(parents=True)
    records = []
    for row, column, site, channel in places(wells):
        name = f"{folder.name}_{well_name(row, column)}_T0001F{site:03d}L01A01Z01C{channel:02d}.tif"
        (folder / name).touch()
        records.append(
            f'<bts:MeasurementRecord bts:Time="2020-01-01T00:00:00.000+01:00" bts:Column="{column}" bts:Row="{row}" '
            f'bts:FieldIndex="{site}" bts:TimePoint="1" bts:TimelineIndex="1" bts:ActionIndex="1" bts:ZIndex="1" '
            f'bts:X="{site}.5" bts:Y="-{site}.5" bts:Z="0.0" bts:Type="IMG" bts:Ch="{channel}">{name}'
            "</bts:MeasurementRecord>"
        )
    (folder / "MeasurementData.mlf").write_text(
        f"<bts:MeasurementData {_YOKOGAWA}>{''.join(records)}</bts:MeasurementData>"
    )
    channels = "".join(
        f'<bts:MeasurementChannel bts:Ch="{number}" bts:HorizontalPixelDimension="0.325" '
        'bts:VerticalPixelDimension="0.325"/>'
        for number in range(1, len(CHANNELS) + 1)
    )
    (folder / "MeasurementDetail.mrf").write_text(
        f'<bts:MeasurementDetail {_YOKOGAWA} bts:RowCount="16" bts:ColumnCount="24">'
        f'<bts:MeasurementSamplePlate bts:Name="{folder.name}"/>{channels}</bts:MeasurementDetail>'
    )


def write_loaddata(folder: Path, wells: int) -> None:
    """Images in `images`, and a `load_data.csv` with a row for each field."""
    images = folder / "images"
    images.mkdir(parents=True)
    columns = [f"{kind}_Orig{channel}" for channel in CHANNELS for kind in ("FileName", "PathName")]
    lines = [",".join([*columns, "Metadata_Plate", "Metadata_Well", "Metadata_Site"])]
    cells: list[str] = []
    for row, column, site, channel in places(wells):
        name = f"r{row:02d}c{column:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"
        (images / name).touch()
        cells += [name, str(images)]
        if channel == len(CHANNELS):
            lines.append(",".join([*cells, folder.name, well_name(row, column), str(site)]))
            cells = []
    (folder / "load_data.csv").write_text("\n".join(lines) + "\n")


def write_atlas_names(folder: Path, wells: int) -> None:
    """`<plate>_<well>_<sample>_<colour>.png`."""
    folder.mkdir(parents=True)
    plate = sum(map(ord, folder.name))
    for row, column, site, channel in places(wells, channels=4):
        (folder / f"{plate}_{well_name(row, column)}_{site}_{COLOURS[channel - 1]}.png").touch()


def write_named_files(folder: Path, wells: int) -> None:
    """`<plate>-<well>-<site>-<channel>.tif`, which only a pattern describes."""
    folder.mkdir(parents=True)
    for row, column, site, channel in places(wells):
        (folder / f"{folder.name}-{well_name(row, column)}-{site}-{CHANNELS[channel - 1]}.tif").touch()


def write_ome_zarr(folder: Path, wells: int) -> None:
    """An OME-Zarr of 0.4 with 7,035 positions per 384 wells, without a chunk."""
    plate = folder / f"{folder.name}.zarr"
    positions = round(wells * 7035 / 384)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 0.325, 0.325]}]
    image = json.dumps(
        {
            "multiscales": [
                {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
            ],
            "omero": {"channels": [{"label": name} for name in CHANNELS]},
        }
    )
    array = json.dumps(
        {"zarr_format": 2, "shape": [5, 1080, 1080], "chunks": [1, 1080, 1080], "dtype": "<u2", "fill_value": 0}
        | {"order": "C", "filters": None, "dimension_separator": "/", "compressor": None}
    )
    names = [(well_name(well // 24 + 1, well % 24 + 1), well) for well in range(wells)]
    for name, well in names:
        group = plate / name[0] / name[1:]
        own = range(well * positions // wells, (well + 1) * positions // wells)
        for number in range(len(own)):
            (group / str(number) / "0").mkdir(parents=True)
            (group / str(number) / ".zgroup").write_text('{"zarr_format": 2}')
            (group / str(number) / ".zattrs").write_text(image)
            (group / str(number) / "0/.zarray").write_text(array)
        (group / ".zgroup").write_text('{"zarr_format": 2}')
        (group / ".zattrs").write_text(
            json.dumps({"well": {"version": "0.4", "images": [{"path": str(number)} for number in range(len(own))]}})
        )
    (plate / ".zgroup").write_text('{"zarr_format": 2}')
    listed = [{"path": f"{name[0]}/{name[1:]}", "rowIndex": n // 24, "columnIndex": n % 24} for name, n in names]
    (plate / ".zattrs").write_text(json.dumps({"plate": {"version": "0.4", "wells": listed}}))


LAYOUTS: dict[str, tuple[Callable[[Path, int], None], ReadingOptions]] = {
    "harmony": (write_harmony, ReadingOptions()),
    "imagexpress": (write_imagexpress, ReadingOptions()),
    "cellvoyager": (write_cellvoyager, ReadingOptions()),
    "loaddata": (write_loaddata, ReadingOptions()),
    "atlas_names": (write_atlas_names, ReadingOptions()),
    "pattern": (write_named_files, ReadingOptions(pattern=_PATTERN)),
    "ome_zarr": (write_ome_zarr, ReadingOptions()),
}


def walk(folder: Path) -> int:
    """The reference: size and time of every file."""
    return sum(len([*map(os.stat, map(partial(os.path.join, parent), names))]) for parent, _, names in os.walk(folder))


def walk_entries(folder: Path | str) -> int:
    """The same through `os.scandir`, whose entries need no path of their own."""
    files = 0
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir():
                files += walk_entries(entry.path)
            else:
                entry.stat()
                files += 1
    return files


def walk_paths(folder: Path) -> int:
    """The same through `pathlib`."""
    return sum(1 for path in folder.rglob("*") if path.stat())


def count_xml(path: Path) -> None:
    """Parse a file with handlers that do nothing."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, attributes: None
    parser.EndElementHandler = lambda name: None
    parser.CharacterDataHandler = lambda text: None
    with path.open("rb") as file:
        parser.ParseFile(file)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Processor time of one call, of the kernel's work for it as well, and time by the clock."""
    gc.collect()
    clock, start = time.perf_counter(), time.process_time()
    result = function()
    spent = time.process_time() - start, time.perf_counter() - clock
    del result  # giving the memory back is no part of it
    return spent


def source_of(name: str, plate: Path) -> Path:
    """What is given to be listed."""
    return plate / "load_data.csv" if name == "loaddata" else plate


def working_mib(sources: list[Path], options: ReadingOptions) -> float:
    """Most of Python's memory beyond what is returned, while sources are listed one after another and kept."""
    most, kept = 0.0, []
    tracemalloc.start()
    for source in sources:
        tracemalloc.reset_peak()
        kept.append(list_fields(source, options))
        left, peak = tracemalloc.get_traced_memory()
        most = max(most, peak - left)
    tracemalloc.stop()
    return round(most / 2**20, 1)


def bytes_per_plane(source: Path, options: ReadingOptions) -> int:
    """Of the list that is returned."""
    tracemalloc.start()
    found = list_fields(source, options)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(size / sum(max(len(item.files), 1) for item in found.fields))


def measure(name: str, wells: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Figures of one layout."""
    write, options = LAYOUTS[name]
    plate, together = folder / name / "plate0", folder / name / "together"
    write(plate, wells)
    source = source_of(name, plate)
    fields = list_fields(source, options).fields
    if any(item.listed.problem for item in fields):
        raise SystemExit(f"{name} is not listed as it should be: {fields[0].listed.problem}")
    indices = [path for path in plate.rglob("*") if path.suffix in (".xml", ".mlf")]
    timed: dict[str, Callable[[], object]] = {
        "ours": lambda: list_fields(source, options),
        "reference": lambda: walk(plate),
        "scandir": lambda: walk_entries(plate),
        "pathlib": lambda: walk_paths(plate),
    }
    if indices:
        timed["xml"] = lambda: count_xml(indices[0])
    rounds = [{what: seconds(function) for what, function in timed.items()} for _ in range(repeats)]
    processor, clock = ({what: min(one[what][kind] for one in rounds) for what in timed} for kind in (0, 1))
    plates = [together / f"plate{number}" for number in range(1, 9)]
    for other in plates:
        write(other, wells // 8)
    sources = [source_of(name, other) for other in plates]
    return {
        "fields": len(fields),
        "files": walk(plate),
        **{f"{what}_s": round(spent, 3) for what, spent in processor.items()},
        "ratio": round(processor["ours"] / processor["reference"], 2),
        "ratio_by_clock": round(clock["ours"] / clock["reference"], 2),
        "bytes_per_plane": bytes_per_plane(source, options),
        "working_mib_of_1_and_8_small_plates": [working_mib(sources[:count], options) for count in (1, 8)],
        "working_mib_of_8_small_plates_in_one_folder": (
            None if name == "loaddata" else working_mib([together], options)
        ),
    }


def main() -> None:
    """Run and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wells", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layout", choices=LAYOUTS, help="Only this one; default: all.")
    options = parser.parse_args()
    figures = {}
    for name in [options.layout] if options.layout else LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = measure(name, options.wells, options.repeats, Path(folder))
    ratio = max(found["ratio"] for found in figures.values())
    reference = "os.walk and os.stat of every file of the same folder, processor time; the ratio is that of the slowest"
    print(json.dumps({"name": "listing", "ratio": ratio, "reference": reference, "figures": figures}))


if __name__ == "__main__":
    main()
