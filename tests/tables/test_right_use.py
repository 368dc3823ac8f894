"""What differs from a model's training is found in the record of a run."""

from typing import Any

import pytest

from subcell_hf.tables.right_use import uses_of


def record(**changes: Any) -> dict[str, Any]:
    """A run that used its model as it was trained."""
    facts = {"trained_px": 100, "crop_px": 100, "pixel": 0.2, "trained_masked": True, "masked": True, "images": 0.1}
    facts |= changes
    return {
        "pixel_sizes": [{"pixel_size_um": facts["images"], "from": facts.get("source", "file"), "cells": 3}],
        "models": [
            {
                "name": "any", "crop_px": facts["crop_px"], "pixel_size_um": 0.2,
                "processor": {"do_mask": facts["masked"]},
                "trained": {
                    "pixel_size_um": facts["pixel"], "crop_px": facts["trained_px"],
                    "mask_cells": facts["trained_masked"],
                },
            }
        ],
    }  # fmt: skip


def deviations(**changes: Any) -> list[str]:
    (use,) = uses_of(record(**changes))
    return use.deviations()


def test_a_model_that_is_used_as_it_was_trained_deviates_in_nothing() -> None:
    assert deviations() == []
    assert deviations(images=0.29) == []
    assert deviations(images=0.9, source="model") == []  # nobody measured it
    assert deviations(pixel=None, trained_px=None, images=2.0, crop_px=300) == []
    assert uses_of({"models": [{"name": "of an earlier version"}]}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": 0.65}, "any was trained with pixels of 0.2 um, and images have pixels of 0.65 um"),
        ({"crop_px": 50}, "any was trained with a window of 20 um around a cell, and this run uses 10 um"),
        ({"masked": False}, "any was trained without the surroundings of the cell, and this run is with them"),
        ({"trained_masked": False}, "any was trained with the surroundings of the cell, and this run is without them"),
    ],
)
def test_each_deviation_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    (sentence,) = deviations(**changes)
    assert sentence.startswith(said)
