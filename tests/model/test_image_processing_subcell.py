"""The image processor: numbers of the published scaling, geometry, names, and every input it has to refuse."""

import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from subcell_hf import SubCellImageProcessor
from subcell_hf.model.channels_subcell import plan_passes
from subcell_hf.model.scaling_subcell import scale_min_max
from tests.forked import run_program

COLOURS = ("red", "yellow", "blue", "green")


def draw_crops(*shape: int, dtype: Any = np.uint16, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def processor(**settings: Any) -> SubCellImageProcessor:
    return SubCellImageProcessor(**{"size": 16, "pixel_size_um": 0.1, **settings})


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("normalize", "golden"), [("image", "out.min_max"), ("channel", "out.min_max_channel")])
def test_scaling_equals_the_published_one(golden_files: Path, normalize: str, golden: str) -> None:
    arrays = np.load(golden_files / "losses/minmax.npz")
    got = processor(size=8, normalize=normalize)(arrays["in.x"])["pixel_values"]
    np.testing.assert_allclose(got.numpy(), arrays[golden], atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", ["", "_64x96", "_96x96"])
def test_pixel_values_equal_the_published_input(golden_files: Path, size: str) -> None:
    folder = golden_files / "small_rybg"
    crops, golden = np.load(folder / f"input{size}.npy"), np.load(folder / f"output{size}.npz")["input_norm"]
    for settings in ({"do_center_crop": False, "do_pad": False}, {"size": golden.shape[2:]}):
        got = processor()(crops, **settings)["pixel_values"]
        np.testing.assert_allclose(got.numpy(), golden, atol=1e-6, rtol=0)


def test_mask_is_applied_before_the_minimum_is_taken() -> None:
    crop = draw_crops(4, 16, 16).astype(np.float32) + 100
    mask = np.zeros((16, 16), bool)
    mask[3:9, 4:12] = True
    got = processor()(crop, cell_masks=mask)["pixel_values"][0].numpy()
    masked = crop * mask
    np.testing.assert_allclose(got, (masked - masked.min()) / (masked.max() - masked.min() + 1e-6), atol=1e-6)
    assert (got[:, ~mask] == 0).all()
    unmasked = processor(do_mask=False)(crop, cell_masks=mask)["pixel_values"][0]
    assert torch.equal(unmasked, processor()(crop)["pixel_values"][0])


def test_padding_counts_in_the_minimum() -> None:
    crop = np.full((4, 8, 8), 50, np.uint8)
    crop[0] = 100
    got = processor()(crop)["pixel_values"][0]
    assert got[1, 8, 8] == pytest.approx(0.5)
    assert got[:, 0].abs().sum() == 0


def test_constant_image_becomes_zeros_and_negative_values_are_scaled() -> None:
    assert processor()(np.full((4, 16, 16), 77, np.uint16))["pixel_values"].abs().max() == 0
    got = processor()(np.linspace(-1, 1.4, 4 * 256, dtype=np.float32).reshape(4, 16, 16))["pixel_values"]
    assert got.min() == 0
    assert got.max() == pytest.approx(1, abs=1e-5)


def test_a_cell_with_negative_floats_and_channels_last(reference_cell: Path) -> None:
    import tifffile

    cell = tifffile.imread(next(reference_cell.glob("*.tiff")))  # [height, width, 3]
    got = processor(channels=["red", "blue", "yellow"], size=512)(cell)["pixel_values"][0].numpy()
    scaled = (cell - cell.min()) / (cell.max() - cell.min() + np.float32(1e-6))
    np.testing.assert_allclose(got, np.moveaxis(scaled, 2, 0), atol=1e-6)


# --- what comes in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.int64, np.float16, np.float32, np.float64, ">u2", ">f4"]
)
def test_every_depth_gives_the_same_picture(dtype: Any) -> None:
    crop = draw_crops(4, 16, 16)
    expected = scale_min_max(torch.from_numpy(crop.astype(np.float32)))
    assert torch.equal(processor()(crop.astype(dtype))["pixel_values"][0], expected)
    if not isinstance(dtype, str):
        assert torch.equal(processor()(torch.from_numpy(crop.astype(dtype)))["pixel_values"][0], expected)


def test_twelve_bits_in_sixteen_fill_the_whole_range() -> None:
    crop = draw_crops(4, 16, 16)
    crop[0, 0, 0], crop[1, 1, 1] = 4095, 0
    got = processor()(crop)["pixel_values"]
    assert (got.min(), got.max()) == (0, 1)


