"""Files that try to run code, lead out of their folder or fill memory: refused, and nothing of the kind happens."""

import gzip
import io
import json
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import webdataset
import zarr
from safetensors.torch import load_file, save_file

from subcell_hf.augmentation.presets import load_settings
from subcell_hf.cells.folder import read_crops
from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import read_profiles
from subcell_hf.hub.cards.card_facts import gather_facts
from subcell_hf.hub.endpoint.endpoint_images import Budget, Limits, RequestError, decode_image
from subcell_hf.images.fields_of_view import ReadingOptions, find_fields
from subcell_hf.images.files import FieldError
from subcell_hf.inference.models.loading import CellEncoder, find_models
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.shards.codec import decode_sample
from subcell_hf.shards.inspection import inspect_shards
from subcell_hf.shards.reader import ShardReader
from subcell_hf.storage.model_folders import load_model
from subcell_hf.tables.files import read_table, write_h5ad
from subcell_hf.training.pretraining.arguments import parse_arguments
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.fuzz.image_kinds import write_crops_folder
from tests.fuzz.mutations import SECRET, Canary
from tests.hub.tiny_models import save_tiny
from tests.images.written_fields import COLOURS, random_plane, write_hpa_field
from tests.inference.example_output import example_cells

RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork", "socket.connect")


class Watch:
    """What this process does while a test runs: commands, connections, and files with the name of the secret."""

    active = False
    seen: list[str] = []

    @classmethod
    def hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        opens_secret = event == "open" and isinstance(arguments[0], str | bytes) and SECRET in os.fsdecode(arguments[0])
        if cls.active and (event in RUNS or opens_secret):
            cls.seen.append(f"{event} {arguments!r}")


sys.addaudithook(Watch.hook)


@pytest.fixture(autouse=True)
def marker(tmp_path: Path) -> Iterator[Path]:
    """Fails a test in which code of a file was run, or a file outside was opened."""
    place = tmp_path / "was-run"
    Watch.seen.clear()
    Watch.active = True
    yield place
    Watch.active = False
    assert not place.exists()
    assert Watch.seen == []


def objects(marker: Path) -> bytes:
    """A `.npy` file of Python objects."""
    file = io.BytesIO()
    np.save(file, np.array([[Canary(str(marker))]], dtype=object), allow_pickle=True)
    return file.getvalue()


def read_fields(folder: Path) -> None:
    options = ReadingOptions(channel_names=COLOURS, pixel_size_um=0.1)
    for found in find_fields(folder, options):
        found.read()


# ---- Pickles ----


