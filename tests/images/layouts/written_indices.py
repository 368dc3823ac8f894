"""Indices and tags as instruments write them: the texts beside, and inside of, the images of a plate."""

from collections.abc import Collection, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

PIXEL_UM = 0.325
ROWS, COLUMNS = 8, 12
_METRES = f"{PIXEL_UM * 1e-6:.17g}"
_YOKOGAWA = "http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"


def _windows(text: str, mark: str = "\ufeff", encoding: str = "utf-8") -> bytes:
    return (mark + text).replace("\n", "\r\n").encode(encoding)


def harmony_index(planes: Sequence[tuple[int, int, str, int, int, str]], plate: str, version: int) -> bytes:
    """`Index.idx.xml` of version 5, or `Index.xml` of version 7, which says once what all images of a channel share.

    Args:
        planes: Row, column, well, site, number and dye of a channel.
        plate: Its name.
        version: 5 or 7.
    """
    names = {channel: dye for *_, channel, dye in planes}

    def facts(channel: int) -> str:
        return (
            f"<ChannelName>{escape(names[channel])}</ChannelName>"
            f'<ImageResolutionX Unit="m">{_METRES}</ImageResolutionX>'
            f'<ImageResolutionY Unit="m">{_METRES}</ImageResolutionY><ImageSizeX>320</ImageSizeX>'
        )

    ids = {(r, c, f, ch): f"{r:02d}{c:02d}K1F{f}P1R{ch}" for r, c, _, f, ch, _ in planes}
    wells = "".join(
        f"<Well><id>{r:02d}{c:02d}</id><Row>{r}</Row><Col>{c}</Col>"
        + "".join(f'<Image id="{name}" />' for (row, column, *_), name in ids.items() if (row, column) == (r, c))
        + "</Well>\n"
        for r, c in dict.fromkeys((r, c) for r, c, *_ in planes)
    )
    profiles = "".join(
        f'<Entry ChannelID="{ch}"><FlatfieldProfile>{{Channel: {ch}, ChannelName: {name}}}</FlatfieldProfile></Entry>\n'
        for ch, name in reversed(names.items())
    )
    shared = "".join(f'<Entry ChannelID="{ch}">{facts(ch)}</Entry>\n' for ch in names)
    maps = f"<Map>{profiles}</Map>" + (f"<Map>{shared}</Map>" if version == 7 else "")
    images = "".join(
        f'<Image Version="1"><id>{ids[r, c, f, ch]}</id><State>Ok</State>'
        f"<URL>r{r:02d}c{c:02d}f{f:02d}p01-ch{ch}sk1fk1fl1.tiff</URL><Row>{r}</Row><Col>{c}</Col>"
        f"<FieldID>{f}</FieldID><PlaneID>1</PlaneID><TimepointID>{int(version == 7)}</TimepointID>"
        f"<ChannelID>{ch}</ChannelID><FlimID>1</FlimID>{facts(ch) if version == 5 else ''}"
        f'<PositionX Unit="m">-0.000322907</PositionX><PositionY Unit="m">0</PositionY></Image>\n'
        for r, c, _, f, ch, _ in planes
    )
    space = {
        5: 'Version="1" xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5"',
        7: 'Version="2" xmlns="43B2A954-E3C3-47E1-B392-6635266B0DD3/HarmonyV7"',
    }[version]
    return _windows(
        f'<?xml version="1.0" encoding="utf-8"?>\n<EvaluationInputData {space}>\n<User>anonymous</User>\n<Plates>'
        f"<Plate><PlateID>{escape(plate)}</PlateID><Name>{escape(plate)}</Name><PlateTypeName>96 µ</PlateTypeName>"
        f"<PlateRows>{ROWS}</PlateRows><PlateColumns>{COLUMNS}</PlateColumns></Plate></Plates>\n<Wells>{wells}</Wells>\n"
        f"<Maps>{maps}</Maps>\n<Images>{images}</Images>\n</EvaluationInputData>\n"
    )


