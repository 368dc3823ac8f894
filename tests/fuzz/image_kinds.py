"""Images, masks, crops, shards, and what is sent to the endpoint."""

import base64
import functools
import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import webdataset
import zarr
from huggingface_hub import constants
from PIL import Image

from subcell_hf.cells.cropping import crop_fields
from subcell_hf.cells.folder import read_crops
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.endpoint.endpoint_images import Limits, RequestError
from subcell_hf.images.fields_of_view import ReadingOptions, find_fields
from subcell_hf.model.image_files_subcell import read_bytes
from subcell_hf.model.pictures_subcell import sheet_png
from subcell_hf.shards.codec import decode_sample
from subcell_hf.shards.inspection import inspect_shards
from subcell_hf.shards.reader import ShardReader
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.fuzz.runner import Kind
from tests.hub.tiny_models import save_tiny
from tests.images.layouts.written_containers import write_czi, write_lif, write_nd2
from tests.images.written_fields import COLOURS, label_mask, random_plane, write_hpa_field, write_png

LIMIT_BYTES = 2**27
SHAPE = (40, 48)


def stack(dtype: str = "uint16") -> npt.NDArray[Any]:
    """`[4, height, width]`."""
    return np.stack([random_plane(number, SHAPE, dtype) for number in range(4)])


def read_fields(folder: Path) -> None:
    """As `subcell crops` reads a folder: every field; the first that cannot be used is the refusal."""
    planes = any(path.stem.endswith("_green") or "_green." in path.name for path in folder.iterdir())
    options = ReadingOptions(
        channel_names=() if planes else COLOURS, pixel_size_um=0.1, z_projection="max", max_decoded_bytes=LIMIT_BYTES
    )
    for found in find_fields(folder, options):
        found.read()


