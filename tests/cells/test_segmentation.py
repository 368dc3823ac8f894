"""The built-in segmentation finds the cells that an eye counts on real fields, and says so where it cannot."""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from scipy import ndimage
from skimage.morphology import h_maxima
from typer.testing import CliRunner

from subcell_hf.cells import segmentation
from subcell_hf.cells.segmentation import grow_nuclei, segment_by_watershed, segment_cells
from subcell_hf.cli import app
from subcell_hf.errors import UnreachableError
from subcell_hf.images.fields_of_view import FieldError, find_fields, iterate_fields
from subcell_hf.images.masks.nuclei import find_peaks
from subcell_hf.types import FieldOfView


def best_overlaps(truth: npt.NDArray[np.int32], found: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Largest intersection over union of every true cell with a found one, `[true cells]`."""
    together = np.zeros((truth.max() + 1, found.max() + 1))
    np.add.at(together, (truth.ravel(), found.ravel()), 1)
    union = together.sum(axis=1)[1:, None] + together.sum(axis=0)[None, 1:] - together[1:, 1:]
    return np.asarray((together[1:, 1:] / union).max(axis=1))


def disks(pixel_size_um: float, bodies: bool = True) -> tuple[FieldOfView, npt.NDArray[np.int32]]:
    """Three round cells of 24 µm with nuclei of 10 µm, two of them touching, and their true mask."""
    size = round(80 / pixel_size_um)
    rows, columns = np.mgrid[:size, :size] * pixel_size_um
    truth = np.zeros((size, size), np.int32)
    nuclei = np.zeros((size, size), np.float32)
    for label, (row, column) in enumerate([(20, 20), (20, 45), (60, 50)], start=1):
        distance = np.hypot(rows - row, columns - column)
        truth[(distance < 12.5) & (truth == 0)] = label
        nuclei[distance < 5] = 1
    generator = np.random.default_rng(0)
    body = ndimage.gaussian_filter((truth > 0).astype(np.float32), 0.3 / pixel_size_um)
    edge = ndimage.gaussian_filter((np.abs(columns - 32.5) < 0.5).astype(np.float32), 0.3 / pixel_size_um)
    planes = [nuclei, body * (1 - 0.9 * edge) * bodies]
    noisy = [np.clip(200 * plane + generator.normal(10, 2, plane.shape), 0, 255).astype(np.uint8) for plane in planes]
    return FieldOfView("disks", np.stack(noisy), ("blue", "green"), pixel_size_um), truth


def test_sparse_field(hpa_fields: Path) -> None:
    (found,) = [item for item in find_fields(hpa_fields) if item.name == "89_B5_1"]
    labels = segment_cells(found.read())
    assert labels.dtype == np.int32
    assert labels.shape == (1728, 1728)
    assert np.unique(labels).tolist() == list(range(12))  # 11 cells, in the real field a giant one among them


@pytest.mark.slow
def test_confluent_field(hpa_fields: Path) -> None:
    (found,) = [item for item in find_fields(hpa_fields) if item.name == "800_A6_1"]
    field = found.read()
    labels = segment_cells(field)
    assert labels.max() == 16  # in the real field by eye 16 nuclei, counting the bilobed one at the right border once
    areas_um2 = np.bincount(labels.ravel())[1:] * field.pixel_size_um**2
    assert areas_um2.min() > 150
    assert areas_um2.max() < 4000


def test_agreement_with_a_given_mask(masked_field: Path) -> None:
    (field,) = iterate_fields(masked_field)
    assert field.label_mask is not None
    found = segment_cells(field)
    overlaps = best_overlaps(field.label_mask, found)
    # Measured on the real field: 20 of 20 cells found, all above 0.5, mean 0.834.
    assert found.max() == 20
    assert (overlaps > 0.5).sum() >= 19
    assert overlaps.mean() > 0.80


@pytest.mark.parametrize("pixel_size_um", [0.08, 0.2, 0.32, 0.65])
def test_the_same_cells_at_any_pixel_size(pixel_size_um: float) -> None:
    field, truth = disks(pixel_size_um)
    found = segment_cells(field)
    assert found.max() == 3
    assert best_overlaps(truth, found).min() > 0.8


def test_labels_run_in_reading_order_and_own_masks_are_not_looked_at() -> None:
    field, truth = disks(0.32)
    labels = segment_cells(replace(field, label_mask=np.ones_like(truth)))
    first = [int(np.flatnonzero(labels.ravel() == label)[0]) for label in (1, 2, 3)]
    assert first == sorted(first)
    np.testing.assert_array_equal(labels, segment_cells(field))


@pytest.mark.parametrize("pixel_size_um", [0.1, 0.32])
def test_nuclei_of_another_program_grow_to_the_same_cells(pixel_size_um: float) -> None:
    field, truth = disks(pixel_size_um)
    nucleus = field.pixels[field.channels.index("blue")] > 100
    nuclei = np.where(nucleus, truth * 1000, 0)
    found = grow_nuclei(field, nuclei)
    assert found.max() == 3
    assert best_overlaps(truth, found).min() > 0.8
    assert best_overlaps(segment_cells(field), found).min() > 0.95
    with pytest.raises(FieldError, match="nuclei have shape"):
        grow_nuclei(field, nuclei[1:])


def test_a_segmenter_of_ones_own() -> None:
    field, truth = disks(0.32)
    np.testing.assert_array_equal(segment_cells(field, lambda given: truth * (given is field)), truth)
    with pytest.raises(FieldError, match=r"shape \(2, 2\), expected \(250, 250\)"):
        segment_cells(field, lambda _: np.ones((2, 2), np.int32))


def test_a_cell_without_a_body_signal_keeps_its_nucleus() -> None:
    field, truth = disks(0.32, bodies=False)
    pixels = field.pixels.copy()
    pixels[1] = 0
    found = segment_cells(replace(field, pixels=pixels, channels=("blue", "red")))
    assert found.max() == 3
    assert (np.bincount(found.ravel())[1:] < np.bincount(truth.ravel())[1:]).all()
    without_protein = segment_cells(replace(field, pixels=pixels))  # which says nothing of the body: 8 um around nuclei
    assert best_overlaps(truth, without_protein).min() > 0.8


def test_cells_reach_the_border_of_the_field() -> None:
    field, _ = disks(0.32)
    cut = replace(field, pixels=np.ascontiguousarray(field.pixels[:, 60:, 60:]))
    labels = segment_by_watershed(cut)
    assert labels[0].any()
    assert labels[:, 0].any()


def test_fields_that_cannot_be_segmented() -> None:
    field, _ = disks(0.32)
    with pytest.raises(FieldError, match=r"has channels mito, green; segmentation needs blue.*--channel-mapping"):
        segment_cells(replace(field, channels=("mito", "green")))
    with pytest.raises(FieldError, match="segmentation needs green"):
        segment_cells(replace(field, channels=("blue", "mito")))
    with pytest.raises(FieldError, match="no cell was found by watershed"):
        segment_cells(replace(field, pixels=np.full_like(field.pixels, 7)))
    with pytest.raises(ValueError, match="segmentation method 'magic': choose one of watershed, cellpose, stardist"):
        segment_cells(field, "magic")


def test_a_protein_that_fills_part_of_the_cell_does_not_make_cells_small() -> None:
    field, truth = disks(0.32)
    nuclear = replace(field, pixels=np.stack([field.pixels[0]] * 2))
    assert best_overlaps(truth, segment_cells(nuclear)).min() > 0.6
    with_body = replace(field, pixels=field.pixels[[0, 0, 1]], channels=("blue", "green", "red"))
    np.testing.assert_array_equal(segment_cells(with_body), segment_cells(field))  # a stain of bodies decides alone


@pytest.mark.skipif(importlib.util.find_spec("cellpose") is not None, reason="cellpose is installed")
def test_cellpose_says_how_to_install_it() -> None:
    field, _ = disks(0.32)
    with pytest.raises(ImportError, match=r"pip install subcell-hf\[cellpose\]"):
        segment_cells(field, "cellpose")


class StandInForCellpose:
    """Takes what we give to `cellpose.models.CellposeModel`, by its names in 4.2, and finds the bright body pixels.

    Cellpose itself needs torchvision and is not installed for the tests: this only holds the call to its signature.
    """

    def __init__(
        self, gpu=False, pretrained_model="cpsam_v2", model_type=None, diam_mean=None, device=None, nchan=None,
        use_bfloat16=True,
    ) -> None:  # fmt: skip
        assert gpu is False

    def eval(self, x, batch_size=8, resample=True, channels=None, channel_axis=None, *, diameter=None) -> tuple:
        assert channel_axis == 0
        assert x.shape[0] == 3
        assert x.ndim == 3
        assert not x[2].any()
        assert x[0].mean() > x[1].mean() > 0  # the body before the nucleus
        assert diameter == pytest.approx(25 / 0.4)
        labels, _ = ndimage.label(x[0] > x[0].max() / 2)
        return labels.astype(np.uint16)[..., ::-1][..., ::-1] * 7, [], np.zeros(256)


def test_cellpose_is_called_as_its_fourth_version_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ModuleType("cellpose.models")
    models.CellposeModel = StandInForCellpose
    monkeypatch.setitem(sys.modules, "cellpose", ModuleType("cellpose"))
    monkeypatch.setitem(sys.modules, "cellpose.models", models)
    field, truth = disks(0.4)
    coloured = replace(field, channels=("blue", "red"))
    labels = segment_cells(coloured, "cellpose")
    assert labels.dtype == np.int32
    assert labels.shape == truth.shape
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))  # without gaps, whatever it returned
    assert best_overlaps(truth, labels).min() > 0.4


class PanicException(BaseException):  # as failures of Rust reach Python
    """Stands for the exception of cellcast's library."""


class StandInForStarDist:
    """Takes what we give to `cellcast.models.StarDist2D`, by its names in 0.3.2, and finds bright nuclei.

    cellcast's weights come from GitHub, which tests do not ask: this holds the call to its signature.
    """

    loaded: ClassVar[list[str | None]] = []

    @staticmethod
    def init_fluo(weights_path: str | None = None, gpu: bool | None = None) -> "StandInForStarDist":
        assert gpu is False
        StandInForStarDist.loaded.append(weights_path)
        if weights_path == "damaged.bpk":
            raise PanicException("Failed to load the weights: InvalidMagicNumber")
        if weights_path == "interrupted.bpk":
            raise KeyboardInterrupt
        return StandInForStarDist()

    def predict_fluo(self, data, pmin=None, pmax=None, prob_threshold=None, nms_threshold=None) -> npt.NDArray:
        if not data.any():
            raise PanicException("index out of bounds")
        assert data.dtype == np.float32
        assert data.shape == (160, 160)  # at 0.5 um per pixel
        return ndimage.label(data > data.max() / 2)[0].astype(np.uint64) * 3


@pytest.fixture
def stardist(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandInForStarDist]]:
    models = ModuleType("cellcast.models")
    models.StarDist2D = StandInForStarDist
    monkeypatch.setitem(sys.modules, "cellcast", ModuleType("cellcast"))
    monkeypatch.setitem(sys.modules, "cellcast.models", models)
    StandInForStarDist.loaded.clear()
    segmentation._load_stardist.cache_clear()
    yield StandInForStarDist
    segmentation._load_stardist.cache_clear()


