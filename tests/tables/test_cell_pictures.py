"""Pictures: drawn in the right colours, kept whole, and of the same cells whoever draws them."""

from pathlib import Path

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.tables.cell_pictures import PictureBudget, draw_picture, iterate_pictures, write_pictures


def test_a_picture_comes_back(tmp_path: Path) -> None:
    planes = {name: np.zeros((64, 64), np.float32) for name in ("red", "blue", "green")}
    planes["blue"][:32, :32] = 5
    planes["green"][32:, 32:] = 700
    mask = np.zeros((64, 64), bool)
    mask[:32] = True
    attention = np.random.default_rng(0).random((2, 4, 4))
    picture = draw_picture("a_1", planes, mask, attention)
    write_pictures([picture, draw_picture("a_2", planes, None, None)], tmp_path / "pictures.parquet")
    first, second = iterate_pictures(tmp_path)
    pixels = first.composite_pixels()
    assert pixels.shape == (128, 128, 3)
    assert [list(pixels[y, x]) for y, x in ((10, 10), (100, 100), (10, 100))] == [[0, 0, 255], [0, 255, 0], [0, 0, 0]]
    cell_mask = first.cell_mask()
    assert cell_mask is not None
    assert cell_mask[:64].all()
    assert not cell_mask[64:].any()
    np.testing.assert_array_equal(first.attention, attention.astype(np.float16))
    assert (second.cell_id, second.cell_mask(), second.attention) == ("a_2", None, None)


def test_fields_share_the_pictures() -> None:
    fields = [f"7_A{number}_1" for number in range(10)]
    cells = {name: [f"{name}_{label}" for label in range(7)] for name in fields}
    for pictures, expected in ((0, 0), (3, 3), (10, 10), (35, 30), (2000, 70)):
        budget = PictureBudget.of_fields(fields, pictures)
        chosen = {name: budget.choose(name, ids) for name, ids in cells.items()}
        assert sum(map(len, chosen.values())) == expected
        again = PictureBudget.of_fields(fields[::-1], pictures)
        assert {name: again.choose(name, cells[name]) for name in fields} == chosen


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as pictures"):
        list(iterate_pictures(tmp_path))