def test_mixed_depths_and_layouts_in_one_batch() -> None:
    crop = draw_crops(4, 16, 16)
    named = dict(zip(COLOURS, crop, strict=True))
    batch = [crop, crop.astype(np.uint8), np.moveaxis(crop, 0, 2), torch.from_numpy(crop.astype(np.float64)), named]
    got = processor()(batch)["pixel_values"]
    assert got.shape == (5, 4, 16, 16)
    assert all(torch.equal(one, got[0]) for one in got)


def test_views_that_torch_cannot_wrap() -> None:
    crop = draw_crops(4, 16, 16)
    frozen = crop.copy()
    frozen.flags.writeable = False
    expected = processor()(crop)["pixel_values"]
    assert torch.equal(processor()(frozen)["pixel_values"], expected)
    assert torch.equal(processor()(crop[:, ::-1, ::-1])["pixel_values"], expected.flip(2, 3))


def test_input_is_left_as_it_was() -> None:
    crop, mask = torch.rand(1, 4, 16, 16), torch.ones(16, 16)
    mask[0] = 0
    before = crop.clone()
    processor()(crop, cell_masks=mask[None])
    assert torch.equal(crop, before)


def test_permuted_named_channels_give_the_same() -> None:
    crop = draw_crops(4, 16, 16)
    expected = processor()(crop)["pixel_values"]
    shuffled = [2, 0, 3, 1]
    names = [COLOURS[index] for index in shuffled]
    assert torch.equal(processor()(crop[shuffled], channels=names)["pixel_values"], expected)
    planes = {"brightfield": crop[0] + 1, **{COLOURS[index]: crop[index] for index in shuffled}}
    assert torch.equal(processor()(planes)["pixel_values"], expected)


def test_one_channel_may_come_without_an_axis() -> None:
    plane = draw_crops(16, 16)
    got = processor(channels=["green"])(plane)["pixel_values"]
    assert torch.equal(got[0, 0], scale_min_max(torch.from_numpy(plane.astype(np.float32))[None])[0])


def test_ambiguous_layout_is_decided_by_the_caller() -> None:
    crop = draw_crops(4, 16, 4)
    with pytest.raises(ValueError, match=r"Image 0: \[4, 16, 4\] may .*input_data_format"):
        processor()(crop)
    first = processor()(crop, input_data_format="channels_first", do_pad=False)["pixel_values"]
    last = processor()(crop, input_data_format="channels_last", do_pad=False)["pixel_values"]
    assert (first.shape, last.shape) == ((1, 4, 16, 4), (1, 4, 4, 16))
    assert torch.equal(last[0], first[0].permute(2, 0, 1))


def test_numpy_output() -> None:
    got = processor()(draw_crops(2, 4, 16, 16), return_tensors="np")["pixel_values"]
    assert isinstance(got, np.ndarray)
    assert (got.dtype, got.shape) == (np.float32, (2, 4, 16, 16))


# --- other assays ------------------------------------------------------------------------------------------------


def test_channel_mapping_chooses_another_assays_planes(cell_painting_field: Path) -> None:
    import tifffile

    field = tifffile.imread(next(cell_painting_field.glob("*.tiff")))
    names = ["brightfield", "er", "agp", "mito", "dna", "rna"]
    ybg = processor(channels=["yellow", "blue", "green"], size=128, do_center_crop=True)
    mapping = {"yellow": "er", "blue": "dna", "green": "mito"}
    single = ybg(field, channels=names, channel_mapping=mapping)["pixel_values"]
    planes = dict(zip(names, field, strict=True))
    assert torch.equal(ybg(planes, channel_mapping=mapping)["pixel_values"], single)
    assert torch.equal(ybg(field[[1, 4, 3]])["pixel_values"], single)

    panel = {"yellow": "er", "blue": "dna", "green": ["mito", "agp", "rna"]}
    several = ybg([planes, planes], channel_mapping=panel)["pixel_values"]
    assert several.shape == (2, 3, 3, 128, 128)
    assert torch.equal(several[1, 0], single[0])  # every pass is scaled on its own
    assert torch.equal(several[0, 2], ybg(planes, channel_mapping={**mapping, "green": "rna"})["pixel_values"][0])


