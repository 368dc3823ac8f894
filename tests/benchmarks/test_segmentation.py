"""The benchmark of segmentation counts as a person would: by naive loops, on masks with known faults, end to end."""

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.segmentation import REFERENCE, Score, cells_by_otsu, nuclei_by_otsu, nuclei_by_watershed, score
from subcell_hf.types import FieldOfView
from tests.benchmarks.test_profiles_and_maps import run

Labels = npt.NDArray[np.int32]


def score_by_loops(truth: Labels, found: Labels) -> Score:
    """Pixel by pixel and pair by pair; IoUs of at least 0.5 are unique here, for no two are equal to it."""
    true_cells = {int(name): truth == name for name in np.unique(truth) if name}
    found_cells = {int(name): found == name for name in np.unique(found) if name}
    ious, partners = [], set()
    for mine in true_cells.values():
        for name, other in found_cells.items():
            iou = (mine & other).sum() / (mine | other).sum()
            if iou >= 0.5:
                ious.append(iou)
                partners.add(name)
    height, width = truth.shape
    at_border = {
        int(found[row, column])
        for row in range(height)
        for column in range(width)
        if row in (0, height - 1) or column in (0, width - 1)
    }
    counted = [name for name in found_cells if name in partners or name not in at_border]
    split = sum(
        sum((mine & other).sum() * 2 > other.sum() for other in found_cells.values()) > 1
        for mine in true_cells.values()
    )
    merged = sum(
        sum((mine & other).sum() * 2 > mine.sum() for mine in true_cells.values()) > 1 for other in found_cells.values()
    )
    reached = sum(iou >= 0.75 for iou in ious)
    return Score(len(true_cells), len(counted), len(ious), int(reached), float(np.sum(ious)), int(split), int(merged))


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_those_of_loops(seed: int) -> None:
    """Boxes, of which the found ones are moved, split, merged, missing or new."""
    rng = np.random.default_rng(seed)
    truth, found = np.zeros((61, 83), np.int32), np.zeros((61, 83), np.int32)
    for number in range(30):
        row, column = divmod(number, 6)
        top, left, right = 12 * row, 13 * column, 13 * column + 9 + number % 3  # neighbours are of different sizes
        truth[top : top + 11, left:right] = 10 * number + 7
        kind = rng.choice(["same", "moved", "split", "merged", "missing"])
        shift = int(rng.integers(1, 6)) if kind == "moved" else 0
        if kind != "missing":
            found[top + shift : top + 11, left:right] = number + 1
        if kind == "split":
            found[top : top + 5, left:right] = 100 + number
        if kind == "merged" and number:
            found[found == number + 1] = number
    assert score(truth, found) == pytest.approx(score_by_loops(truth, found))
    assert score(truth, truth) == pytest.approx(Score(30, 30, 30, 30, 30.0, 0, 0))


def test_faults_are_named_for_what_they_are() -> None:
    truth = np.zeros((40, 60), np.int32)
    truth[5:15, 5:25] = 1
    truth[20:30, 5:25] = 2
    truth[20:30, 25:45] = 3
    found = np.zeros_like(truth)
    found[5:15, 5:14], found[5:15, 14:25] = 1, 2  # one cell in two pieces, the larger one of an IoU of 0.55
    found[20:30, 5:45] = 3  # two cells in one
    found[35:40, 50:60] = 4  # at the border, where none is drawn
    found[33:36, 20:24] = 5
    result = score(truth, found)
    assert (result.true_cells, result.found_cells) == (3, 4)
    assert (result.matched_50, result.matched_75, result.split, result.merged) == (2, 0, 1, 1)
    assert result.iou == pytest.approx(0.55 + 0.5)
    assert result.f1_50 == pytest.approx(4 / 7)
    assert (result + result).true_cells == 6


def test_nothing_found_and_nothing_there() -> None:
    empty, one = np.zeros((9, 9), np.int32), np.eye(9, dtype=np.int32)
    assert score(one, empty) == Score(1, 0, 0, 0, 0.0, 0, 0)
    assert score(empty, empty).figures()["f1_50"] == 0


def test_the_methods_for_nuclei_number_two_apart() -> None:
    rows, columns = np.mgrid[:200, :300] * 0.3
    nuclei = (np.hypot(rows - 30, columns - 25) < 6) | (np.hypot(rows - 30, columns - 60) < 6)
    plane = np.where(nuclei, 200, 10) + np.random.default_rng(0).integers(0, 5, nuclei.shape)
    field = FieldOfView("f", plane[None].astype(np.uint8), ("blue",), 0.3)
    for method in (nuclei_by_otsu, nuclei_by_watershed):
        labels = method(field)
        assert labels.max() == 2
        assert score(np.where(nuclei, 1 + (columns > 40), 0).astype(np.int32), labels).matched_75 == 2
    grown = cells_by_otsu(field)
    assert 1.8 < (grown > 0).sum() / nuclei.sum() < 6


@pytest.mark.slow
def test_the_benchmark_runs_on_few_cells() -> None:
    result = run("segmentation.py", "--fields", "1", "--size-px", "896", "--data", "/nowhere")
    assert result["figures"]["missing"] == ["hpa_masked_field", "vendor/seg_coelho2009_nuclei_hand"]
    for name in ("simulated_rybg", "simulated_bg"):
        assert result["figures"][name].keys() == {"watershed", REFERENCE}
    assert 0 < result["figures"]["simulated_rybg"]["watershed"]["f1_50"] <= 1