def test_nuclei_of_stardist_are_grown_over_the_cell_bodies(stardist: type[StandInForStarDist]) -> None:
    field, truth = disks(0.25)
    labels = segment_cells(replace(field, channels=("blue", "red")), "stardist")
    assert (labels.dtype, labels.shape, labels.max()) == (np.int32, truth.shape, 3)
    assert best_overlaps(truth, labels).min() > 0.8
    segment_cells(replace(field, channels=("blue", "green")), "stardist")
    assert stardist.loaded == [None]  # once for each process


def test_weights_of_stardist_that_cannot_be_had_end_the_run(stardist: type[StandInForStarDist]) -> None:
    field, _ = disks(0.25)
    with pytest.raises(UnreachableError, match=r"read: .*InvalidMagic.*copy the file damaged\.bpk from"):
        segment_cells(field, "stardist", weights="damaged.bpk")
    with pytest.raises(KeyboardInterrupt):
        segment_cells(field, "stardist", weights="interrupted.bpk")
    with pytest.raises(FieldError, match=r"StarDist failed \(index out of bounds\)"):
        segment_cells(replace(field, pixels=np.zeros_like(field.pixels)), "stardist")


def test_cellcast_itself_fails_in_one_sentence(tmp_path: Path) -> None:
    """The library as it is: weights that are none make it panic."""
    pytest.importorskip("cellcast", reason="cellcast, whose weights come from GitHub, is not installed")
    segmentation._load_stardist.cache_clear()
    (tmp_path / "none.bpk").write_bytes(b"none")
    with pytest.raises(UnreachableError, match="can be neither fetched nor read: Failed to load"):
        segment_cells(disks(0.25)[0], "stardist", weights=tmp_path / "none.bpk")