def test_mapping_belongs_to_the_processor_or_the_call() -> None:
    made = processor(channels=["blue", "green"], channel_mapping={"blue": "dna", "green": ["mito"]})
    assert made({"dna": draw_crops(16, 16), "mito": draw_crops(16, 16)})["pixel_values"].shape == (1, 1, 2, 16, 16)
    got = made(draw_crops(2, 16, 16), channel_mapping={})["pixel_values"]
    assert got.shape == (1, 2, 16, 16)
    with pytest.raises(ValueError, match="several proteins"):
        made(draw_crops(2, 16, 16))


def test_plan_passes() -> None:
    assert plan_passes(["blue", "green"], None) == ([["blue", "green"]], False)
    assert plan_passes(["blue", "green"], {"green": "mito"}) == ([["blue", "mito"]], False)
    assert plan_passes(["blue", "green"], {"green": ("a", "b")}) == ([["blue", "a"], ["blue", "b"]], True)


# --- geometry ----------------------------------------------------------------------------------------------------


def test_crop_and_padding_keep_the_centre() -> None:
    for edge in range(1, 40):
        crop = np.zeros((4, edge, edge + 3), np.uint8)
        crop[:, edge // 2, (edge + 3) // 2] = 9
        got = processor()(crop, input_data_format="channels_first")["pixel_values"]
        assert got.shape == (1, 4, 16, 16)
        assert got[0, :, 8, 8].tolist() == pytest.approx([1] * 4, abs=1e-6), edge


def test_native_size_is_kept_bit_for_bit() -> None:
    crop = draw_crops(4, 16, 16)
    got = processor(do_normalize=False)(crop, pixel_size_um=0.1)["pixel_values"][0]
    assert torch.equal(got, torch.from_numpy(crop.astype(np.float32)))


@pytest.mark.parametrize(("pixel_size_um", "edge"), [(0.05, 16), (0.2, 64), (0.1, 32), (None, 32)])
def test_pixel_size_is_brought_to_the_models(pixel_size_um: float | None, edge: int) -> None:
    crop = draw_crops(4, 32, 32, dtype=np.float32)
    made = processor(do_center_crop=False, do_pad=False, do_normalize=False)
    got = made(crop, pixel_size_um=pixel_size_um)["pixel_values"][0]
    assert got.shape == (4, edge, edge)
    whole = torch.from_numpy(crop)[None]
    expected = whole if edge == 32 else F.interpolate(whole, (edge, edge), mode="bilinear", antialias=True)
    torch.testing.assert_close(got, expected[0])


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    crop = np.indices((32, 32)).sum(0) % 2 * np.ones((4, 1, 1))
    got = processor(do_normalize=False)(crop.astype(np.float32), pixel_size_um=0.05)["pixel_values"]
    assert (got[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.02


def test_every_crop_may_have_its_own_size_and_pixel_size() -> None:
    crops = [draw_crops(4, 32, 32, seed=1), draw_crops(4, 20, 9, seed=2), draw_crops(4, 32, 32, seed=3)]
    sizes = np.array([0.05, 0.1, 0.1])
    together = processor()(crops, pixel_size_um=sizes)["pixel_values"]
    for index, (crop, size) in enumerate(zip(crops, sizes, strict=True)):
        assert torch.equal(together[index], processor()(crop, pixel_size_um=float(size))["pixel_values"][0])


def test_resize_stretches() -> None:
    crop = draw_crops(4, 40, 8, dtype=np.float32)
    got = processor(do_resize=True, do_normalize=False, size=(20, 16))(crop)["pixel_values"]
    expected = F.interpolate(torch.from_numpy(crop)[None], (20, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(got, expected)


def test_masks_follow_the_image() -> None:
    crop, mask = draw_crops(4, 30, 20), np.zeros((30, 20), np.uint8)
    mask[10:20, 5:15] = 1
    made = processor(do_normalize=False)
    got = made(crop, cell_masks=mask, pixel_size_um=0.2, return_cell_masks=True, return_tensors="np")
    assert got["cell_masks"].dtype == bool
    assert got["cell_masks"].shape == (1, 16, 16)
    expected = np.zeros((60, 40), bool)
    expected[20:40, 10:30] = True
    assert np.array_equal(got["cell_masks"][0], expected[22:38, 12:28])
    assert "cell_masks" not in made(crop, cell_masks=mask)


def test_device_is_where_the_work_is_done() -> None:
    assert processor()(draw_crops(4, 16, 16), device="meta")["pixel_values"].device.type == "meta"


# --- what is refused ---------------------------------------------------------------------------------------------

GOOD = draw_crops(4, 16, 16)
MASK = np.ones((16, 16), bool)


def spoil(value: float) -> np.ndarray[Any, Any]:
    crop = GOOD.astype(np.float64)
    crop[2, 3, 4] = value
    return crop


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([GOOD, GOOD[:3]], r"Image 1 has the shape \[3, 16, 16\]; expected 4 planes \(red, yellow, blue, green\)"),
        (GOOD[0], r"Image 0 has the shape \[16, 16\]; expected 4 planes"),
        ({"red": GOOD[0], "dapi": GOOD[0]}, r"Image 0 has the channels red, dapi; expected red, yellow, blue, green"),
        ([GOOD, {}], "Image 1"),
        (GOOD.astype(bool), "Image 0 is bool; expected intensities"),
        (GOOD.astype(complex), "Image 0 is ndarray of complex128"),
        (GOOD.astype(object), "Image 0 is ndarray of object"),
        (["crop.tif"], "Image 0 is str of no dtype"),
        ([], "no images"),
        (GOOD[:, :0], r"Image 0 is Tensor of torch.uint16 \(4, 0, 16\).*not empty"),
        ([GOOD / 1.0, spoil(np.nan)], "Image 1 holds NaN, infinite"),
        (spoil(np.inf), "Image 0 holds NaN, infinite"),
        (spoil(1e300), "Image 0 holds NaN, infinite or gigantic"),
        (dict(zip(COLOURS, [GOOD[0, 1:], *GOOD[1:]], strict=True)), r"planes of shapes \{'red': \(15, 16\)"),
        (dict(zip(COLOURS, [GOOD, *GOOD[1:]], strict=True)), r"planes of shapes \{'red': \(4, 16, 16\)"),
        (
            dict(zip(COLOURS, [GOOD[0].astype("u1"), *GOOD[1:]], strict=True)),
            "mixes .*torch.uint8.*normalize='channel'",
        ),
    ],
)
def test_images_that_cannot_work_are_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor()(images)


def test_mixed_depths_within_a_cell_work_where_channels_are_scaled_alone() -> None:
    planes = dict(zip(COLOURS, [GOOD[0].astype(np.uint8), *GOOD[1:]], strict=True))
    expected = processor(normalize="channel")(GOOD)["pixel_values"]
    assert torch.equal(processor(normalize="channel")(planes)["pixel_values"], expected)


@pytest.mark.parametrize("shape", [(4, 1, 1), (4, 1, 30), (2, 4, 1, 1)])
def test_single_pixels_stay_finite(shape: tuple[int, ...]) -> None:
    calls: list[dict[str, Any]] = [{}, {"do_pad": False, "do_center_crop": False}, {"do_resize": True}]
    for call in [*calls, {"pixel_size_um": 0.01}]:
        assert torch.isfinite(processor()(draw_crops(*shape), **call)["pixel_values"]).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK[1:], r"shapes \[\[15, 16\]\]; expected those of the images, \[\[16, 16\]\]"),
        (np.stack([MASK, MASK]), r"shapes \[\[16, 16\], \[16, 16\]\]"),
        (np.where(MASK, 255, 0), "Cell mask 0 holds other values than 0 and 1"),
        (np.where(MASK, 0.5, 0), "Cell mask 0 holds other values than 0 and 1"),
        (~MASK, "Cell mask 0 is 0 everywhere"),
        (MASK[:0], "Cell mask 0 is Tensor of torch.bool"),
        (["mask.png"], "Cell mask 0 is str"),
    ],
)
def test_masks_that_cannot_work_are_refused(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor()(GOOD, cell_masks=mask)


def test_the_bad_mask_of_a_batch_is_named() -> None:
    with pytest.raises(ValueError, match="Cell mask 2"):
        processor()([GOOD, GOOD[:, :9], GOOD], cell_masks=[MASK, MASK[:9], ~MASK])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"normalize": "plane"}, "normalize='plane'; expected 'image' or 'channel'"),
        ({"pixel_size_um": 0}, "pixel_size_um of image 0 is 0; expected micrometres"),
        ({"pixel_size_um": [float("nan")]}, "pixel_size_um of image 0 is nan"),
        ({"pixel_size_um": "0.1"}, "pixel_size_um of image 0 is '0.1'"),
        ({"pixel_size_um": [0.1, 0.1]}, "2 pixel sizes for 1 images"),
        ({"pixel_size_um": 80}, "Image 0 has pixels of 80.0 µm, the model's have 0.1 µm.*micrometres"),
        ({"channels": ["red", "blue"]}, "expected 2 planes"),
        ({"channels": ["red", "dapi", "er", "tub"]}, "channels red, dapi, er, tub; expected red, yellow, blue, green"),
        ({"channels": ["red", "red", "blue", "green"]}, "without repetition"),
        ({"channel_mapping": {"gren": "mito"}}, "maps gren; the model's channels are red, yellow, blue, green"),
        ({"channel_mapping": {"green": []}}, "lists names for green; expected a filled list"),
        ({"channel_mapping": {"green": ["a"], "blue": ["b"]}}, "lists names for green, blue"),
        ({"return_tensors": "tf"}, "return_tensors='tf'"),
        ({"do_rescale": False}, "Unknown settings do_rescale"),
        ({"size": {"shortest_edge": 3}}, "size=.*whole pixels"),
        ({"size": 0}, "whole pixels above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor()(GOOD, **call)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": []}, "at least one"),
        ({"normalize": "none"}, "normalize='none'"),
        ({"pixel_size_um": -1}, "The processor's pixel_size_um is -1"),
        ({"image_mean": [0.5]}, "no settings image_mean"),
        ({"colours": ["green"]}, "no settings colours"),
    ],
)
def test_processors_that_cannot_work_are_not_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor(**settings)


