"""How well cells are segmented: matched cells at IoU 0.5 and 0.75, split and merged cells, per set and method.

Sets: the HPA field 383_D2_1 against the mask that is published with it (made by a program, 20 cells, border cells
included); simulated fields, whose true masks are known, with all four channels and with nuclei and protein alone; and,
for nuclei alone, a field of 35 hand-drawn nuclei (Coelho et al. 2009). That field states no pixel size: 0.15 um is
assumed, at which the median hand-drawn nucleus has 207 um2.

A second program's mask of the HPA field, of 17 cells, is scored against the first as well: nothing can be expected to
agree better than these two do. The reference method, which every set is also segmented by, thresholds the nuclei
(Otsu), numbers the pieces, and grows them by 8 um.

A cell is split if most of each of two or more found cells lies in it, and found cells are merged cells if most of each
of two or more cells lies in one of them. The last line is JSON.

    python benchmarks/segmentation.py [--data ../shared/data] [--fields 12] [--methods watershed my_file.py:function]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.segmentation import expand_labels

from subcell_hf.cells.segmentation import segment_cells
from subcell_hf.images.fields_of_view import FieldError, iterate_fields
from subcell_hf.images.files import read_image
from subcell_hf.images.masks.nuclei import NUCLEUS_CHANNEL, WORKING_PIXEL_UM, channel_of, find_nuclei, shrink
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.types import FieldOfView

Labels = npt.NDArray[np.int32]

REFERENCE = "otsu_grown_8um"
NUCLEI = ("watershed", REFERENCE)
THRESHOLDS = (0.5, 0.75)
HAND_DRAWN_PIXEL_UM = 0.15
HPA_FIELD = "hpa_masked_field"
HAND_DRAWN = "vendor/seg_coelho2009_nuclei_hand"
_GROWN_UM = 8.0
_SMALLEST_UM2 = 15.0


@dataclass(frozen=True)
class Score:
    """How found cells agree with true ones, over one or several fields.

    Attributes:
        true_cells: Of the mask.
        found_cells: Of the method, without those at the border that match no cell.
        matched_50: Pairs with an IoU of at least 0.5, each cell in one pair at most.
        matched_75: The same at 0.75.
        iou: Sum of the IoU of the pairs at 0.5.
        split: True cells that hold most of two or more found cells.
        merged: Found cells that hold most of two or more true cells.
    """

    true_cells: int = 0
    found_cells: int = 0
    matched_50: int = 0
    matched_75: int = 0
    iou: float = 0.0
    split: int = 0
    merged: int = 0

    def __add__(self, other: "Score") -> "Score":
        """Of both fields."""
        mine, others = asdict(self), asdict(other)
        return Score(**{name: mine[name] + others[name] for name in mine})

    @property
    def f1_50(self) -> float:
        """Harmonic mean of the shares of true and of found cells that are matched at 0.5."""
        return 2 * self.matched_50 / max(1, self.true_cells + self.found_cells)

    def figures(self) -> dict[str, float]:
        """Counts, F1 at both thresholds and the mean IoU of the pairs."""
        total = max(1, self.true_cells + self.found_cells)
        counts = {name: value for name, value in asdict(self).items() if name != "iou"}
        rates = {"f1_50": self.f1_50, "f1_75": 2 * self.matched_75 / total, "iou": self.iou / max(1, self.matched_50)}
        return {**counts, **{name: round(value, 3) for name, value in rates.items()}}


def score(truth: Labels, found: Labels) -> Score:
    """Compare the cells of two label masks.

    Args:
        truth: `[height, width]`, 0 is background.
        found: The same, of the method.
    """
    true_names, true_places = np.unique(truth, return_inverse=True)
    found_names, found_places = np.unique(found, return_inverse=True)
    shared = np.zeros((len(true_names), len(found_names)), np.int64)
    np.add.at(shared, (true_places.ravel(), found_places.ravel()), 1)
    true_px, found_px = shared.sum(axis=1), shared.sum(axis=0)
    shared = shared[true_names > 0][:, found_names > 0]
    true_px, found_px = true_px[true_names > 0], found_px[found_names > 0]
    iou = shared / (true_px[:, None] + found_px[None] - shared)
    pairs = {threshold: _pairs(iou, threshold) for threshold in THRESHOLDS}
    rows, columns = pairs[THRESHOLDS[0]]
    cut = np.unique(np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]]))
    unmatched = np.delete(found_names[found_names > 0], columns)
    return Score(
        len(true_px),
        len(found_px) - int(np.isin(unmatched, cut).sum()),
        *(len(pairs[threshold][0]) for threshold in THRESHOLDS),
        iou=float(iou[rows, columns].sum()),
        split=int(((shared > found_px / 2).sum(axis=1) > 1).sum()),
        merged=int(((shared > true_px[:, None] / 2).sum(axis=0) > 1).sum()),
    )


def _pairs(iou: npt.NDArray[np.float64], threshold: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """True and found cells of as many pairs as can reach the threshold, each cell in one at most."""
    rows, columns = linear_sum_assignment(np.where(iou >= threshold, iou + 1, 0), maximize=True)
    reach = iou[rows, columns] >= threshold
    return rows[reach], columns[reach]


def nuclei_by_otsu(field: FieldOfView) -> Labels:
    """The reference for nuclei: pieces above Otsu's threshold."""
    plane = gaussian(channel_of(field, NUCLEUS_CHANNEL).astype(np.float32), 0.5 / field.pixel_size_um)
    pieces = label(ndimage.binary_fill_holes(plane > threshold_otsu(plane)))
    large = np.bincount(pieces.ravel()) * field.pixel_size_um**2 >= _SMALLEST_UM2
    return np.asarray(np.where(large[pieces], pieces, 0), np.int32)


