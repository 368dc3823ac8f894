"""Fixtures shared by every room's tests."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.written_annotations import write_label_tables
from tests.images.written_assays import (
    write_cell_painting_field,
    write_hpa_fields,
    write_masked_field,
    write_montages,
    write_reference_cell,
    write_single_cells,
)

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests load and measure out of the user's caches; libraries read these variables at their import."""
    for variable, name in (("HF_MODULES_CACHE", "modules_cache"), ("HF_HOME", "hf_home")):
        folder = Path(config.rootpath) / "build" / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(folder)
    gc.disable()  # while modules are imported, of which nothing is garbage: a quarter of the time of collecting tests


def pytest_collection_finish() -> None:
    """Exempt modules and tests from garbage collection: a full one, as trainings ask for, would take half a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: packed ones hold the time of packing, and all workers must collect equal names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Path of real data beside the repository; a test whose data are missing is skipped, and the reason names them."""

    def find(name: str) -> Path:
        if not (REAL_DATA / name).exists():
            pytest.skip(f"real data are missing: {REAL_DATA / name}")
        return REAL_DATA / name

    return find


def _sources(name: str) -> list[Path | None]:
    """Where an input comes from: a test writes it, and the real one is read too if it lies beside the repository."""
    return [None, REAL_DATA / name] if (REAL_DATA / name).exists() else [None]


def _identify(source: Path | None) -> str:
    return "written" if source is None else "real"


def _provide(request: pytest.FixtureRequest, folders: pytest.TempPathFactory, write: Callable[[Path], None]) -> Path:
    """The real folder, or one that `write` fills."""
    if request.param is not None:
        return Path(request.param)
    folder = folders.mktemp(write.__name__)
    write(folder)
    return folder


@pytest.fixture(scope="session", params=_sources("hpa_fields"), ids=_identify)
def hpa_fields(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fields as the Human Protein Atlas publishes them, of 16 and 11 cells: a JPEG in its colour per channel."""
    return _provide(request, tmp_path_factory, write_hpa_fields)


@pytest.fixture(scope="session", params=_sources("hpa_masked_field"), ids=_identify)
def masked_field(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of 20 cells in two channels of 16 bits, with its label mask."""
    return _provide(request, tmp_path_factory, write_masked_field)


@pytest.fixture(scope="session", params=_sources("cell_painting_field"), ids=_identify)
def cell_painting_field(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One TIFF of six planes of 16 bits: brightfield, ER, AGP, mitochondria, DNA and RNA."""
    return _provide(request, tmp_path_factory, write_cell_painting_field)


@pytest.fixture(scope="session", params=_sources("reference_cell"), ids=_identify)
def reference_cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One TIFF of a cell, `[height, width, 3]` float32 from about -1 to 1.4."""
    return _provide(request, tmp_path_factory, write_reference_cell)


@pytest.fixture(scope="session", params=_sources("hpa_single_cells"), ids=_identify)
def single_cells(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masked cells, a `.npy` file each: `[224, 224, 4]` uint8, red, green, blue and yellow."""
    return _provide(request, tmp_path_factory, write_single_cells)


@pytest.fixture(scope="session", params=_sources("hpa_montages"), ids=_identify)
def montages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of nine cells each, 18 cells of each of five locations, and their `labels.csv`."""
    return _provide(request, tmp_path_factory, write_montages)


@pytest.fixture(scope="session", params=_sources("label_tables"), ids=_identify)
def label_tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Locations of genes and complexes, as the Human Protein Atlas and CORUM list them."""
    return _provide(request, tmp_path_factory, write_label_tables)


@pytest.fixture(scope="session")
def golden_files() -> Path:
    """Folder of numbers that the published code gave; its README says how they were made."""
    return GOLDEN