def test_ragged_crops_need_a_geometry() -> None:
    crops = [draw_crops(4, 16, 16), draw_crops(4, 9, 16)]
    with pytest.raises(ValueError, match=r"sizes \[\(9, 16\), \(16, 16\)\].*do_center_crop and do_pad"):
        processor()(crops, do_center_crop=False, do_pad=False)
    assert processor()(crops)["pixel_values"].shape == (2, 4, 16, 16)


# --- saving ------------------------------------------------------------------------------------------------------


def test_round_trip_and_overrides(tmp_path: Path) -> None:
    made = processor(
        channels=["blue", "green"], pixel_size_um=None, normalize="channel", channel_mapping={"blue": "dna"}
    )
    made.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").exists()
    assert (tmp_path / "image_processing_subcell.py").exists()
    again = SubCellImageProcessor.from_pretrained(tmp_path)
    names = ("channels", "size", "pixel_size_um", "do_pad", "do_mask", "normalize", "channel_mapping")
    assert {name: getattr(again, name) for name in names} == {name: getattr(made, name) for name in names}
    other = SubCellImageProcessor.from_pretrained(tmp_path, do_pad=False, normalize="image", pixel_size_um=0.2, size=32)
    assert (other.do_pad, other.normalize, other.pixel_size_um) == (False, "image", 0.2)
    assert other.size == {"height": 32, "width": 32}
    with pytest.raises(ValueError, match="no settings do_rescale"):
        SubCellImageProcessor.from_pretrained(tmp_path, do_rescale=True)


