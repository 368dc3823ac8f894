"""What is shown of an input before it is embedded."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.images.fields_of_view import find_fields
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.workflows.inspect_images import inspect_images, plate_map, suggest_mapping
from tests.images.written_fields import COLOURS
from tests.outside.written_zarr import stack
from tests.outside.written_zarr import write_plate as write_zarr_plate

SIZE_UM = 0.25


def write_plate(folder: Path, wells: tuple[str, ...] = ("A01", "B02"), *, saturated: bool = False) -> None:
    """Files named as MetaXpress names them, with their pixel size in TIFF tags."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for well in wells:
        for wave in (1, 2):
            pixels = random.integers(0, 4000, (64, 64), np.uint16)
            if saturated:
                pixels[:32] = np.iinfo(np.uint16).max
            per_cm = 1e4 / SIZE_UM
            name = folder / f"p_{well}_s1_w{wave}.tif"
            tifffile.imwrite(name, pixels, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["inspect", *arguments])
    return done.exit_code, done.stdout


def test_a_plate_is_shown_with_its_command(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate")
    code, shown = run(str(tmp_path / "plate"))
    assert code == 0
    assert "2 fields of view, 2 usable" in shown
    assert f"{SIZE_UM:g} um, from file (2 fields)" in shown
    assert f"subcell embed {tmp_path / 'plate'} --model MODEL" in shown


def test_json_has_the_documented_keys_and_says_what_python_says(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate")
    code, shown = run(
        str(tmp_path / "plate"), "--json", "--channel-mapping", "w1=blue", "--channel-mapping", "w2=green"
    )
    found = json.loads(shown)
    assert code == 0
    assert {"layout", "fields", "problems", "left_out", "suggested_command"} <= found.keys()
    (first, second) = found["fields"]
    assert first["name"] == "plate_A01_1"
    assert (first["plate"], first["well"], first["site"]) == ("plate", "A01", "1")
    assert first["channels"] == ["blue", "green"]
    assert first["pixel_size_um"] == pytest.approx(SIZE_UM)
    assert (first["z_planes"], first["files_missing"]) == (1, [])
    assert second["well"] == "B02"
    assert found["suggested_command"] == (
        f"subcell embed {tmp_path / 'plate'} --model mae-bg --channel-mapping w1=blue --channel-mapping w2=green "
        "--output results"
    )
    assert inspect_images(tmp_path / "plate").layout == found["layout"]


def test_what_would_be_skipped_turns_the_exit_code(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate")
    (tmp_path / "plate" / "p_B02_s1_w2.tif").unlink()
    code, shown = run(str(tmp_path / "plate"), "--json")
    assert code == 3
    assert "channel w2 is missing" in json.loads(shown)["problems"][0]
    (tmp_path / "plate" / "p_A01_s1_w1.tif").write_bytes(b"II*\0broken")
    assert run(str(tmp_path / "plate"))[0] == 2
    assert run(str(tmp_path / "nothing"))[0] == 2


def test_the_command_says_what_the_user_must_add_and_keeps_what_was_given(tmp_path: Path) -> None:
    (tmp_path / "plate").mkdir()
    for channel in ("DAPI", "GFP"):
        tifffile.imwrite(tmp_path / "plate" / f"F7_01_1_2_{channel}_001.tif", np.eye(32, dtype=np.uint16))
    command = inspect_images(tmp_path / "plate").suggested_command
    assert "--channel-mapping DAPI=blue --channel-mapping GFP=green --pixel-size-um UM" in command
    given = ReadingOptions(channel_mapping={"DAPI": "blue"}, pixel_size_um=0.3, z_projection="focus")
    command = inspect_images(tmp_path / "plate", given).suggested_command
    assert "--channel-mapping DAPI=blue --channel-mapping GFP=green --z-projection focus --pixel-size-um 0.3" in command


def test_channels_that_were_copied_to_later_times_are_named(tmp_path: Path) -> None:
    for time in (1, 2):
        write_plate(tmp_path / f"TimePoint_{time}", ("A01",))
    (tmp_path / "plate").mkdir()
    for time in (1, 2):
        (tmp_path / f"TimePoint_{time}").rename(tmp_path / "plate" / f"TimePoint_{time}")
    taken = tmp_path / "plate" / "TimePoint_2" / "p_A01_s1_w1.tif"
    pixels = tifffile.imread(taken)
    tifffile.imwrite(taken, pixels + 1, resolution=(1e4 / SIZE_UM,) * 2, resolutionunit="CENTIMETER")
    (problem,) = inspect_images(tmp_path / "plate").problems
    assert problem.startswith("Field 'plate_A01_1_t2': channel w2 is a copy of that of 'plate_A01_1_t1'")
    assert inspect_images(tmp_path / "plate", look_at=0).problems == ()


def test_what_many_fields_have_alike_is_said_once(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate", ("A01", "B02", "C03"))
    (tmp_path / "plate" / "p_C03_s1_w2.tif").unlink()
    for name in ("A01_s1_w1", "B02_s1_w1"):
        path = tmp_path / "plate" / f"p_{name}.tif"
        tifffile.imwrite(path, tifffile.imread(path))
    shown = run(str(tmp_path / "plate"))[1]
    assert shown.count("pixel size is unknown") == 1
    assert "- 2 fields: pixel size is unknown" in shown
    assert "The first is 'plate_A01_1'." in shown
    assert "- Field 'plate_C03_1': channel w2 is missing" in shown


def test_saturated_channels_are_named(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate", saturated=True)
    assert "50% of channel w1 is saturated" in " ".join(inspect_images(tmp_path / "plate").problems)
    assert inspect_images(tmp_path / "plate", look_at=0).problems == ()


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (("DAPI", "FITC", "Texas Red", "Cy5"), {"DAPI": "blue", "FITC": "green"}),
        (("HOECHST 33342", "Alexa 488", "488 long"), {"HOECHST 33342": "blue"}),  # two may be the protein
        (("anti-tubulin", "Calreticulin", "Hoechst", "GFP"),
         {"anti-tubulin": "red", "Calreticulin": "yellow", "Hoechst": "blue", "GFP": "green"}),
        (("blue", "green"), {"blue": "blue", "green": "green"}),
        (("Brightfield 488",), {}),
        ((), {}),
    ],
)  # fmt: skip
def test_stain_names_suggest_colours(channels: tuple[str, ...], expected: dict[str, str]) -> None:
    assert suggest_mapping(channels) == expected


def test_the_map_of_a_plate(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate", ("A01", "P24"))
    (drawn,) = plate_map(inspect_images(tmp_path / "plate").fields).values()
    lines = drawn.splitlines()
    assert len(lines) == 17
    assert lines[1].split()[:2] == ["A", "1"]
    assert lines[16].split()[-1] == "1"


def test_an_empty_file_of_any_channel_is_named(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate")
    (tmp_path / "plate" / "p_B02_s1_w2.tif").write_bytes(b"")
    found = inspect_images(tmp_path / "plate", look_at=0)
    assert found.usable == 1
    assert "p_B02_s1_w2.tif is empty (0 bytes)" in found.problems[0]


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_not_stored_are_named(tmp_path: Path, version: int) -> None:
    """An empty corner is right, so the field is used; that its chunks are not there is said of every field."""
    pixels = stack(1)
    pixels[:, :40] = 0  # its chunks of 32 x 32 pixels are empty in the upper half
    write_zarr_plate(tmp_path / "p.zarr", [stack(2), pixels], version)
    gap = f"{2 * len(COLOURS)} of {4 * len(COLOURS)}"
    found = inspect_images(tmp_path / "p.zarr")
    assert found.usable == 2
    (said,) = [problem for problem in found.problems if problem.startswith("Chunks of")]
    assert said.startswith(
        f"Chunks of 1 field are not stored and are read as the fill value: {gap} of field 'p_A01_1'."
    )
    with pytest.warns(UserWarning, match="are not stored and are read as 0"):
        fields = [field.read() for field in find_fields(tmp_path / "p.zarr")]
    assert [field.metadata.get("chunks_missing") for field in fields] == [None, gap]
