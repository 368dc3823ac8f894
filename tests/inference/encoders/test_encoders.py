"""Specs, descriptions and the preparation of cells; what is listed."""

import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.inference.encoders import finding
from subcell_hf.inference.encoders.catalogue import list_encoders
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.encoders.encoder_variants import EncoderVariant
from subcell_hf.inference.encoders.found_encoder import FoundEncoder
from subcell_hf.inference.encoders.licences import is_restricted, licence_of_folder
from subcell_hf.inference.encoders.specs import EncoderSpec, named_specs

CROPS = torch.from_numpy(np.random.default_rng(0).integers(0, 60_000, (2, 3, 20, 20), np.uint16))
MASKS = torch.zeros(2, 20, 20, dtype=torch.bool)
MASKS[:, 4:16, 6:18] = True


def prepare(encoder: Encoder, pixel_size_um: float = 0.5, crop_px: int | None = None) -> torch.Tensor:
    preparation = EncoderVariant.of(encoder, crop_px).preparation()
    prepared = preparation(CROPS, cell_masks=MASKS, channels=["er", "dna", "actin"], pixel_size_um=pixel_size_um)
    return prepared["pixel_values"]


def describe(**more: object) -> Encoder:
    settings = {"channels": ("dna", "er"), "pixel_size_um": 0.5, "input_px": 20, **more}
    return Encoder("any", lambda images: images.mean((2, 3)), **settings)  # type: ignore[arg-type]


def test_specs_read_as_they_are_typed() -> None:
    spec = EncoderSpec.parse("dino=facebook/dinov2-base,channels=red,blue,combine=average")
    assert (spec.name, spec.source) == ("dino", "facebook/dinov2-base")
    assert spec.options == {"channels": "red,blue", "combine": "average"}
    assert spec.text == "facebook/dinov2-base,channels=red,blue,combine=average"
    assert EncoderSpec.parse("./a=b/model").source == "./a=b/model"
    assert EncoderSpec.parse("features,channels=red") == EncoderSpec("features", {"channels": "red"})
    assert list(named_specs(["a/dinov2", "x=a/dinov2", "my.py:build"])) == ["dinov2", "x", "my-build"]
    for text in ("name=", "features,channels=red,channels=blue", "features,channels="):
        with pytest.raises(InputError, match="--model"):
            EncoderSpec.parse(text)
    with pytest.raises(InputError, match="needs a name that no other has: give it as NAME=b/dinov2"):
        named_specs(["a/dinov2", "b/dinov2"])


@pytest.mark.parametrize("scaling", ["channel", "image", "standard", "intensity"])
def test_scaling_is_that_of_the_description(scaling: str) -> None:
    chosen = CROPS.numpy()[:, [1, 0]].astype(np.float64) * MASKS.numpy()[:, None]
    low, high = (bound(chosen, axis=(2, 3), keepdims=True) for bound in (np.min, np.max))
    whole = (chosen - chosen.min((1, 2, 3), keepdims=True)) / np.ptp(chosen, axis=(1, 2, 3), keepdims=True)
    expected = {
        "channel": (chosen - low) / (high - low),
        "image": whole,
        "standard": (chosen - chosen.mean((2, 3), keepdims=True)) / chosen.std((2, 3), keepdims=True),
        "intensity": chosen / 65_535,
    }[scaling]
    assert np.allclose(prepare(describe(scaling=scaling)), expected, atol=1e-5)


def test_pixel_size_and_window_are_those_of_the_description() -> None:
    whole = prepare(describe(scaling="intensity", mask_cells=False), pixel_size_um=0.5)
    assert np.allclose(whole, CROPS.numpy()[:, [1, 0]] / 65_535, atol=1e-6)
    coarse = prepare(describe(scaling="intensity", mask_cells=False, input_px=10), pixel_size_um=0.25)
    assert coarse.shape == (2, 2, 10, 10)
    padded = prepare(describe(scaling="intensity", mask_cells=False, input_px=30), pixel_size_um=0.5)
    assert torch.equal(padded[:, :, 5:25, 5:25], whole)
    assert padded.sum() == pytest.approx(float(whole.sum()), rel=1e-5)
    anywhere = describe(scaling="intensity", mask_cells=False, pixel_size_um=None, input_px=8)
    resized = prepare(anywhere, pixel_size_um=0.160177, crop_px=20)
    assert resized.shape == (2, 2, 8, 8)
    assert float(resized.mean()) == pytest.approx(float(whole.mean()), rel=0.02)