@pytest.mark.parametrize("name", ["x.npy", "x.tif", "x.png", "x.tif.gz"])
def test_objects_in_place_of_pixels(name: str, marker: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    content = objects(marker)
    (tmp_path / "images" / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(FieldError, match=f"{name}.*objects"):
        read_fields(tmp_path / "images")
    with pytest.raises(RequestError, match="object"):
        decode_image(content, "inputs[0]", Limits(), Budget(Limits()))


def test_objects_in_place_of_a_mask(marker: Path, tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "images", with_mask=False)
    (tmp_path / "images" / "800_A6_1_mask.npy").write_bytes(objects(marker))
    (found,) = find_fields(tmp_path / "images")
    with pytest.raises(FieldError, match="objects"):
        found.read()


@pytest.mark.parametrize("name", ["embeddings", "cell_id", "subcell_hf", "classes"])
def test_objects_in_a_table(name: str, marker: Path, tmp_path: Path) -> None:
    table = example_cells(4)
    evil = np.array([Canary(str(marker))] * 4, dtype=object)
    arrays = {"embeddings": table.embeddings, "cell_id": np.arange(4).astype(str), name: evil}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError, match=r"x\.npz"):
        read_table(tmp_path / "x.npz")


def write_member(folder: Path, name: str, content: bytes, **options: Any) -> None:
    """Append a member to the first shard."""
    path = next(iter(sorted(folder.glob("*.tar"))))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for option, value in options.items():
            setattr(info, option, value)
        archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("ending", ["pyd", "pickle", "pth", "pt", "pkl"])
def test_pickled_members_of_shards(ending: str, marker: Path, tmp_path: Path) -> None:
    import pickle

    folder = tmp_path / "shards"
    write_synthetic(folder, SyntheticCrops(antibodies=2, fields_per_antibody=1))
    path = next(iter(sorted(folder.glob("*.tar"))))
    with tarfile.open(path) as archive:
        key = archive.getnames()[-1].split(".")[0]
    write_member(folder, f"{key}.{ending}", pickle.dumps(Canary(str(marker))))
    with pytest.raises(InputError, match="members are"):
        list(webdataset.WebDataset([str(path)], shardshuffle=False).map(decode_sample))
    with pytest.raises(InputError, match="bytes, expected"):
        ShardReader(folder)
    assert any("has unexpected members" in problem for problem in inspect_shards(folder, progress=False).problems)


# ---- Ways out of a folder ----


@pytest.mark.parametrize(
    "name", [f"../{SECRET}.tar", f"/tmp/{SECRET}.tar", "pipe:touch was-run", "a/b.tar", "x.tar\n", 5]
)
def test_names_of_shards(name: object, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_synthetic(folder, SyntheticCrops(antibodies=2, fields_per_antibody=1))
    index = json.loads((folder / "index.json").read_bytes())
    index["shards"][0]["file"] = name
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="names the shard"):
        ShardReader(folder)


@pytest.mark.parametrize("url", ["pipe:touch was-run", "simplecache::pipe:touch was-run"])
def test_shards_are_no_commands(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="commands are never run"):
        ShardReader(url)


@pytest.mark.parametrize(
    "options",
    [
        {"name": f"../{SECRET}.json"},
        {"name": f"/tmp/{SECRET}.json"},
        {"name": "x.json", "type": tarfile.SYMTYPE, "linkname": f"../{SECRET}"},
        {"name": "x.json", "type": tarfile.LNKTYPE, "linkname": f"../../{SECRET}"},
        {"name": "x.json", "type": tarfile.CHRTYPE},
        {"name": "x.json", "type": tarfile.FIFOTYPE},
    ],
)
def test_members_of_shards_that_lead_elsewhere(options: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_synthetic(folder, SyntheticCrops(antibodies=2, fields_per_antibody=1))
    (tmp_path / SECRET).write_text("secret")
    Watch.seen.clear()
    write_member(folder, **{"content": b"", **options})
    problems = inspect_shards(folder, progress=False).problems
    assert any("may be unsafe to open" in problem for problem in problems)


@pytest.mark.parametrize(
    "name", [f"../{SECRET}.tiff", f"/{SECRET}.tiff", f"fields/../../{SECRET}.tiff", "crops.json", "", None]
)
def test_files_that_a_table_of_crops_names(name: str | None, tmp_path: Path) -> None:
    write_crops_folder(tmp_path)
    path = tmp_path / "crops" / "crops.parquet"
    table = pq.read_table(path)
    column = pa.array([name] * len(table), pa.string())
    pq.write_table(table.set_column(table.column_names.index("file"), "file", column), path)
    with pytest.raises(InputError, match="names the file"):
        list(read_crops(tmp_path / "crops"))


@pytest.mark.parametrize("place", [f"../{SECRET}", f"../../{SECRET}", f"0/../../{SECRET}"])
def test_arrays_that_an_ome_zarr_names(place: str, tmp_path: Path) -> None:
    stack = np.stack([random_plane(n, (40, 48), "uint16") for n in range(4)])
    for path in (tmp_path / SECRET, tmp_path / "images" / SECRET):
        array = zarr.open_array(path, mode="w", shape=stack.shape, chunks=stack.shape, dtype="uint16")
        array[...] = stack
    group = zarr.open_group(tmp_path / "images" / "x.zarr", mode="w", zarr_format=2)
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": place}]}]
    Watch.seen.clear()
    with pytest.raises(FieldError, match=r"x\.zarr"):
        read_fields(tmp_path / "images" / "x.zarr")


def test_an_ome_tiff_that_names_other_files(tmp_path: Path) -> None:
    stack = np.stack([random_plane(n, (40, 48), "uint16") for n in range(4)])
    tifffile.imwrite(tmp_path / f"{SECRET}.ome.tif", stack, photometric="minisblack", metadata={"axes": "CYX"})
    folder = tmp_path / "images"
    folder.mkdir()
    planes = "".join(
        f'<TiffData FirstC="{n}" IFD="{n}"><UUID FileName="../{SECRET}.ome.tif">urn:uuid:secret</UUID></TiffData>'
        for n in range(4)
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:own">'
        "<Image>"
        f'<Pixels SizeX="48" SizeY="40" SizeC="4" SizeZ="1" SizeT="1" Type="uint16" DimensionOrder="XYZCT">{planes}'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(folder / "x.ome.tif", stack[0], photometric="minisblack", description=xml, metadata=None)
    Watch.seen.clear()
    with pytest.raises(FieldError, match="x"):
        read_fields(folder)


def test_links_of_an_h5ad(tmp_path: Path) -> None:
    for name in (f"{SECRET}.h5ad", "x.h5ad"):
        write_h5ad(example_cells(3), tmp_path / name)
    with h5py.File(tmp_path / "x.h5ad", "a") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink(f"{SECRET}.h5ad", "/X")
    Watch.seen.clear()
    with pytest.raises(InputError, match=r"x\.h5ad.*another file"):
        read_table(tmp_path / "x.h5ad")


# ---- Models ----


@pytest.mark.parametrize(
    "values",
    [
        {"transformers_weights": "other.safetensors"},
        {"transformers_weights": f"../{SECRET}.safetensors"},
        {"quantization_config": {"quant_method": "torchao"}},
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"backbone_config": {"model_type": "resnet", "attn_implementation": "evil/kernel"}},
    ],
)
def test_configurations_that_load_something_else(values: dict[str, Any], tmp_path: Path) -> None:
    folder = save_tiny("SubCellModel", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for path in (folder / "other.safetensors", tmp_path / f"{SECRET}.safetensors"):
        save_file({name: value * 2 for name, value in weights.items()}, path, {"format": "pt"})
    Watch.seen.clear()
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | values))
    for load in (load_model, lambda folder: CellEncoder(*find_models(str(folder)), "cpu", "fp32")):
        with pytest.raises(InputError, match="would take other weights or code"):
            load(folder)


def test_an_adapter_beside_the_weights(tmp_path: Path) -> None:
    folder, other = save_tiny("SubCellModel", tmp_path / "model"), save_tiny("SubCellModel", tmp_path / SECRET)
    Watch.seen.clear()
    adapter = {"base_model_name_or_path": str(other), "peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    for load in (load_model, lambda folder: find_models(str(folder))):
        with pytest.raises(InputError, match="merge the adapter"):
            load(folder)


# ---- Text ----

TAG = "!!python/object/apply:os.mkdir [{marker}]"


def _recipe(path: Path) -> object:
    return parse_arguments([str(path)])


def _facts(path: Path) -> object:
    return gather_facts(SubCellConfig(image_size=32), "lab/model", facts=path)


@pytest.mark.parametrize("read", [_recipe, _facts, load_settings], ids=["recipe", "facts", "views"])
@pytest.mark.parametrize("text", [TAG, "size: " + TAG, "? " + TAG + "\n: 1"])
def test_yaml_tags(text: str, read: Callable[[Path], object], marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text.format(marker=marker))
    with pytest.raises(InputError, match=r"x\.yaml is not valid YAML"):
        read(path if read is not load_settings else str(path))


BOMB = '<!ENTITY a "lollollollollol">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 12}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
ENTITIES = {
    "billion laughs": (BOMB, "&i;"),
    "one long entity": (f'<!ENTITY a "{"x" * 100_000}">', "&a;" * 20_000),
    "a file": ('<!ENTITY a SYSTEM "{secret}">', "&a;"),
    "a parameter": ('<!ENTITY % a SYSTEM "{secret}"> %a;', ""),
    "an address": ('<!ENTITY a SYSTEM "http://127.0.0.1:9/x">', "&a;"),
}


@pytest.mark.parametrize("name", ENTITIES)
def test_entities_in_ome_xml(name: str, tmp_path: Path) -> None:
    definition, use = ENTITIES[name]
    (tmp_path / SECRET).write_text("secret")
    xml = (
        f'<?xml version="1.0"?><!DOCTYPE OME [{definition.replace("{secret}", str(tmp_path / SECRET))}]>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Description>' + use + "</Description>"
        '<Pixels SizeX="48" SizeY="40" SizeC="4" SizeZ="1" SizeT="1" Type="uint16" DimensionOrder="XYZCT">'
        '<TiffData IFD="0" PlaneCount="4"/></Pixels></Image></OME>'
    )
    stack = np.stack([random_plane(n, (40, 48), "uint16") for n in range(4)])
    (tmp_path / "images").mkdir()
    Watch.seen.clear()
    tifffile.imwrite(
        tmp_path / "images" / "x.ome.tif", stack, photometric="minisblack", description=xml.encode(), metadata=None
    )
    try:
        read_fields(tmp_path / "images")
    except FieldError:
        return
    assert name == "a parameter"  # parameters are not expanded, so that nothing of the file depends on it


def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.tif.gz").write_bytes(gzip.compress(bytes(2**28), 1))
    options = ReadingOptions(channel_names=COLOURS, pixel_size_um=0.1, max_decoded_bytes=2**24)
    with pytest.raises(FieldError, match="too large"):
        find_fields(tmp_path / "images", options)[0].read()


def test_a_small_table_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 2**25))
    with pytest.raises(InputError, match=r"x\.csv unpacks to more than 67,108,864 bytes.*unpack it first"):
        read_table(tmp_path / "x.csv")


