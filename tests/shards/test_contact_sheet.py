"""The picture of what is in a folder of shards."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from subcell_hf.errors import InputError
from subcell_hf.shards.contact_sheet import write_contact_sheet
from subcell_hf.shards.reader import ShardReader
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic


def test_contact_sheet_shows_colours(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "shards", SyntheticCrops(size_px=64))
    reader = ShardReader(tmp_path / "shards")
    write_contact_sheet(reader, tmp_path / "sheet.png", antibodies=3, cells_per_antibody=4)
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[2] == 3
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    write_contact_sheet(reader, tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text()
    assert "data:image/png;base64," in page
    assert "://" not in page
    assert ">72<" in page
    with pytest.raises(InputError, match=r"\.png or \.html"):
        write_contact_sheet(reader, tmp_path / "sheet.pdf")
