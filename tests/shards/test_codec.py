"""A cell's members: what is decoded, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.shards.codec import MAX_CELL_BYTES, CropFormat, decode_sample, encode_mask, encode_pixels
from tests.cells.synthetic_crops import expected_mask, expected_pixels, write_synthetic


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write_synthetic(tmp_path)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).map(decode_sample))
    assert len(samples) == 72
    for sample in samples:
        np.testing.assert_array_equal(sample["pixels"], expected_pixels(sample["cell_id"], 8, "uint8"))
        np.testing.assert_array_equal(sample["cell_mask"], expected_mask(sample["cell_id"], 8))
    assert samples[0]["record"]["antibody"] == "HPA000000"
    assert samples[0]["record"]["qc_area_um2"] == 101.0


def sample_of(**changes: object) -> dict[str, object]:
    """A sound sample, as webdataset hands it out, with some entries changed; None takes one out."""
    form = {"channels": ["blue", "green"], "crop_size_px": 4, "dtype": "uint8", "pixel_size_um": 0.08}
    sample = {
        "__key__": "k",
        "mask.pzst": encode_mask(np.ones((4, 4), bool)),
        "pixels.dzst": encode_pixels(np.ones((2, 4, 4), np.uint8)),
        "json": json.dumps({"cell_id": "c", "format": form}).encode(),
    }
    return {name: value for name, value in {**sample, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"json": None}, "member json is missing"),
        ({"mask.pzst": None}, r"its members are json, pixels.dzst, expected json, mask.pzst, pixels.dzst"),
        ({"payload.pyd": b"\x80\x04."}, "its members are json, mask.pzst, payload.pyd"),
        ({"pixels.dzst": encode_pixels(np.zeros((2, 4000, 4000), np.uint8))}, "do not decode to"),
        ({"pixels.dzst": encode_pixels(np.zeros((2, 2, 2), np.uint8))}, "8 values, expected 32"),
        ({"pixels.dzst": b"no zstd"}, "do not decode to"),
        ({"json": b"{}"}, "'format'"),
        ({"json": b'{"cell_id": "c", "format": {"channels": ["blue"]}}'}, "No description of the crops"),
    ],
)
def test_odd_samples_are_refused(changes: dict[str, object], message: str) -> None:
    assert decode_sample(sample_of())["pixels"].sum() == 32
    with pytest.raises(InputError, match=f"Sample k cannot be read: .*{message}"):
        decode_sample(sample_of(**changes))


def test_decompression_bomb_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(InputError, match=f"expected between 1 and {MAX_CELL_BYTES}"):
        CropFormat(("blue",), 1_000_000, "uint8", 0.08)