def harmony_tag(row: int, column: int, site: int, record: int, names: Sequence[str]) -> bytes:
    """TIFF tag 65500 of one image: instrument, experiment, and which exposure, record and channel this is."""
    lenses = "".join(
        f'<Objective Version="1"><ID>{name}</ID><Magnification Unit="">{times}</Magnification></Objective>'
        for name, times in (("Plan_5x/0.16", 5), ("WPlan_20x/1.0", 20))
    )
    cameras = "".join(
        f'<Camera Version="1"><ID>Camera{number}</ID><PixelSizeX Unit="m">0.0000065</PixelSizeX>'
        f'<PixelSizeY Unit="m">0.0000065</PixelSizeY></Camera>'
        for number in (1, 2)
    )
    records = "".join(
        f'<Record Version="1"><Channels><Channel Version="1"><Name>{escape(name)}</Name><CameraSetting>'
        f"<CameraID>Camera{1 + number % 2}</CameraID><BinningX>2</BinningX><BinningY>2</BinningY></CameraSetting>"
        "</Channel></Channels></Record>"
        for number, name in enumerate(names)
    )
    text = (
        '<?xml version="1.0" encoding="utf-8"?>\r\n<TiffImageDescription Version="1" '
        'xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5"><InstrumentDescription><Type>Phenix</Type>'
        f'<Magnification Unit="">2</Magnification><Objectives>{lenses}</Objectives><Cameras>{cameras}</Cameras>'
        '</InstrumentDescription><DeviceExperiment Version="1"><Exposures><Exposure Version="1">'
        f"<Objective>WPlan_20x/1.0</Objective>{records}</Exposure></Exposures></DeviceExperiment>"
        f'<Image Version="1"><Row>{row}</Row><Col>{column}</Col><FieldID>{site}</FieldID><PlaneID>1</PlaneID>'
        f"<ExposureID>1</ExposureID><RecordID>{record}</RecordID><ChannelID>1</ChannelID></Image>"
        '<ImageAttributes Version="1"><ImageFactor Unit="">1</ImageFactor></ImageAttributes></TiffImageDescription>'
    )
    return text.encode()


def metaseries(well: str, site: int, dye: str, size_um: float = PIXEL_UM, state: str = "on", unit: str = "um") -> str:
    """What MetaXpress writes into the description of an image."""
    facts = {
        "Description": ("string", "Plate Name: sim\r\nBinning: 2 x 2"),
        "spatial-calibration-state": ("bool", state),
        "spatial-calibration-x": ("float", size_um),
        "spatial-calibration-y": ("float", size_um),
        "spatial-calibration-units": ("string", unit),
        "stage-position-x": ("float", 22985),
        "stage-position-y": ("float", 19885.5),
        "stage-label": ("string", f"{well} : Site {site}"),
        "camera-binning-x": ("int", 2),
        "camera-binning-y": ("int", 2),
        "_IllumSetting_": ("string", dye),
    }
    lines = "\r\n".join(
        f'<prop id="{key}" type="{kind}" value={_quoted(value)}/>' for key, (kind, value) in facts.items()
    )
    return f"<MetaData>\r\n<PlaneInfo>\r\n{lines}\r\n</PlaneInfo>\r\n</MetaData>"


def _quoted(value: object) -> str:
    return quoteattr(str(value), {"\r": "&#13;", "\n": "&#10;"})


def htd(wells: Collection[str], sites: int, waves: Sequence[str], z_steps: int = 0, times: int = 1) -> bytes:
    """MetaXpress's `.HTD`, with a description in bytes of no certain encoding."""
    chosen = {(ord(well[0]) - ord("A"), int(well[1:]) - 1) for well in wells}
    lines = ['"HTSInfoFile", Version 1.0', '"Description", "sim\xff"', '"PlateType", 6', f'"TimePoints", {times}']
    lines += ['"ZSeries", TRUE', f'"ZSteps", {z_steps}', '"ZProjection", FALSE'] if z_steps else ['"ZSeries", FALSE']
    lines += [f'"XWells", {COLUMNS}', f'"YWells", {ROWS}']
    for row in range(ROWS):
        flags = ", ".join(str((row, column) in chosen).upper() for column in range(COLUMNS))
        lines.append(f'"WellsSelection{row + 1}", {flags}')
    lines += ['"Sites", TRUE', f'"XSites", {sites}', '"YSites", 1', '"SiteSelection1"' + ", TRUE" * sites]
    lines += ['"Waves", TRUE', f'"NWavelengths", {len(waves)}']
    lines += [f'"WaveName{number}", "{name}"' for number, name in enumerate(waves, 1)]
    lines += [f'"WaveCollect{number}", 1' for number in range(1, len(waves) + 1)]
    return ("\r\n".join([*lines, '"EndFile"']) + "\r\n").encode("latin-1")