@pytest.mark.skipif(importlib.util.find_spec("cellcast") is not None, reason="cellcast is installed")
def test_stardist_says_how_to_install_it() -> None:
    with pytest.raises(ImportError, match=r"pip install subcell-hf\[stardist\]"):
        segment_cells(disks(0.32)[0], "stardist")


@pytest.mark.parametrize(("method", "module"), [("cellpose", "cellpose"), ("stardist", "cellcast")])
def test_the_command_says_how_to_install_a_method_in_one_sentence(method: str, module: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    for name, plane in zip(("blue", "green"), disks(0.32)[0].pixels, strict=True):
        tifffile.imwrite(tmp_path / f"1_A1_1_{name}.tif", plane.astype(np.float32))
    words = ["crops", str(tmp_path), "--output", str(tmp_path / "out"), "--segmentation", method]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    said = f"This needs {module}, which is not installed. Install it with: pip install 'subcell-hf[{method}]'"
    assert said in " ".join(done.output.split())


def test_peaks_are_the_h_maxima_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    for sigma, height in ((4, 1.0), (6, 2.5), (9, 4.0), (9, 60.0)):
        blobs = ndimage.gaussian_filter(rng.normal(size=(90, 120)), sigma)
        depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(blobs > np.median(blobs)), 1.2)
        np.testing.assert_array_equal(find_peaks(depth, height), h_maxima(depth, height) > 0)
    assert not find_peaks(np.zeros((9, 9)), 1.0).any()