def cells_by_otsu(field: FieldOfView) -> Labels:
    """The reference for cells: these nuclei, grown by the same length everywhere."""
    return np.asarray(expand_labels(nuclei_by_otsu(field), _GROWN_UM / field.pixel_size_um), np.int32)


def nuclei_by_watershed(field: FieldOfView) -> Labels:
    """The seeds of the built-in method, at the field's size."""
    factor = max(1, round(WORKING_PIXEL_UM / field.pixel_size_um))
    nuclei = find_nuclei(shrink(channel_of(field, NUCLEUS_CHANNEL), factor), field.pixel_size_um * factor)
    height, width = field.pixels.shape[1:]
    return np.kron(nuclei, np.ones((factor, factor), np.int32))[:height, :width]


def score_cells(fields: Iterable[FieldOfView], methods: Sequence[str]) -> dict[str, Any]:
    """Scores of methods on fields with masks, with the seconds that they took."""
    totals = dict.fromkeys((*methods, REFERENCE), Score())
    seconds = dict.fromkeys(totals, 0.0)
    for field in fields:
        if field.label_mask is None:
            raise SystemExit(f"{field.name} has no mask")
        for method in totals:
            start = time.perf_counter()
            try:
                found = cells_by_otsu(field) if method == REFERENCE else segment_cells(field, method)
            except FieldError:  # no cell found
                found = np.zeros_like(field.label_mask)
            seconds[method] += time.perf_counter() - start
            totals[method] += score(field.label_mask, found)
    return {name: {**total.figures(), "seconds": round(seconds[name], 1)} for name, total in totals.items()}


def score_hpa(data: Path, methods: Sequence[str]) -> dict[str, Any]:
    """The HPA field, and the agreement of its two masks."""
    (field,) = iterate_fields(data / HPA_FIELD)
    result = score_cells([field], methods)
    other = next((data / "vendor" / "seg_hpa_383_D2_1_two_masks").glob("*/*/Ground_true/*/383_D2_1_mask.png"), None)
    if other is not None and field.label_mask is not None:
        result["second_mask"] = score(field.label_mask, read_image(other).pixels.astype(np.int32)).figures()
    return result


def score_hand_drawn(data: Path) -> dict[str, Any]:
    """Nuclei of both methods against those drawn by hand."""
    folder = data / HAND_DRAWN
    image = read_image(folder / "images" / "dna-images" / "gnf" / "dna-40.png").pixels
    truth = read_image(folder / "preprocessed-data" / "gnf" / "dna-40.png").pixels.astype(np.int32)
    plane = image.max(axis=-1) if image.ndim == 3 else image  # grey, stored three times
    field = FieldOfView("dna-40", plane[None], (NUCLEUS_CHANNEL,), HAND_DRAWN_PIXEL_UM)
    methods = zip(NUCLEI, (nuclei_by_watershed, nuclei_by_otsu), strict=True)
    return {name: score(truth, method(field)).figures() for name, method in methods}


def simulated(fields: int, size_px: int, channels: Sequence[str] | None = None) -> Iterable[FieldOfView]:
    """Simulated fields with their true masks, with some of their channels."""
    with tempfile.TemporaryDirectory() as folder:
        simulate_dataset(fields, 7, Path(folder) / "fields", size_px=size_px, progress=False)
        for field in iterate_fields(Path(folder) / "fields"):
            if channels is None:
                yield field
            else:
                planes = np.stack([channel_of(field, name) for name in channels])
                yield replace(field, pixels=planes, channels=tuple(channels))


def score_all(data: Path, methods: Sequence[str], fields: int, size_px: int) -> tuple[dict[str, Any], list[str]]:
    """Scores of every set, and the sets that are missing."""
    sets: dict[str, Any] = {
        "simulated_rybg": score_cells(simulated(fields, size_px), methods),
        "simulated_bg": score_cells(simulated(fields, size_px, ("blue", "green")), methods),
    }
    if (data / HPA_FIELD).is_dir():
        sets["hpa_383_D2_1"] = score_hpa(data, methods)
    if (data / HAND_DRAWN).is_dir():
        sets["nuclei_coelho2009"] = score_hand_drawn(data)
    return sets, [name for name in (HPA_FIELD, HAND_DRAWN) if not (data / name).is_dir()]


def main() -> None:
    """Run and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", nargs="+", default=["watershed"])
    parser.add_argument("--fields", type=int, default=12, help="simulated ones")
    parser.add_argument("--size-px", type=int, default=1024, help="of simulated fields")
    options = parser.parse_args()
    sets, missing = score_all(options.data, options.methods, options.fields, options.size_px)
    cells: Mapping[str, Any] = sets.get("hpa_383_D2_1", sets["simulated_rybg"])
    ratio = cells[options.methods[0]]["f1_50"] / max(cells[REFERENCE]["f1_50"], 1e-9)
    figures = {**sets, "missing": missing}
    reference = f"{REFERENCE}: nuclei by Otsu's threshold, grown by {_GROWN_UM:g} um; ratio of F1 at IoU 0.5"
    print(json.dumps({"name": "segmentation", "ratio": round(ratio, 2), "reference": reference, "figures": figures}))


if __name__ == "__main__":
    main()
