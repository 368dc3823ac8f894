"""Pictures of plates: what `subcell inspect --plot` writes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.wells import well_name
from subcell_hf.workflows import draw_plates
from subcell_hf.workflows.inspect_images import InspectedField, Inspection, inspect_images
from tests.workflows.test_inspect_images import write_plate

BLUE, ORANGE, VERMILION, GREY = (74, 152, 201), (230, 159, 0), (213, 94, 0), (236, 236, 236)


def inspected(
    shape: tuple[int, int], plates: int = 1, problems: dict[str, tuple[bool, bool]] | None = None
) -> Inspection:
    """Plates with two fields in every well; in some wells, one or both of them have a problem."""
    fields = []
    for plate in range(plates):
        for row in range(1, shape[0] + 1):
            for column in range(1, shape[1] + 1):
                well = well_name(row, column)
                for site, is_wrong in enumerate((problems or {}).get(well, (False, False)), 1):
                    problem = f"Field '{well}': lost" if is_wrong else None
                    name = f"P{plate}_{well}_{site}"
                    fields.append(
                        InspectedField(name, f"P{plate}", well, str(site), ("DAPI",), 0.3, "file", 1, (), problem)
                    )
    return Inspection("an instrument", "a file", tuple(fields), (), {}, "")


def pixels_of(path: Path, colour: tuple[int, int, int]) -> int:
    picture = np.asarray(Image.open(path).convert("RGB"))
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) <= 2).sum())


def test_wells_have_the_colour_of_what_is_in_them(tmp_path: Path) -> None:
    whole = draw_plates(inspected((8, 12)), tmp_path / "whole.png")
    assert pixels_of(whole, ORANGE) == pixels_of(whole, VERMILION) == 0
    assert pixels_of(whole, GREY) < 1000
    one_lost = draw_plates(inspected((8, 12), problems={"C05": (True, True)}), tmp_path / "lost.png")
    assert pixels_of(one_lost, VERMILION) > 100
    assert pixels_of(one_lost, ORANGE) == 0
    in_part = draw_plates(inspected((8, 12), problems={"C05": (True, False)}), tmp_path / "in_part.png")
    assert pixels_of(in_part, ORANGE) > 100
    assert pixels_of(in_part, VERMILION) == 0
    sparse = draw_plates(inspected((3, 12)), tmp_path / "sparse.png")
    assert pixels_of(sparse, GREY) > pixels_of(sparse, BLUE) > 1000


def test_what_looks_wrong_in_a_field_marks_its_well(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate", saturated=True)
    found = inspect_images(tmp_path / "plate")
    assert found.usable == len(found.fields)
    assert pixels_of(draw_plates(found, tmp_path / "plate.png"), ORANGE) > 100


def test_many_plates_are_cut_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = draw_plates(inspected((1, 1), plates=2), tmp_path / "two.png")
    monkeypatch.setattr("subcell_hf.workflows.plate_pictures.MOST_PLATES", 2)
    assert not caplog.text
    cut = draw_plates(inspected((1, 1), plates=3), tmp_path / "plates.png")
    assert "the first 2 of 3 plates" in caplog.text
    assert pixels_of(cut, BLUE) == pytest.approx(pixels_of(two, BLUE), rel=0.05)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    without_wells = Inspection("", "", (InspectedField("a", "", "", "", (), None, "", 1, (), None),), (), {}, "")
    with pytest.raises(InputError, match="none of 1 field of view has a well"):
        draw_plates(without_wells, tmp_path / "plates.png")
    with pytest.raises(InputError, match=r"plates\.jpg, expected a file name with \.png"):
        draw_plates(inspected((8, 12)), tmp_path / "plates.jpg")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_picture(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "plate"), "--plot", str(tmp_path / "plates.svg")])
    assert done.exit_code == 0
    assert "2 fields of view, 2 usable" in done.stdout
    assert (tmp_path / "plates.svg").read_text().rstrip().endswith("</svg>")
