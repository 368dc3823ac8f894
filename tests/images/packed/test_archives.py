"""Archives of images: read as the folders that they were made of, and refused where they are cut or lead elsewhere."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from subcell_hf.images.fields_of_view import FieldError, find_fields, list_fields
from subcell_hf.images.packed import unpacking
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.layouts.test_cm4ai import NAMES, _write_crate
from tests.images.written_fields import label_mask, write_hpa_field
from tests.outside.written_zarr import stack, write_plate


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf/subcell/unpacked"


@pytest.mark.parametrize("kind", ["tar", "gztar", "zip"])
def test_an_archive_is_read_as_its_folder(
    tmp_path: Path, cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = write_hpa_field(tmp_path / "plate", dtype="uint16")
    (tmp_path / "plate/metadata.csv").write_text("field_of_view,antibody\n800_A6_1,HPA000001\n")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "plate"))
    (item,) = find_fields(packed)
    assert (item.name, item.metadata["antibody"]) == ("800_A6_1", "HPA000001")
    field = item.read()
    np.testing.assert_array_equal(field.pixels, [planes[name] for name in field.channels])
    np.testing.assert_array_equal(field.label_mask, label_mask())
    files = [(path, path.stat().st_mtime_ns) for path in item.files]
    shutil.rmtree(cache)
    assert [(path, path.stat().st_mtime_ns) for path in find_fields(packed)[0].files] == files
    monkeypatch.setattr(unpacking, "unpack_archive", None)  # the second time, nothing is unpacked
    assert find_fields(packed)[0].files == item.files


def test_a_crate_of_cm4ai_and_a_plate_are_read_from_archives(tmp_path: Path) -> None:
    _write_crate(tmp_path / "crate")
    packed = shutil.make_archive(str(tmp_path / "cm4ai_paclitaxel"), "zip", tmp_path / "crate")
    found = list_fields(packed, ReadingOptions(pixel_size_um=0.1))
    assert found.layout == "CM4AI RO-Crate"
    assert [item.name for item in found.fields] == [name.replace("C1", "C01").removesuffix("_z01") for name in NAMES]
    write_plate(tmp_path / "p.zarr", [stack(1)])
    shutil.make_archive(str(tmp_path / "p.zarr"), "zip", tmp_path / "p.zarr")
    (item,) = find_fields(tmp_path / "p.zarr.zip")
    assert item.name == "p_A01_0"
    np.testing.assert_array_equal(item.read().pixels, stack(1))


def _tar(path: Path, name: str, link: str = "") -> Path:
    with tarfile.open(path, "w") as archive:
        for member in (name, "b_blue.npy"):
            info = tarfile.TarInfo(member)
            info.size = 3000
            archive.addfile(info, io.BytesIO(bytes(3000)))
        if link:
            linked = tarfile.TarInfo("link_blue.npy")
            linked.type, linked.linkname = tarfile.SYMTYPE, link
            archive.addfile(linked)
    return path


def test_archives_that_are_cut_or_lead_elsewhere_are_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _tar(tmp_path / "a.tar", "a_blue.npy").read_bytes()
    for number, end in enumerate((5000, 512 + 3072, 700, 100, 0)):
        cut = tmp_path / f"cut{number}.tar"
        cut.write_bytes(whole[:end])
        with pytest.raises(FieldError, match="cannot be unpacked"):
            list_fields(cut)
    for name in ("../a_blue.npy", "/a_blue.npy", "x\\..\\..\\a_blue.npy"):
        with pytest.raises(FieldError, match="leads out of the archive"):
            list_fields(_tar(tmp_path / "out.tar", name))
    with pytest.raises(FieldError, match="cannot be unpacked"):
        list_fields(_tar(tmp_path / "link.tar", "a_blue.npy", link="/etc/passwd"))
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(FieldError, match=r"no\.zip cannot be unpacked"):
        list_fields(tmp_path / "no.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(FieldError, match=r"empty\.zip is empty, expected images"):
        list_fields(tmp_path / "empty.zip")
    assert {path.name for path in cache.glob("*/*")} == {"empty"}
    monkeypatch.setattr(constants, "HF_HOME", "/proc/hf")
    with pytest.raises(FieldError, match="Let HF_HOME name a folder that can be written"):
        list_fields(tmp_path / "a.tar")
