"""A plate gives the same embeddings in whatever layout it is written."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.images.fields_of_view import list_fields
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.layouts.written_plates import (
    DYES,
    LAYOUTS,
    PIXEL_UM,
    PLATE,
    SIZE,
    Plate,
    WrittenLayout,
    simulate_plate,
    write_hpa,
)
from tests.inference.embedding_runs import save_tiny_model

WELLS = {"B02": 2, "C11": 2}


@pytest.fixture(scope="module")
def plate() -> Plate:
    return simulate_plate()


def write(layout: WrittenLayout, plate: Plate, folder: Path) -> tuple[Path, list[str]]:
    """Write a plate; returns what a user gives, and the further words of the command."""
    folder.mkdir()
    layout.write(folder, plate)
    options = [word.format(folder=folder) if "{folder}" in word else word for word in layout.options]
    for colour, name in layout.names.items():
        options += ["--channel-mapping", f"{name}={colour}"]
    return folder / layout.source, options


@pytest.mark.parametrize(
    "name", [name for name, layout in LAYOUTS.items() if layout.source == "." and name != "pattern"]
)
def test_a_written_plate_is_listed(name: str, plate: Plate, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    source, _ = write(layout, plate, tmp_path / "in")
    needs_size = SIZE[0] in layout.options
    found = list_fields(source, ReadingOptions(pixel_size_um=PIXEL_UM if needs_size else None))
    assert [(item.metadata["well"], item.metadata.get("plate")) for item in found.fields] == [
        (well, found.fields[0].metadata.get("plate")) for well in WELLS for _ in range(2)
    ]
    for item in found.fields:
        facts = item.describe()
        assert facts.problem is None
        assert set(facts.channels) == set(layout.names.values())
        assert facts.pixel_size_um == pytest.approx(PIXEL_UM)
        assert facts.z_planes == 1
    if name not in ("Cellomics", "Incucyte", "OME-TIFF"):
        assert found.fields[0].metadata["plate"] == PLATE


def embed(
    source: Path, options: list[str], model: Path, output: Path
) -> dict[tuple[str, str], npt.NDArray[np.float32]]:
    """Well and order of the site in it → embeddings `[cells, size]`."""
    words = ["embed", str(source), "--model", str(model), "--output", str(output), "--no-report", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--precision", "fp32", *options])
    assert done.exit_code == 0, done.output
    table = parquet.read_table(output / "embeddings.parquet").to_pandas()
    site = "site" if "site" in table else "sample"
    table["order"] = table.groupby("well")[site].rank("dense").astype(int).astype(str)
    return {key: np.stack(rows["embedding"].to_numpy()) for key, rows in table.groupby(["well", "order"])}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", tuple(DYES))


@pytest.fixture(scope="module")
def expected(plate: Plate, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], object]:
    folder = tmp_path_factory.mktemp("hpa")
    write_hpa(folder, plate)
    found = embed(folder, list(SIZE), model, tmp_path_factory.mktemp("expected") / "out")
    cells = np.concatenate(list(found.values()))
    assert np.abs(cells - cells[0]).max(1)[1:].min() > 1e-3  # a cell is not taken for another
    return dict(found)


def test_chunks_that_are_not_stored_are_counted_in_the_table(plate: Plate, model: Path, tmp_path: Path) -> None:
    """Which fields lack some, and how many, is a column of the embeddings."""
    planes = {colour: pixels.copy() for colour, pixels in plate["B02", 1].items()}
    for pixels in planes.values():
        pixels[256:, 256:] = 0  # the last of 3 x 3 chunks, which zarr does not store then
        pixels[0, 0] = 0
    LAYOUTS["OME-Zarr"].write(tmp_path, {("B02", 1): planes, ("B02", 2): plate["B02", 2]})
    options = [word for colour, dye in DYES.items() for word in ("--channel-mapping", f"{dye}={colour}")]
    with pytest.warns(UserWarning, match="are not stored and are read as 0"):
        embed(tmp_path / f"{PLATE}.zarr", options, model, tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "embeddings.parquet").to_pandas()
    said = table.groupby("site")["chunks_missing"].agg(lambda values: set(values.dropna()))
    assert said.to_list() == [{"2 of 18"}, set()]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_embeddings_of_its_twin(
    name: str, plate: Plate, model: Path, expected: dict[tuple[str, str], npt.NDArray[np.float32]], tmp_path: Path
) -> None:
    source, options = write(LAYOUTS[name], plate, tmp_path / "in")
    found = embed(source, options, model, tmp_path / "out")
    assert found.keys() == expected.keys() == {(well, str(site)) for well in WELLS for site in (1, 2)}
    assert sum(len(cells) for cells in found.values()) > 8
    for key, embeddings in expected.items():
        np.testing.assert_allclose(found[key], embeddings, atol=1e-5, rtol=0)
