"""Cells on their way into a tar file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.shards.archive import deal_parts, encode_field
from subcell_hf.shards.codec import CropFormat
from tests.cells.synthetic_crops import CHANNELS, SyntheticCrops


def test_few_cells_make_one_part() -> None:
    assert [len(part) for part in deal_parts([None] * 7)] == [7]  # type: ignore[list-item]
    assert [len(part) for part in deal_parts([None] * 17)] == [9, 8]  # type: ignore[list-item]
    assert deal_parts([]) == []


FORMAT = CropFormat(CHANNELS, 8, "uint8", 0.160177)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channels": ("red", "yellow", "blue", "mito")},
            "channels are red, yellow, blue, mito, .* supply green",
        ),
        (
            {"pixels": np.zeros((4, 4, 8, 8), np.uint16)},
            "8 px of 0.160177 um, uint16, expected 8 px of .* uint8",
        ),
        ({"pixels": np.zeros((4, 4, 9, 9), np.uint8)}, "crops are 9 px"),
        ({"pixels": np.zeros((4, 4, 9, 8), np.uint8)}, "9 by 8 px, expected squares"),
        ({"pixels": np.zeros((4, 4, 8, 8), np.float64)}, "dtype float64 cannot be stored"),
        ({"pixel_size_um": 0.2}, "8 px of 0.2 um"),
        ({"cells": ({"cell_id": "x"},) * 4}, "cell ids occur twice: x"),
    ],
)
def test_fields_that_differ_from_the_others_are_refused(changes: dict[str, Any], message: str) -> None:
    crops = SyntheticCrops().read("0_A1_0")
    assert len(encode_field(crops, "HPA000000", FORMAT, ("Nucleoplasm",))) == 4
    with pytest.raises(InputError, match=message):
        encode_field(replace(crops, **changes), "HPA000000", FORMAT, ("Nucleoplasm",))
    with pytest.raises(InputError, match="cell 0_A1_0_1 has antibody HPA000000, expected the field's, OTHER"):
        encode_field(crops, "OTHER", FORMAT, ("Nucleoplasm",))


def test_channels_are_put_in_order_by_name(tmp_path: Path) -> None:
    crops = SyntheticCrops().read("0_A1_0")
    turned = replace(crops, channels=CHANNELS[::-1], pixels=crops.pixels[:, ::-1])
    expected = encode_field(crops, "HPA000000", FORMAT, ("Nucleoplasm",))
    assert encode_field(turned, "HPA000000", FORMAT, ("Nucleoplasm",)) == expected