def read_packed(folder: Path) -> None:
    """As an archive or dataset is read, unpacked into the same folder."""
    packed = next(folder.iterdir(), folder / "removed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(folder / "cache"))
        for found in find_fields(packed, ReadingOptions(pixel_size_um=0.1, max_decoded_bytes=LIMIT_BYTES)):
            found.read()


def _archive(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        with TemporaryDirectory() as content:
            write_hpa_field(Path(content), shape=SHAPE)
            shutil.make_archive(str(folder / "x"), kind, content)

    return write


def _dataset(ending: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        columns = {
            f"{colour}_image": [{"bytes": imagecodecs.png_encode(plane), "path": None}]
            for colour, plane in zip(COLOURS, stack(), strict=True)
        }
        table = pa.table({**columns, "cell_id": ["a"]})
        if ending == ".parquet":
            pq.write_table(table, folder / "x.parquet")
            return
        (folder / "x").mkdir()
        (folder / "x/state.json").write_text("{}")
        with pa.ipc.new_stream(folder / "x/data.arrow", table.schema) as stream:
            stream.write_table(table)

    return write


def _planes(write: Any, ending: str) -> Any:
    def write_all(folder: Path) -> None:
        for number, colour in enumerate(COLOURS):
            write(folder / f"1_A1_1_{colour}{ending}", random_plane(number, SHAPE))

    return write_all


def _jpeg(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.write_bytes(imagecodecs.jpeg8_encode(pixels, level=90))


def _tiff(name: str = "x.tif", pixels: str = "uint16", **options: Any) -> Any:
    return lambda folder: tifffile.imwrite(folder / name, stack(pixels), **{"photometric": "minisblack", **options})


def _gzip_tiff(path: Path, pixels: npt.NDArray[Any]) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, compression="zlib")
    path.write_bytes(gzip.compress(file.getvalue(), 1))


def _ome_zarr(version: int) -> Any:
    def write(folder: Path) -> None:
        group = zarr.open_group(folder / "x.zarr", mode="w", zarr_format=version)
        options: Any = {} if version == 3 else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
        array = group.create_array("0", shape=(4, *SHAPE), chunks=(1, *SHAPE), dtype="uint16", **options)
        array[...] = stack()
        scale = {"type": "scale", "scale": [1, 0.1, 0.1]}
        axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
        multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}
        facts = {"multiscales": [multiscale], "omero": {"channels": [{"label": name} for name in COLOURS]}}
        group.attrs.update({"ome": {"version": "0.5", **facts}} if version == 3 else facts)

    return write


def _czi(folder: Path) -> None:
    write_czi(folder / "x.czi", [stack()[None, None]] * 2, wells=("B2", "B3"), names=COLOURS)


def _lif(folder: Path) -> None:
    write_lif(folder / "x.lif", {"one": ("CYX", stack()), "two": ("ZCYX", np.stack([stack()] * 2))}, names=COLOURS)


def _nd2(folder: Path) -> None:
    write_nd2(folder / "x.nd2", np.stack([stack()] * 4).reshape(1, 2, 2, 4, *SHAPE), COLOURS, ("B02", "B03"))


def _masks(write: Any) -> Any:
    def write_field(folder: Path) -> None:
        write_hpa_field(folder, shape=(64, 72), with_mask=False)
        write(folder)

    return write_field


def write_crops_folder(folder: Path) -> None:
    """Fields with masks, cropped."""
    write_hpa_field(folder / "fields")
    settings = CropSettings(crop_px=40, output_px=32)
    crop_fields(folder / "fields", folder / "crops", settings=settings, progress=False)


def read_crops_folder(folder: Path) -> None:
    """As `subcell shards` and `subcell embed` read crops."""
    for field in read_crops(folder / "crops"):
        field.pixels.sum()


def read_shards(folder: Path) -> None:
    """As training reads shards."""
    reader = ShardReader(folder / "shards")
    reader.read(reader.split_rows("train")[:2])
    reader.read(np.arange(len(reader.cells)))


def read_inspected(folder: Path) -> None:
    """As `subcell shards-inspect` reads them."""
    inspect_shards(folder / "shards", progress=False)


def read_webdataset(folder: Path) -> None:
    """As the webdataset library reads them with our decoder."""
    paths = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
    try:
        samples: list[Any] = list(webdataset.WebDataset(paths, shardshuffle=False)) if paths else []
    except (tarfile.TarError, OSError, ValueError):
        return  # a tar that is none is webdataset's to refuse
    for sample in samples:
        decode_sample(sample)["pixels"].sum()


def _shards(**options: Any) -> Any:
    return lambda folder: write_synthetic(
        folder / "shards", SyntheticCrops(antibodies=3, fields_per_antibody=1, **options)
    )


@functools.cache
def _handler(place: str) -> EndpointHandler:
    limits = Limits(max_request_bytes=4_000_000, max_edge_px=256, max_cells=4, max_batch=8)
    return EndpointHandler(place, limits, trust_remote_code=False)


def write_body(encode: Any, together: bool = False) -> Any:
    """A request, and the model that it is for."""

    def write(folder: Path) -> None:
        crop = np.stack([random_plane(number, (64, 64), "uint8") for number in range(4)])
        files = {name: base64.b64encode(encode(plane)).decode() for name, plane in zip(COLOURS, crop, strict=True)}
        cell: dict[str, Any] = {"image": base64.b64encode(encode(crop)).decode()} if together else files
        body = {"inputs": [cell | {"pixel_size_um": 0.8}], "parameters": {"top_k": 3, "attention": True}}
        (folder / "request.body.json").write_text(json.dumps(body))
        model = folder.parent / "model"
        if not model.is_dir():
            save_tiny("SubCellForImageClassification", model)

    return write


def answer_body(folder: Path) -> None:
    """As the endpoint's server reads a body."""
    model = next(folder.parents[1].glob("sound/endpoint/model"))
    try:
        body = json.loads((folder / "request.body.json").read_bytes())
    except (ValueError, RecursionError, OSError):
        return  # the server's own refusal
    _handler(str(model))(body)


def write_picture(ending: str) -> Callable[[Path], None]:
    """One file of a cell, as widgets send it: a channel sheet, or a stack."""

    def write(folder: Path) -> None:
        planes = stack("uint8")[..., : SHAPE[0]]
        sheet = Image.fromarray(np.hstack(list(planes)))
        content = {
            ".png": lambda: sheet_png(dict(zip(COLOURS, planes, strict=True))),
            ".jpg": lambda: imagecodecs.jpeg_encode(np.asarray(sheet)),
            ".tif": lambda: _encoded_tiff(planes),
        }[ending]()
        (folder / f"picture{ending}").write_bytes(content)
        if not (folder.parent / "model").is_dir():
            save_tiny("SubCellForImageClassification", folder.parent / "model")

    return write


def answer_picture(folder: Path) -> None:
    """As the endpoint's server takes bytes that are no JSON, and as the pipeline reads them."""
    model = next(folder.parents[1].glob("sound/sheets/model"))
    content = next((path.read_bytes() for path in folder.glob("picture.*") if path.is_file()), b"")
    read_bytes(content, "picture")
    _handler(str(model))({"inputs": content})


def _npy(pixels: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def _encoded_tiff(pixels: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, compression="zlib", photometric="minisblack")
    return file.getvalue()


OME = {"axes": "CYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "Channel": {"Name": list(COLOURS)}}

IMAGE_KINDS = [
    Kind("png", {"8 bit": _planes(write_png, ".png"), "field": write_hpa_field}, read_fields, 8),
    Kind("jpeg", {"grey": _planes(_jpeg, ".jpg")}, read_fields, 5),
    Kind(
        "tiff",
        {
            "plain": _tiff(),
            "tiled": _tiff(tile=(16, 16)),
            "deflate": _tiff(compression="zlib", predictor=True),
            "lzw": _tiff(compression="lzw", rowsperstrip=7),
            "zstd": _tiff(compression="zstd"),
            "jpeg": _tiff(pixels="uint8", compression="jpeg"),
            "packbits": _tiff(pixels="uint8", compression="packbits"),
            "imagej": _tiff(imagej=True, metadata={"axes": "CYX"}),
            "planar": _tiff(planarconfig="separate", photometric="rgb", extrasamples=[0]),
            "big-endian": _tiff(byteorder=">"),
            "pages": _tiff(metadata=None),
        },
        read_fields,
        14,
    ),
    Kind(
        "ome-tiff",
        {"ome": _tiff("x.ome.tif", metadata=OME), "tiled": _tiff("x.ome.tif", metadata=OME, tile=(32, 32))},
        read_fields,
        8,
    ),
    Kind("bigtiff", {"plain": _tiff(bigtiff=True), "big-endian": _tiff(bigtiff=True, byteorder=">")}, read_fields, 5),
    Kind("npy", {"npy": lambda folder: np.save(folder / "x.npy", stack())}, read_fields, 6),
    Kind("containers", {"czi": _czi, "lif": _lif, "nd2": _nd2}, read_fields, 8),
    Kind("gzip", {"tiff": _planes(_gzip_tiff, ".tif.gz")}, read_fields, 5),
    Kind("archives", {kind: _archive(kind) for kind in ("zip", "tar", "gztar")}, read_packed, 4),
    Kind("datasets", {ending: _dataset(ending) for ending in (".parquet", ".arrow")}, read_packed, 4),
    Kind("ome-zarr", {"0.4": _ome_zarr(2), "0.5": _ome_zarr(3)}, read_fields, 6),
    Kind(
        "masks",
        {
            "png": _masks(lambda folder: write_png(folder / "800_A6_1_mask.png", label_mask())),
            "tiff": _masks(lambda folder: tifffile.imwrite(folder / "800_A6_1_mask.tif", label_mask())),
        },
        read_fields,
        6,
        spared=frozenset(f"800_A6_1_{colour}.png" for colour in COLOURS),
    ),
    Kind("crops", {"crops": write_crops_folder}, read_crops_folder, 4),
    Kind(
        "shards",
        {"uint8": _shards(), "uint16": _shards(dtype="uint16")},
        read_shards,
        6,
        refusals=(FileNotFoundError, IsADirectoryError),
    ),
    Kind("inspection", {"uint8": _shards()}, read_inspected, 3, refusals=(FileNotFoundError, IsADirectoryError)),
    Kind("webdataset", {"uint8": _shards()}, read_webdataset, 4),
    Kind(
        "sheets",
        {ending[1:]: write_picture(ending) for ending in (".png", ".jpg", ".tif")},
        answer_picture,
        6,
        refusals=(ValueError,),
    ),
    Kind(
        "endpoint",
        {
            "npy": write_body(_npy),
            "tiff": write_body(_encoded_tiff),
            "png": write_body(imagecodecs.png_encode),
            "stack": write_body(_npy, together=True),
        },
        answer_body,
        10,
        refusals=(RequestError,),
    ),
]