def jdce(plate: str) -> dict[str, Any]:
    """The experiment of ImageXpress HCS.ai."""
    size = {"Unit": "µm", "ObjectiveName": "20X", "PixelWidth": PIXEL_UM, "PixelHeight": PIXEL_UM}
    protocol = {"ObjectiveCalibration": size, "Plate": {"Name": "96", "Rows": ROWS, "Columns": COLUMNS}}
    stack = {"PlateId": plate, "AutoLeadAcquisitionProtocol": protocol, "ImageMetadataFiles": ["image_metadata_1.csv"]}
    return {"Version": "1.1", "ImageStack": stack}


def cellvoyager(named: Sequence[tuple[int, int, int, int, str]], plate: str, dyes: Sequence[str]) -> dict[str, bytes]:
    """`.mlf`, `.mrf` and `.mes` of a CV8000.

    Args:
        named: Row, column, site, channel and file of every image.
        plate: Its name.
        dyes: Of the channels; a third one is described and was not acquired.
    """
    taken = "".join(
        f'<bts:MeasurementRecord bts:Type="IMG" bts:Column="{column}" bts:Row="{row}" bts:TimePoint="1" '
        f'bts:FieldIndex="{site}" bts:ZIndex="1" bts:ActionIndex="1" bts:Action="2D" bts:X="-567.1" bts:Y="402.9" '
        f'bts:Ch="{channel}">{name}</bts:MeasurementRecord>\n'
        for row, column, site, channel, name in sorted(named, key=lambda plane: -plane[3])
    )
    error = '<bts:MeasurementRecord bts:Type="ERR" bts:Column="1" bts:Row="1" bts:TimePoint="1" />\n'
    sizes = "".join(
        f'<bts:MeasurementChannel bts:Ch="{number}" bts:HorizontalPixelDimension="{PIXEL_UM}" '
        f'bts:VerticalPixelDimension="{PIXEL_UM}" />\n'
        for number in (1, 2, 3)
    )
    passed = ("BP445/45", "BP525/50", "BP600/37")
    channels = "".join(
        f'<bts:Channel bts:Ch="{number}" bts:Target="{dye}" bts:Acquisition="{passed[number - 1]}" '
        'bts:Fluorophore="" />\n'
        for number, dye in enumerate([*dyes, "561"], 1)
    )
    head, space = '<?xml version="1.0" encoding="utf-8"?>\n', f'xmlns:bts="{_YOKOGAWA}"'
    return {
        "MeasurementData.mlf": _windows(
            f"{head}<bts:MeasurementData {space}>\n{error}{taken}</bts:MeasurementData>\n", mark=""
        ),
        "MeasurementDetail.mrf": _windows(
            f'{head}<bts:MeasurementDetail bts:MeasurementSettingFileName="sim.mes" bts:ColumnCount="{COLUMNS}" '
            f'bts:RowCount="{ROWS}" {space}>\n<bts:MeasurementSamplePlate bts:Name="{plate}" />\n{sizes}'
            "</bts:MeasurementDetail>\n"
        ),
        "sim.mes": _windows(
            f"{head}<bts:MeasurementSetting {space}>\n<bts:ChannelList>{channels}</bts:ChannelList>\n"
            "</bts:MeasurementSetting>\n"
        ),
    }


