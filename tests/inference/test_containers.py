"""CZI, LIF, ND2 and hyperstacks give the table of their twin of one PNG per channel."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from subcell_hf.images.fields_of_view import ReadingOptions
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.tables.files import read_table
from tests.images.layouts.written_containers import Pixels, write_czi, write_lif, write_nd2
from tests.images.written_fields import COLOURS, label_mask, write_hpa_field, write_png
from tests.inference.embedding_runs import run, save_tiny_model

WELLS = ("B02", "B03")
SIZE_UM = 0.16


def _czi(folder: Path, fields: Pixels) -> dict[str, str]:
    write_czi(folder / "p.czi", fields[:, None, None], wells=WELLS, names=COLOURS, size_um=SIZE_UM)
    return {well: f"p_{well}_1" for well in WELLS}


def _nd2(folder: Path, fields: Pixels) -> dict[str, str]:
    write_nd2(folder / "p.nd2", fields[None, :, None], COLOURS, WELLS, size_um=SIZE_UM)
    return {well: f"p_{well}_1" for well in WELLS}


def _lif(folder: Path, fields: Pixels) -> dict[str, str]:
    series = {f"s{number}": ("CYX", pixels) for number, pixels in enumerate(fields)}
    write_lif(folder / "p.lif", series, names=COLOURS, size_um=SIZE_UM)
    return {"0": "p_s0", "1": "p_s1"}


def _hyperstack(folder: Path, fields: Pixels) -> dict[str, str]:
    metadata = {"axes": "TCYX", "unit": "um", "Labels": list(COLOURS) * len(fields)}
    resolution = (1 / SIZE_UM, 1 / SIZE_UM)
    tifffile.imwrite(folder / "p.tif", fields, imagej=True, resolution=resolution, metadata=metadata)
    return {"0": "p_t0", "1": "p_t1"}


@pytest.mark.parametrize("write", [_czi, _nd2, _lif, _hyperstack])
def test_a_container_gives_the_table_of_its_twin(
    tmp_path: Path, write: Callable[[Path, Pixels], dict[str, str]]
) -> None:
    model = save_tiny_model(tmp_path / "model")
    (tmp_path / "in").mkdir()
    fields = []
    for number, well in enumerate(WELLS):
        planes = write_hpa_field(tmp_path / "twin", f"7_{well}_1", dtype="uint16")
        for colour, plane in planes.items():
            planes[colour] = np.ascontiguousarray(np.roll(plane, number))
            write_png(tmp_path / f"twin/7_{well}_1_{colour}.png", planes[colour])
        fields.append(np.stack(list(planes.values())))
    names = write(tmp_path / "in", np.stack(fields))
    for name in names.values():
        mask = tmp_path / "in" / f"{name}_mask.png"
        write_png(mask, label_mask())
    run(tmp_path / "twin", model, tmp_path / "expected", SourceOptions(reading=ReadingOptions(pixel_size_um=SIZE_UM)))
    run(tmp_path / "in", model, tmp_path / "out")
    expected, found = read_table(tmp_path / "expected"), read_table(tmp_path / "out")
    np.testing.assert_allclose(found.embeddings, expected.embeddings, rtol=0, atol=1e-5)
    assert list(found.cells["field_of_view"]) == [name for name in names.values() for _ in range(2)]
    if "B02" in names:
        assert list(found.cells["well"]) == list(expected.cells["well"])