def test_masks_are_handed_over() -> None:
    prepared = prepare(describe(takes_masks=True, mask_cells=False))
    assert prepared.shape[1] == 3
    assert torch.equal(prepared[:, 2] > 0, MASKS)


def test_wrong_descriptions_are_refused() -> None:
    for changes, message in {
        ("scaling", "none"): "scaling is 'none'",
        ("input_px", 0): "input_px is 0",
        ("embedding_size", 0): "embedding_size is 0",
        ("pixel_size_um", 500.0): "pixel_size_um is 500.0",
        ("channels", ("dna", "dna")): "expected different names",
    }.items():
        with pytest.raises(InputError, match=message):
            describe(**dict([changes]))
    with pytest.raises(InputError, match="its name must begin"):
        Encoder("a/b", lambda images: images)
    with pytest.raises(InputError, match="encode is a int"):
        Encoder("a", 3)  # type: ignore[arg-type]


def test_weights_and_description_identify_an_encoder() -> None:
    layers = [torch.nn.Linear(2, 2) for _ in range(2)]
    sums = {Encoder("a", layer).checksum() for layer in layers}
    assert len(sums | {Encoder("a", layers[0], input_px=4).checksum()}) == 3
    assert Encoder("a", layers[0]).checksum() in sums


def test_encoders_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "tests.inference.encoders.bad_encoders"
    points = {name: EntryPoint(name, f"{group}:{name}", finding.ENTRY_POINTS) for name in ("sound", "cannot_be_built")}
    monkeypatch.setattr("subcell_hf.inference.encoders.finding.entry_points", lambda group: points.values())
    listed = {found.name: found for found in list_encoders()}
    assert listed["mae-rybg"].channels == ("red", "yellow", "blue", "green")
    assert listed["sound"].channels == ("blue", "green")
    assert "a file is missing" in listed["cannot_be_built"].needs
    assert "non-commercial" in listed["recursionpharma/OpenPhenom,trust_remote_code=true"].licence
    shown = CliRunner().invoke(app, ["encoders", "--json"])
    assert shown.exit_code == 0
    for found in json.loads(shown.output):
        assert set(found) == {"name", "licence", "channels", "embedding_size", "needs"}
    lines = [line.split() for line in CliRunner().invoke(app, ["encoders"]).output.splitlines()]
    assert ["features", "any", "depends", "on", "channels", "MIT"] in lines
    (found,) = finding.find_encoders("sound")
    assert found.variant.planes == ("blue", "green")
    with pytest.raises(InputError, match="Other encoders are features, cellprofiler, sound, cannot_be_built"):
        finding.find_encoders("feature")


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [("mit", False), ("apache-2.0", False), ("cc-by-nc-4.0", True), ("other", True), ("", True),
     ("dinov3-license", True), ("cc-by-4.0", False)],
)  # fmt: skip
def test_licences_that_restrict_use(licence: str, restricted: bool) -> None:
    assert is_restricted(licence) is restricted


def test_the_licence_of_a_published_model_is_known_without_its_card(tmp_path: Path) -> None:
    assert licence_of_folder(tmp_path) == ""
    (tmp_path / "fetched.json").write_text('{"variant": "mae-rybg"}')
    assert licence_of_folder(tmp_path) == "MIT"


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cp_measure", None)
    finding._build.cache_clear()
    with pytest.raises(InputError, match=re.escape("pip install 'subcell-hf[cellprofiler]'")):
        finding.find_encoders("cellprofiler")
    listed = {found.name: found for found in list_encoders()}
    assert "cp_measure, which is not installed" in listed["cellprofiler"].needs


def test_features_of_cellprofiler() -> None:
    """The library's own values; it brings compiled libraries."""
    pytest.importorskip("cp_measure", reason="needs pip install 'subcell-hf[cellprofiler]'")
    from cp_measure.featurizer import featurize, make_featurizer_config

    (found,) = finding.find_encoders("cellprofiler")
    assert isinstance(found, FoundEncoder)
    images, channels = torch.rand(2, 2, 40, 40, generator=torch.Generator().manual_seed(0)), ["dna", "er"]
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[:, 8:30, 6:32] = True
    values = found.build().encode(images, masks, channels).numpy()
    config = make_featurizer_config(channels, objects=["cell"], correlation_costes=False)
    expected, names, _ = featurize(images.numpy(), masks[:, None].numpy().astype(np.int32), config)
    kept = ~np.isnan(expected).all(axis=0)
    assert kept.sum() >= len(names) - 3
    assert np.allclose(values, np.asarray(expected, np.float32)[:, kept], equal_nan=True)