def xdce(named: Sequence[tuple[int, int, int, int, str]], plate: str, filters: Sequence[str]) -> bytes:
    """IN Cell's index in ISO-8859-1; arguments as `cellvoyager` has them, filters as `UV - DAPI`."""
    images = "".join(
        f'<Image filename="{escape(name)}" version="1.1"><Well label="{chr(64 + row)} - {column}"><Row number="{row}"/>'
        f'<Column number="{column}"/></Well><ExcitationFilter name="{filters[channel - 1].split(" - ")[0]}" unit="nm"/>'
        f'<EmissionFilter name="{filters[channel - 1].split(" - ")[1]}" unit="nm"/>'
        f'<Identifier field_index="{site - 1}" time_index="0" wave_index="{channel - 1}" z_index="0"/>'
        '<OffsetFromWellCenter x="-12.5" y="40.0"/></Image>\n'
        for row, column, site, channel, name in named
    )
    text = (
        f'<?xml version="1.0" encoding="ISO-8859-1" standalone="no"?>\n<ImageStack PlateID="{plate}">\n'
        f'<AutoLeadAcquisitionProtocol><ObjectiveCalibration pixel_height="{PIXEL_UM}" pixel_width="{PIXEL_UM}" '
        f'unit="µm"/><Plate columns="{COLUMNS}" name="96" rows="{ROWS}"/></AutoLeadAcquisitionProtocol>\n'
        f'<Images number="1536">{images}</Images></ImageStack>\n'
    )
    return text.encode("iso-8859-1")


def scanr(named: Sequence[tuple[int, str, int, int, str]], dyes: Sequence[str], size_px: int) -> bytes:
    """scanR's `metadata.ome.xml`.

    Args:
        named: Running number and name of the well, site, channel from 0, and file of every image.
        dyes: Of the channels.
        size_px: Edge of the images.
    """
    images = []
    for number, well, site in dict.fromkeys(place[:3] for place in named):
        own = [(channel, name) for *place, channel, name in named if place == [number, well, site]]
        data = "".join(
            f'<TiffData FirstC="{channel}" FirstT="0" FirstZ="0"><UUID FileName="{name}">urn:uuid:0</UUID></TiffData>'
            f'<Plane PositionX="100090.0" PositionY="61827.0" TheC="{channel}" TheT="0" TheZ="0"/>'
            for channel, name in own
        )
        channels = "".join(f'<Channel ID="Channel:{channel}" Name="{dyes[channel]}"/>' for channel, _ in own)
        images.append(
            f'<Image ID="Image:W{number}P{site}" Name="Well {number}, Position {site} ({well})">'
            f'<Pixels PhysicalSizeX="{PIXEL_UM:.6f}" PhysicalSizeY="{PIXEL_UM:.6f}" SizeC="{len(own)}" SizeT="1" '
            f'SizeX="{size_px}" SizeY="{size_px}" SizeZ="1" Type="uint16">{channels}{data}</Pixels></Image>'
        )
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="no" ?>\n<OME Creator="Olympus, scanR 3.3.0" '
        'xmlns="http://www.openmicroscopy.org/Schemas/OME/2013-06">\n' + "\n".join(images) + "\n</OME>\n"
    ).encode()


def ome_plate(places: Sequence[tuple[str, int]], plate: str, dyes: Sequence[str], size_px: int) -> str:
    """OME-XML of one file that holds all fields of a plate, channel by channel.

    Args:
        places: Well and site of every field, in the order of the file.
        plate: Its name.
        dyes: Of the channels.
        size_px: Edge of the images.
    """
    images = "".join(
        f'<Image ID="Image:{number}" Name="{well}, Field {site}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" '
        f'Type="uint16" SizeX="{size_px}" SizeY="{size_px}" SizeC="{len(dyes)}" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="{PIXEL_UM * 1000}" PhysicalSizeXUnit="nm" PhysicalSizeY="{PIXEL_UM}">'
        + "".join(
            f'<Channel ID="Channel:{number}:{c}" Name="{dye}" SamplesPerPixel="1"/>' for c, dye in enumerate(dyes)
        )
        + f'<TiffData IFD="{number * len(dyes)}" PlaneCount="{len(dyes)}"/></Pixels></Image>'
        for number, (well, site) in enumerate(places)
    )
    wells = "".join(
        f'<Well ID="Well:{well}" Row="{ord(well[0]) - ord("A")}" Column="{int(well[1:]) - 1}">'
        + "".join(
            f'<WellSample ID="WellSample:{number}" Index="{number}"><ImageRef ID="Image:{number}"/></WellSample>'
            for number, place in enumerate(places)
            if place[0] == well
        )
        + "</Well>"
        for well in dict.fromkeys(well for well, _ in places)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Plate ID="Plate:0" Name="{plate}" Rows="{ROWS}" Columns="{COLUMNS}">{wells}</Plate>{images}</OME>'
    )
