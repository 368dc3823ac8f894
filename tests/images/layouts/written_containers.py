"""Small CZI, LIF and ND2 files, and OME-TIFF sets with a companion file, written without the readers."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
import tifffile

Pixels = npt.NDArray[Any]
_PROBE = {"pFluorescentProbe": {"m_ExcitationSpectrum": {"uiCount": 0}}}
_LIF_DIMENSIONS = {"X": 1, "Y": 2, "Z": 3, "T": 4, "λ": 5, "M": 10}


def written_pixels(*shape: int, seed: int = 0) -> Pixels:
    """Random numbers, uint16, so that no two planes are alike."""
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(np.uint16)


def write_czi(
    path: Path,
    scenes: Sequence[Pixels],
    wells: Sequence[str] = (),
    names: Sequence[str] = (),
    size_um: float | None = 0.1,
    described: str = "",
) -> None:
    """Write scenes far apart with Zeiss's library.

    Args:
        path: To write.
        scenes: `[time, z, channel, height, width]` each.
        wells: Of each scene, such as `D6`.
        names: Of the channels.
        size_um: Edge of a pixel; None leaves the calibration out.
        described: Elements `Scene` of the XML, instead of those that `wells` describe.
    """
    from pylibCZIrw import czi

    with czi.create_czi(str(path)) as file:
        for scene, pixels in enumerate(scenes):
            for time, z, channel in np.ndindex(pixels.shape[:3]):
                place = {"T": time, "Z": z, "C": channel}
                plane = pixels[time, z, channel][..., None]
                file.write(plane, location=(50_000 * scene, 0), plane=place, scene=scene)
        scale = {} if size_um is None else {"scale_x": size_um * 1e-6, "scale_y": size_um * 1e-6}
        file.write_metadata(channel_names=dict(enumerate(names)), **scale)
    if wells or described:
        with czi.edit_czi(str(path)) as editor, editor.edit_session() as builder:
            described = described or "".join(
                f'<Scene Index="{index}" Name="P{index + 1}"><Shape Name="{well}"><ColumnIndex>{well[1:]}</ColumnIndex>'
                f"<RowIndex>{ord(well[0]) - 64}</RowIndex></Shape></Scene>"
                for index, well in enumerate(wells)
            )
            text = builder.get_xml()
            start = text.index("<S />") if "<S />" in text else text.index("</Dimensions>")
            builder.set_xml(text[:start] + f"<S><Scenes>{described}</Scenes></S>" + text[start:].removeprefix("<S />"))


def write_lif(
    path: Path,
    series: Mapping[str, tuple[str, Pixels]],
    names: Sequence[str] = (),
    size_um: float = 0.1,
    declaration: str = "",
) -> None:
    """Write series.

    Args:
        path: To write.
        series: Name, after those of the folders that it lies in and `/` → axes, one letter per axis of
            the pixels and ending in `CYX`, and the pixels.
        names: Dyes of the channels.
        size_um: Edge of a pixel.
        declaration: Begins the XML, such as a document type.
    """
    elements, blocks = "", b""
    for number, (name, (axes, pixels)) in enumerate(series.items()):
        steps = dict(zip(axes, pixels.strides, strict=True))
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" NameOfMeasuredQuantity="" Min="0" '
            f'Max="1" Unit="" LUTName="Green" IsLUTInverted="0" BytesInc="{channel * steps["C"]}" BitInc="0">'
            + (f"<ChannelProperty><Key>DyeName</Key><Value>{names[channel]}</Value></ChannelProperty>" if names else "")
            + "</ChannelDescription>"
            for channel in range(pixels.shape[axes.index("C")])
        )
        dimensions = "".join(
            f'<DimensionDescription DimID="{_LIF_DIMENSIONS[axis]}" NumberOfElements="{length}" Origin="0" '
            f'Length="{size_um * 1e-6 * (length - 1)}" Unit="m" BitInc="0" BytesInc="{steps[axis]}"/>'
            for axis, length in reversed(list(zip(axes, pixels.shape, strict=True)))
            if axis != "C"
        )
        *parents, own = name.split("/")
        element = (
            f'<Element Name={quoteattr(own)} UniqueID="{number}"><Data><Image TextDescription=""><ImageDescription>'
            f"<Channels>{channels}</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{pixels.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
        )
        for depth, parent in reversed(list(enumerate(parents))):
            element = (
                f'<Element Name={quoteattr(parent)} UniqueID="f{number}-{depth}"><Data/><Memory Size="0" '
                f'MemoryBlockID="MemBlock_f{number}-{depth}"/><Children>{element}</Children></Element>'
            )
        elements += element
        block = f"MemBlock_{number}"
        blocks += struct.pack("<IIBQBI", 0x70, 14 + 2 * len(block), 0x2A, pixels.nbytes, 0x2A, len(block))
        blocks += block.encode("utf-16-le") + pixels.tobytes()
    xml = (
        f'{declaration}<LMSDataContainerHeader Version="2"><Element Name="Project" UniqueID="p">'
        f'<Memory Size="0" MemoryBlockID="MemBlock_p"/><Children>{elements}</Children></Element>'
        "</LMSDataContainerHeader>"
    )
    path.write_bytes(struct.pack("<IIBI", 0x70, 2 * len(xml) + 5, 0x2A, len(xml)) + xml.encode("utf-16-le") + blocks)


def write_nd2(
    path: Path,
    pixels: Pixels,
    names: Sequence[str],
    positions: Sequence[str],
    size_um: float | None = 0.1,
    lost_frames: Sequence[int] = (),
    declaration: str = "",
) -> None:
    """Write a file as NIS-Elements wrote them with XML (version 2).

    Args:
        path: To write.
        pixels: `[time, position, z, channel, height, width]`.
        names: Of the channels.
        positions: Names of the positions.
        size_um: Edge of a pixel; None: not calibrated.
        lost_frames: Numbers of frames that are announced and not written.
        declaration: Begins every XML, such as a document type.
    """
    times, points, z_planes, channels, height, width = pixels.shape
    stack = {"eType": 4, "uLoopPars": {"uiCount": z_planes, "dZStep": 0.5}}
    point = [{"dPosX": 100.0 * n, "dPosY": 0.0, "dPosZ": 0.0, "pPosName": name} for n, name in enumerate(positions)]
    places = {"eType": 2, "uLoopPars": {"Points": point}, "ppNextLevelEx": [stack]}
    loops = {"dStart": 0.0, "dPeriod": 0.0, "dDuration": 0.0, "uiCount": times}
    attributes = {
        "uiWidth": width, "uiHeight": height, "uiWidthBytes": 2 * width * channels, "uiComp": channels,
        "uiBpcInMemory": 16, "uiBpcSignificant": 12, "uiSequenceCount": times * points * z_planes,
    }  # fmt: skip
    planes = {f"a{n}": {"sDescription": name, "uiCompCount": 1, **_PROBE} for n, name in enumerate(names)}
    picture = {
        "bCalibrated": size_um is not None,
        "dCalibration": size_um or 1.0,
        "sPicturePlanes": {"uiCount": channels, "sPlaneNew": planes},
    }
    chunks = {
        b"ImageAttributes!": _variant(attributes, declaration),
        b"ImageMetadata!": _variant({"eType": 1, "uLoopPars": loops, "ppNextLevelEx": [places]}, declaration),
        b"ImageMetadataSeq|0!": _variant(picture, declaration),
    }
    frames = pixels.reshape(-1, channels, height, width)
    for number, frame in enumerate(frames):
        if number not in lost_frames:
            data = struct.pack("<d", 0.0) + np.moveaxis(frame, 0, -1).tobytes()
            chunks[b"ImageDataSeq|%d!" % number] = data
    content = bytearray(_chunk(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver2.1".ljust(64, b"\0"), 32))
    places_of = b""
    for name, data in chunks.items():
        places_of += name + struct.pack("<QQ", len(content), len(data))
        content += _chunk(name, data, 4072)
    start = len(content)
    content += _chunk(
        b"ND2 FILEMAP SIGNATURE NAME 0001!", places_of + b"ND2 CHUNK MAP SIGNATURE 0000001!" + bytes(16), 32
    )
    path.write_bytes(bytes(content) + b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", start))


def _chunk(name: bytes, data: bytes, name_bytes: int) -> bytes:
    return struct.pack("<IIQ", 0x0ABECEDA, name_bytes, len(data)) + name.ljust(name_bytes, b"\0") + data


def _variant(values: Mapping[str, Any], declaration: str) -> bytes:
    inner = _element("no_name", values)
    return f'<?xml version="1.0" encoding="UTF-8"?>{declaration}<variant version="1.0">{inner}</variant>'.encode()


def _element(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        return f'<{name} runtype="CLxListVariant">{"".join(_element(*item) for item in value.items())}</{name}>'
    if isinstance(value, list):
        return f'<{name} runtype="CLxListVariant">{"".join(_element("no_name", item) for item in value)}</{name}>'
    kind = {bool: "bool", int: "lx_uint32", float: "double", str: "CLxStringW"}[type(value)]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f'<{name} runtype="{kind}" value={quoteattr(text)}/>'


def write_companion(
    folder: Path, pixels: Pixels, names: Sequence[str], size_t: int | None = None, plate: str = "", size_um: float = 0.1
) -> Path:
    """Write one TIFF per channel, and the companion that lists their planes.

    Args:
        folder: To write to.
        pixels: `[time, z, channel, height, width]`.
        names: Of the channels.
        size_t: Number of time points that is announced, where it is wrong.
        plate: Elements `Plate` of the XML.
        size_um: Edge of a pixel.
    """
    times, z_planes, channels, height, width = pixels.shape
    described, planes = "", ""
    for channel, name in enumerate(names):
        tifffile.imwrite(
            folder / f"a_w{channel}{name}.ome.tif",
            pixels[:, :, channel].reshape(-1, height, width),
            ome=False,
            photometric="minisblack",
        )
        described += f'<Channel ID="Channel:{channel}" Name="{name}" SamplesPerPixel="1"/>'
        for page, (time, z) in enumerate(np.ndindex(times, z_planes)):
            planes += (
                f'<TiffData IFD="{page}" FirstT="{time}" FirstZ="{z}" FirstC="{channel}" PlaneCount="1">'
                f'<UUID FileName="a_w{channel}{name}.ome.tif">urn:uuid:{channel}</UUID></TiffData>'
            )
    index = folder / "a.companion.ome"
    index.write_text(
        f'<?xml version="1.0" encoding="utf-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{plate}'
        f'<Image ID="Image:0" Name="a"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{width}" '
        f'SizeY="{height}" SizeZ="{z_planes}" SizeC="{channels}" SizeT="{size_t or times}" PhysicalSizeX="{size_um}" '
        f'PhysicalSizeY="{size_um}">{described}{planes}</Pixels></Image></OME>'
    )
    return index