WITHOUT_PACKAGE = """
    import sys
    from importlib.abc import MetaPathFinder

    class Blocker(MetaPathFinder):
        def find_spec(self, fullname, path=None, target=None):
            if fullname.split(".")[0] == "subcell_hf":
                raise ModuleNotFoundError(f"{fullname} is blocked")

    sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.slow
def test_loads_where_the_package_is_not_installed(tmp_path: Path) -> None:
    processor(channels=["blue", "green"]).save_pretrained(tmp_path / "saved")
    crop = draw_crops(2, 20, 20)
    np.save(tmp_path / "crop.npy", crop)
    script = textwrap.dedent(WITHOUT_PACKAGE) + textwrap.dedent("""
        import numpy as np
        from transformers import AutoImageProcessor

        made = AutoImageProcessor.from_pretrained(sys.argv[1] + "/saved", trust_remote_code=True)
        assert type(made).__module__.startswith("transformers_modules"), type(made)
        np.save(sys.argv[1] + "/out.npy", made(np.load(sys.argv[1] + "/crop.npy"), return_tensors="np")["pixel_values"])
        made.save_pretrained(sys.argv[1] + "/again")
    """)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    run_program("-c", script, tmp_path, log=tmp_path / "log", cwd=tmp_path, env=environment)
    expected = processor(channels=["blue", "green"])(crop)["pixel_values"].numpy()
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)
    assert (tmp_path / "again/image_processing_subcell.py").exists()