def test_an_npz_with_what_is_no_array(tmp_path: Path) -> None:
    table = example_cells(4)
    np.savez(tmp_path / "x.npz", embeddings=table.embeddings)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("cell_id.txt", b"abc")
    with pytest.raises(InputError, match=r"contains 'cell_id\.txt', which is not an array"):
        read_table(tmp_path / "x.npz")
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**20)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("embeddings.npy", b"\x93NUMPY\x01\x00" + huge.getvalue().removeprefix(b"\x93NUMPY\x01\x00"))
    with pytest.raises(InputError, match=r"x\.npz cannot be read"):
        read_table(tmp_path / "x.npz")


def test_headers_and_texts_that_raise_whatever_they_please(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", embeddings=np.ones((3, 2), np.float32))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        header = archive.read("embeddings.npy").replace(b"}", b" ", 1)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("embeddings.npy", header)
    with pytest.raises(InputError, match=r"x\.npz cannot be read"):
        read_table(tmp_path / "x.npz")
    texts = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")]
    )
    pq.write_table(pa.table({"Metadata_plate": texts, "feature": [1.0]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet cannot be read as Parquet: .*UTF"):
        read_profiles([tmp_path / "x.parquet"])


def test_a_record_without_its_cell(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SyntheticCrops(antibodies=2, fields_per_antibody=1))
    path = next(iter(sorted(tmp_path.glob("*.tar"))))
    (sample, *_) = webdataset.WebDataset([str(path)], shardshuffle=False)
    record = json.loads(sample["json"])
    del record["cell_id"]
    with pytest.raises(InputError, match="cannot be read: 'cell_id'"):
        decode_sample({**sample, "json": json.dumps(record).encode()})
