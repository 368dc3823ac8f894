"""CZI, LIF and ND2 are listed by their metadata and read plane by plane; companion sets by what the companion lists."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from subcell_hf.images.decoders import nd2 as nd2_decoder
from subcell_hf.images.field_source import FieldSource
from subcell_hf.images.fields_of_view import FieldError, find_fields, iterate_fields, list_fields
from subcell_hf.images.files import read_image
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.layouts.written_containers import write_companion, write_czi, write_lif, write_nd2, written_pixels

NAMES = ("DAPI", "5-FAM/pH 9.0")
ZEISS_NAMES = ("DAPI", "AF488")
MAPPED = ReadingOptions(channel_mapping={"DAPI": "blue", "5-FAM/pH 9.0": "green", "AF488": "green"}, z_projection=1)
BOMB = (
    '<!DOCTYPE a [<!ENTITY x0 "aaaaaaaaaa">'
    + "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 12))
    + "]>"
)


def _fields(path: Path, options: ReadingOptions = MAPPED) -> dict[str, FieldSource]:
    return {field.name: field for field in find_fields(path, options)}


def test_scenes_of_a_czi_are_fields_of_their_wells(tmp_path: Path) -> None:
    scenes = [written_pixels(1, 3, 2, 40, 50, seed=seed) for seed in range(3)]
    write_czi(tmp_path / "plate.czi", scenes, wells=("D6", "D7", "D7"), names=ZEISS_NAMES)
    fields = _fields(tmp_path)
    assert {name: (field.metadata["well"], field.metadata["site"]) for name, field in fields.items()} == {
        "plate_D06_1": ("D06", "1"), "plate_D07_1": ("D07", "1"), "plate_D07_2": ("D07", "2")
    }  # fmt: skip
    for field, pixels in zip(fields.values(), scenes, strict=True):
        read = field.read()
        np.testing.assert_array_equal(read.pixels, pixels[0, 1])  # the scene alone, and its second Z-plane
        assert (read.channels, read.pixel_size_from) == (("blue", "green"), "plate.czi")
        assert read.pixel_size_um == pytest.approx(0.1)


def test_a_czi_without_calibration_has_no_pixel_size(tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", [written_pixels(1, 1, 2, 40, 50)], names=ZEISS_NAMES, size_um=None)
    (field,) = find_fields(tmp_path, replace(MAPPED, z_projection=None))
    with pytest.raises(FieldError, match="pixel size is unknown"):
        field.read()
    (field,) = find_fields(tmp_path / "a.czi", replace(MAPPED, z_projection=None, pixel_size_um=0.2))
    assert field.read().pixel_size_um == 0.2


def test_series_of_a_lif_are_fields(tmp_path: Path) -> None:
    one, many = written_pixels(2, 40, 50), written_pixels(2, 3, 2, 40, 50, seed=1)
    write_lif(tmp_path / "a.lif", {"Series001": ("CYX", one), "Series 2": ("TZCYX", many)}, names=NAMES)
    fields = _fields(tmp_path)
    assert list(fields) == ["a_Series 2_t0", "a_Series 2_t1", "a_Series001"]
    np.testing.assert_array_equal(fields["a_Series001"].read().pixels, one)
    np.testing.assert_array_equal(fields["a_Series 2_t1"].read().pixels, many[1, 1])
    assert fields["a_Series001"].read().pixel_size_um == pytest.approx(0.1)


def test_channels_of_a_lif_are_named_by_their_dyes_or_by_the_user(tmp_path: Path) -> None:
    pixels = written_pixels(2, 40, 50)
    write_lif(tmp_path / "a.lif", {"s": ("CYX", pixels)})
    (field,) = find_fields(tmp_path)
    with pytest.raises(FieldError, match=r"2 channels and no channel names.*--channel-names"):
        field.read()
    (field,) = find_fields(tmp_path, ReadingOptions(channel_names=("green", "blue")))
    assert field.read().channels == ("blue", "green")
    np.testing.assert_array_equal(field.read().pixels, pixels[::-1])


def test_tiles_of_a_lif_are_fields(tmp_path: Path) -> None:
    tiles = written_pixels(3, 2, 40, 50)
    write_lif(tmp_path / "a.lif", {"TileScan": ("MCYX", tiles)}, names=NAMES)
    fields = _fields(tmp_path)
    assert list(fields) == ["a_TileScan_0", "a_TileScan_1", "a_TileScan_2"]
    np.testing.assert_array_equal(fields["a_TileScan_2"].read().pixels, tiles[2])


def test_wavelengths_of_a_lif_are_no_channels(tmp_path: Path) -> None:
    write_lif(tmp_path / "a.lif", {"s": ("λCYX", written_pixels(5, 1, 40, 50))}, names=NAMES)
    (field,) = find_fields(tmp_path)
    with pytest.raises(FieldError, match=r"5 entries along the axis λ \(emission wavelength\), which are no channels"):
        field.read()


def test_positions_and_time_points_of_an_nd2_are_fields(tmp_path: Path) -> None:
    pixels = written_pixels(2, 3, 4, 2, 40, 50)
    write_nd2(tmp_path / "a.nd2", pixels, NAMES, ("B02", "B02", "b3"))
    fields = _fields(tmp_path)
    assert list(fields) == [f"a_{place}_t{time}" for place in ("B02_1", "B02_2", "B03_1") for time in (0, 1)]
    field = fields["a_B02_2_t1"]
    assert field.metadata == {"well": "B02", "site": "2", "stage_x_um": "100", "stage_y_um": "0"}
    np.testing.assert_array_equal(field.read().pixels, pixels[1, 1, 1])
    assert field.read().pixel_size_um == 0.1


@pytest.mark.parametrize("names", [("P1", "P2"), ("left", "B2"), ("", "")])
def test_numbers_of_positions_are_no_wells(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_nd2(tmp_path / "a.nd2", written_pixels(1, 2, 1, 2, 40, 50), NAMES, names)
    assert [field.metadata.get("well") for field in find_fields(tmp_path, MAPPED)] == [None, None]


def test_only_the_planes_that_are_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nd2(tmp_path / "a.nd2", written_pixels(2, 3, 4, 2, 40, 50), NAMES, ("a", "b", "c"))
    frames: list[int] = []
    read_frame = nd2_decoder.nd2.ND2File.read_frame
    monkeypatch.setattr(
        nd2_decoder.nd2.ND2File, "read_frame", lambda file, frame: (frames.append(frame), read_frame(file, frame))[1]
    )
    options = replace(MAPPED, channels=("blue",), z_projection=2)
    _fields(tmp_path, options)["a_b_t1"].read()
    assert frames == [1 * 12 + 1 * 4 + 2]


def test_an_uncalibrated_nd2_has_no_pixel_size(tmp_path: Path) -> None:
    write_nd2(tmp_path / "a.nd2", written_pixels(1, 1, 2, 2, 40, 50), NAMES, ("a",), size_um=None)
    (field,) = find_fields(tmp_path, MAPPED)
    with pytest.raises(FieldError, match="pixel size is unknown"):
        field.read()


def test_a_frame_that_was_never_written_is_an_error(tmp_path: Path) -> None:
    write_nd2(tmp_path / "a.nd2", written_pixels(2, 1, 2, 2, 40, 50), NAMES, ("a",), lost_frames=(3,))
    with pytest.raises(FieldError, match="no pixels for frame 3"):
        _fields(tmp_path)["a_t1"].read()
    _fields(tmp_path)["a_t0"].read()


def test_a_dark_frame_of_an_nd2_is_read(tmp_path: Path) -> None:
    pixels = written_pixels(1, 1, 2, 2, 40, 50)
    pixels[:, :, 0] = 0
    write_nd2(tmp_path / "a.nd2", pixels, NAMES, ("a",))
    (field,) = find_fields(tmp_path, replace(MAPPED, z_projection="max"))
    np.testing.assert_array_equal(field.read().pixels, pixels[0, 0, 1])


def test_a_plane_that_a_czi_lacks_is_an_error(tmp_path: Path) -> None:
    pixels = written_pixels(1, 1, 2, 40, 50)
    write_czi(tmp_path / "a.czi", [pixels, pixels[:, :, :1]], names=ZEISS_NAMES)
    with pytest.raises(FieldError, match="no pixels for scene 1, time point 0, Z-plane 0, channel 1"):
        _fields(tmp_path, replace(MAPPED, z_projection=None))["a_1"].read()


@pytest.mark.parametrize("suffix", ["czi", "lif", "nd2"])
def test_a_truncated_file_is_one_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pixels = written_pixels(1, 1, 2, 2, 40, 50)
    if suffix == "czi":
        write_czi(path, [pixels[0]], names=ZEISS_NAMES)
    elif suffix == "lif":
        write_lif(path, {"s": ("ZCYX", pixels[0, 0])}, names=NAMES)
    else:
        write_nd2(path, pixels, NAMES, ("a",))
    data = path.read_bytes()
    for kept in (12, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:kept])
        with pytest.raises(FieldError, match=r"a\.(czi|lif|nd2) is .*(truncated|corrupt)|a\.\w+ has no pixels"):
            _fields(tmp_path)["a"].read()


@pytest.mark.parametrize("suffix", ["lif", "nd2"])
def test_entities_are_not_expanded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "lif":
        write_lif(path, {"s &x11;": ("CYX", written_pixels(2, 40, 50))}, NAMES, declaration=BOMB)
        path.write_bytes(path.read_bytes().replace("&amp;x11;".encode("utf-16-le"), "&x11;    ".encode("utf-16-le")))
    else:
        write_nd2(path, written_pixels(1, 1, 2, 2, 40, 50), ("DAPI", "&x11;"), ("a",), declaration=BOMB)
        path.write_bytes(path.read_bytes().replace(b"&amp;x11;", b"&x11;    "))
    (field,) = find_fields(tmp_path)
    with pytest.raises(FieldError, match=r"a\.\w+ is truncated or corrupt"):
        field.read()


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_nd2(tmp_path / "a.nd2", written_pixels(1, 1, 2, 2, 40, 50), NAMES, ("a",))
    monkeypatch.delitem(sys.modules, "subcell_hf.images.decoders.nd2")
    monkeypatch.setitem(sys.modules, "nd2", None)
    (field,) = find_fields(tmp_path)
    with pytest.raises(FieldError, match=r"pip install 'subcell-hf\[microscopes\]'"):
        field.read()


def test_the_name_of_a_container_says_no_channel(tmp_path: Path) -> None:
    pixels = written_pixels(1, 1, 2, 40, 50)
    write_czi(tmp_path / "DAPI_GFP.czi", [pixels], names=("DAPI", "GFP"))
    (field,) = find_fields(tmp_path, ReadingOptions(channel_mapping={"DAPI": "blue", "GFP": "green"}))
    assert (field.name, field.read().channels) == ("DAPI_GFP", ("blue", "green"))


def test_a_companion_says_which_page_is_which_plane(tmp_path: Path) -> None:
    pixels = written_pixels(2, 3, 2, 40, 50)
    write_companion(tmp_path, pixels, ("DAPI", "GFP"))
    options = ReadingOptions(channel_mapping={"DAPI": "blue", "GFP": "green"}, z_projection=1)
    fields = _fields(tmp_path, options)
    assert list(fields) == ["a_t0", "a_t1"]
    np.testing.assert_array_equal(fields["a_t1"].read().pixels, pixels[1, 1])
    assert fields["a_t1"].read().pixel_size_um == 0.1
    assert not list_fields(tmp_path, options).unused


def test_a_companion_may_list_a_plate(tmp_path: Path) -> None:
    plate = (
        '<Plate ID="Plate:0" Name="P"><Well ID="Well:0" Row="2" Column="4">'
        '<WellSample ID="WellSample:0" Index="0"><ImageRef ID="Image:0"/></WellSample></Well></Plate>'
    )
    write_companion(tmp_path, written_pixels(1, 1, 2, 40, 50), ("DAPI", "GFP"), plate=plate)
    (field,) = find_fields(tmp_path)
    assert (field.name, dict(field.metadata)) == ("P_C05_1", {"plate": "P", "well": "C05", "site": "1"})


@pytest.mark.parametrize(("size_t", "said"), [(1, "announces SizeT 1.*time points up to 1"), (3, "12 planes.*lists 8")])
def test_a_companion_that_contradicts_itself_is_refused(tmp_path: Path, size_t: int, said: str) -> None:
    write_companion(tmp_path, written_pixels(2, 2, 2, 40, 50), ("DAPI", "GFP"), size_t=size_t)
    for field in find_fields(tmp_path):
        with pytest.raises(FieldError, match=said):
            field.read()


def test_a_companion_that_is_given_is_read_alone(tmp_path: Path) -> None:
    index = write_companion(tmp_path, written_pixels(1, 1, 2, 40, 50), ("DAPI", "GFP"))
    (tmp_path / "b.companion.ome").write_text(index.read_text().replace('Name="a"', 'Name="b"'))
    assert [field.name for field in find_fields(tmp_path)] == ["a", "b"]
    assert [field.name for field in find_fields(tmp_path / "b.companion.ome")] == ["b"]


def test_files_of_a_companion_that_are_missing_are_named(tmp_path: Path) -> None:
    write_companion(tmp_path, written_pixels(1, 2, 2, 40, 50), ("DAPI", "GFP"))
    (tmp_path / "a_w1GFP.ome.tif").unlink()
    (field,) = find_fields(tmp_path)
    with pytest.raises(FieldError, match=r"2 of 4 listed planes are not on the disk: a_w1GFP\.ome\.tif\."):
        field.read()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<OME", "<!DOCTYPE a []><OME", "declares <!DOCTYPE"),
        ('FileName="a_w1', 'FileName="../a_w1', "lies outside of the input"),
        ('PhysicalSizeY="0.1"', 'PhysicalSizeY="0.2"', r"pixels are 0\.1 x 0\.2 um"),
        (' Name="GFP"', "", r"2 channels and no channel names.*--channel-names"),
        ('IFD="1"', 'IFD="one"', r"a\.companion\.ome lacks what belongs there"),
        ('IFD="1"', 'IFD="7"', "has 2 planes.* plane 7"),
    ],
)
def test_a_companion_that_cannot_be_right_is_one_error(tmp_path: Path, old: str, new: str, said: str) -> None:
    index = write_companion(tmp_path, written_pixels(1, 2, 2, 40, 50), ("DAPI", "GFP"))
    index.write_text(index.read_text().replace(old, new))
    with pytest.raises(FieldError, match=said):
        list(iterate_fields(tmp_path, ReadingOptions(z_projection=1)))


def test_images_of_an_ome_tiff_are_named_by_its_plate(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for seed in (0, 1):
            file.write(
                written_pixels(2, 40, 50, seed=seed), metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
            )
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        described = file.ome_metadata
    assert described is not None
    plate = '<Plate ID="Plate:0" Name="P">' + "".join(
        f'<Well ID="Well:{n}" Row="0" Column="{n}"><WellSample ID="WellSample:{n}" Index="{n}">'
        f'<ImageRef ID="Image:{n}"/></WellSample></Well>'
        for n in (0, 1)
    )
    tifffile.tiffcomment(tmp_path / "a.ome.tif", described.replace("</OME>", plate + "</Plate></OME>").encode())
    fields = _fields(tmp_path)
    assert {name: dict(field.metadata) for name, field in fields.items()} == {
        f"P_A0{n}_1": {"plate": "P", "well": f"A0{n}", "site": "1"} for n in (1, 2)
    }
    options = ReadingOptions(channel_mapping={"DAPI": "blue", "GFP": "green"}, pixel_size_um=0.1)
    np.testing.assert_array_equal(
        _fields(tmp_path, options)["P_A02_1"].read().pixels, written_pixels(2, 40, 50, seed=1)
    )


@pytest.mark.parametrize(
    "options",
    [{"imagej": True}, {"ome": True}, {"imagej": True, "compression": "zlib"}, {"imagej": True, "truncate": True}],
)
def test_time_points_of_a_hyperstack_are_fields(tmp_path: Path, options: dict[str, object]) -> None:
    pixels = written_pixels(3, 2, 2, 40, 50)
    path = tmp_path / ("a.ome.tif" if "ome" in options else "a.tif")
    tifffile.imwrite(path, pixels, metadata={"axes": "TZCYX"}, photometric="minisblack", **options)  # type: ignore[arg-type]
    choice = ReadingOptions(channel_names=("blue", "green"), pixel_size_um=0.1, z_projection=1)
    fields = _fields(tmp_path, choice)
    assert list(fields) == ["a_t0", "a_t1", "a_t2"]
    for time, field in enumerate(fields.values()):
        np.testing.assert_array_equal(field.read().pixels, pixels[time, 1])


def test_time_points_alone_may_be_channels(tmp_path: Path) -> None:
    pixels = written_pixels(2, 40, 50)
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "TYX"})
    (field,) = find_fields(tmp_path, ReadingOptions(pixel_size_um=0.1))
    with pytest.raises(FieldError, match="2 entries along axis T"):
        field.read()
    (field,) = find_fields(tmp_path, ReadingOptions(pixel_size_um=0.1, channel_names=("blue", "green")))
    assert field.read().channels == ("blue", "green")
    fields = _fields(tmp_path, ReadingOptions(pixel_size_um=0.1, channel_names=("green",)))
    assert list(fields) == ["a_t0", "a_t1"]
    np.testing.assert_array_equal(fields["a_t1"].read().pixels, pixels[1:])


def test_only_the_pages_of_a_time_point_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, written_pixels(50, 2, 40, 50), imagej=True, metadata={"axes": "TCYX"})
    options = ReadingOptions(channel_names=("blue", "green"), pixel_size_um=0.1, max_decoded_bytes=3 * 2 * 40 * 50 * 2)
    with pytest.raises(FieldError, match="too large"):
        read_image(path, options.max_decoded_bytes)
    assert read_image(path, options.max_decoded_bytes, time=7).pixels.shape == (2, 40, 50)
