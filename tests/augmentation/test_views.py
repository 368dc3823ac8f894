"""From a batch of cells to its views: masks, scaling, order of steps, seeds, settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from subcell_hf.augmentation import views as views_module
from subcell_hf.augmentation.intensity import BrightnessContrast
from subcell_hf.augmentation.presets import (
    AugmentationSettings,
    ViewSettings,
    load_preset,
    load_settings,
    preset_names,
    settings_from_dict,
    settings_from_yaml,
)
from subcell_hf.augmentation.registry import (
    BatchShape,
    ChannelTransform,
    GeometricTransform,
    IntensityTransform,
    OneOf,
    Parameters,
    Range,
    Transform,
    draw_uniform,
    register_transform,
)
from subcell_hf.augmentation.view_pictures import picture_views
from subcell_hf.augmentation.views import ViewMaker, choose_masked
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.types import CropBatch, MultiViewBatch
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic

RYBG = ("red", "yellow", "blue", "green")
SIZE = 64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc() -> Tensor:
    axis = torch.linspace(-1, 1, SIZE)
    return (axis[:, None] - 0.1) ** 2 + (axis[None, :] + 0.2) ** 2 < 0.3


def make_crops(cells: int = 16, channels: int = 4, dtype: torch.dtype = torch.uint8) -> CropBatch:
    pixels = torch.randint(1, 256, (cells, channels, SIZE, SIZE), generator=seeded(7))
    return CropBatch(
        pixels=pixels.to(dtype),
        cell_masks=disc().repeat(cells, 1, 1),
        antibodies=torch.arange(cells) // 8,
        locations=torch.eye(35)[torch.arange(cells) % 35],
    )


def make_views(
    settings: str | AugmentationSettings, crops: CropBatch, channels: Sequence[str] = RYBG, seed: int = 0
) -> MultiViewBatch:
    settings = load_preset(settings) if isinstance(settings, str) else settings
    return ViewMaker(settings.with_size(SIZE))(crops, channels, seeded(seed))


def plain(**settings: object) -> AugmentationSettings:
    """One view without anything random but the mask."""
    view = {"mask_probability": settings.pop("mask_probability", 0.0), "transforms": settings.pop("transforms", [])}
    return settings_from_dict({"views": [view], "size_px": SIZE, **settings})


@pytest.mark.parametrize(
    ("preset", "views"), [("multi_task", 2), ("contrastive", 2), ("reconstruction", 1), ("validation", 1)]
)
def test_views_have_the_promised_form(preset: str, views: int) -> None:
    crops = make_crops()
    made = make_views(preset, crops)
    assert made["pixel_values"].shape == (16, views, 4, SIZE, SIZE)
    assert made["pixel_values"].dtype == torch.float32
    assert made["cell_masks"].shape == (16, views, SIZE, SIZE)
    assert made["cell_masks"].dtype == torch.bool
    assert torch.equal(made["antibodies"], crops["antibodies"])
    assert torch.equal(made["locations"], crops["locations"])
    assert made["pixel_values"].isfinite().all()
    assert not made["pixel_values"].requires_grad


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_of_n_cells_of_an_antibody_so_many_keep_their_surroundings(probability: float) -> None:
    antibodies = torch.tensor([4] * 8 + [2] * 5 + [9] + [7] * 10)
    masked = choose_masked(antibodies, probability, torch.randperm(24, generator=seeded()))
    for antibody in (4, 2, 9, 7):
        group = masked[antibodies == antibody]
        assert int((~group).sum()) == int(len(group) * (1 - probability))


def test_every_cell_is_masked_equally_often() -> None:
    antibodies = torch.arange(16) // 8
    generator = seeded()
    draws = [choose_masked(antibodies, 0.5, torch.randperm(16, generator=generator)) for _ in range(2_000)]
    assert (torch.stack(draws).double().mean(dim=0) - 0.5).abs().max() < 0.05


def test_masked_cells_are_scaled_without_their_surroundings() -> None:
    crops = make_crops()
    crops["pixels"][:, :, 0, 0] = 255  # outside the disc: must not count where it is removed
    crops["pixels"] = torch.where(disc(), crops["pixels"].clamp(max=200), crops["pixels"])
    made = make_views(plain(mask_probability=0.5), crops)["pixel_values"][:, 0]
    masked = made[:, 0, 0, 0] == 0
    assert masked.view(2, 8).sum(dim=1).tolist() == [4, 4]
    for cell in range(16):
        values = crops["pixels"][cell].double()
        if masked[cell]:
            values = values * disc()
        expected = (values - values.min()) / (values.max() - values.min() + 1e-6)
        assert torch.allclose(made[cell].double(), expected, atol=1e-6)


def test_each_view_chooses_its_own_masked_cells() -> None:
    no_steps = ViewSettings(mask_probability=0.5)
    made = make_views(AugmentationSettings(views=(no_steps, no_steps)), make_crops(64))["pixel_values"]
    masked = made[:, :, :, 0, 0].amax(dim=2) == 0
    assert masked.sum(dim=0).tolist() == [32, 32]
    assert not torch.equal(masked[:, 0], masked[:, 1])


def test_validation_masks_every_cell_and_draws_nothing() -> None:
    crops = make_crops()
    made = make_views("validation", crops)
    assert made["pixel_values"][:, 0, :, ~disc()].abs().max() == 0
    assert torch.equal(made["cell_masks"][:, 0], crops["cell_masks"])
    assert torch.equal(make_views("validation", crops, seed=1)["pixel_values"], made["pixel_values"])


def test_the_true_mask_travels_also_with_cells_that_keep_their_surroundings() -> None:
    made = make_views(plain(mask_probability=0.0), make_crops())
    assert torch.equal(made["cell_masks"][:, 0], disc().expand(16, SIZE, SIZE))


@pytest.mark.parametrize("preset", ["reconstruction", "multi_task"])
@pytest.mark.parametrize("crop_size", [SIZE, 96])
def test_masks_go_where_their_cells_go(preset: str, crop_size: int) -> None:
    crops = make_crops(32, channels=2)
    crops["pixels"] = torch.where(disc(), 255, 0).to(torch.uint8).repeat(32, 2, 1, 1)
    grown = torch.nn.functional.interpolate(crops["pixels"].float(), size=crop_size, mode="nearest-exact")
    crops["pixels"], crops["cell_masks"] = grown.to(torch.uint8), grown[:, 0] > 0
    made = make_views(preset, crops, ("blue", "green"))
    pixels, masks = made["pixel_values"][:, 0, 0], made["cell_masks"][:, 0]
    decided = (pixels < 0.02) | (pixels > 0.98)  # the rest is the interpolated edge
    assert torch.equal(masks[decided], pixels[decided] > 0.5)
    assert decided.double().mean() > 0.9
    assert all(0.2 < share < 3 for share in (masks.sum(dim=(1, 2)) / disc().sum()).tolist())


def test_outside_the_crop_is_black() -> None:
    crops = make_crops()
    crops["pixels"] = torch.full_like(crops["pixels"], 200)
    crops["pixels"][:, :, SIZE // 2, SIZE // 2] = 100  # so that the crop scales to 1
    crops["cell_masks"][:] = True
    shrink = plain(transforms=[{"name": "affine", "rotation_deg": [0, 0], "shift": [0, 0], "scale": [0.5, 0.5]}])
    made = make_views(shrink, crops)
    frame = torch.ones(SIZE, SIZE, dtype=torch.bool)
    frame[SIZE // 4 - 1 : -SIZE // 4 + 1, SIZE // 4 - 1 : -SIZE // 4 + 1] = False
    assert made["pixel_values"][..., frame].abs().max() == 0
    assert not made["cell_masks"][..., frame].any()
    assert made["pixel_values"][..., SIZE // 3, SIZE // 3].min() > 0.99


def test_no_two_views_are_equal() -> None:
    crops = make_crops(32)
    crops["pixels"] = crops["pixels"][:1].repeat(32, 1, 1, 1)
    made = make_views("contrastive", crops)["pixel_values"].flatten(0, 1).flatten(1)
    distances = torch.cdist(made, made) + torch.eye(64) * 1e9
    assert distances.min() > 0.1


def test_equal_seeds_give_equal_views_and_other_seeds_others() -> None:
    first, again, other = (make_views("multi_task", make_crops(), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert torch.equal(first["cell_masks"], again["cell_masks"])
    assert (first["pixel_values"] - other["pixel_values"]).abs().amax(dim=(2, 3, 4)).min() > 0.05


def test_the_generator_moves_on() -> None:
    maker, generator = ViewMaker(load_preset("multi_task").with_size(SIZE)), seeded()
    first, second = (maker(make_crops(), RYBG, generator)["pixel_values"] for _ in range(2))
    assert not torch.equal(first, second)


def test_the_world_outside_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    make_views("contrastive", make_crops())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("preset", preset_names())
def test_the_batch_is_not_changed(preset: str, dtype: torch.dtype) -> None:
    crops, untouched = make_crops(dtype=dtype), make_crops(dtype=dtype)
    make_views(preset, crops)
    for name in ("pixels", "cell_masks", "antibodies", "locations"):
        assert torch.equal(crops[name], untouched[name])


def test_pixel_types_give_the_same_views() -> None:
    eight = make_crops()
    sixteen, floating = CropBatch(**eight), CropBatch(**eight)
    sixteen["pixels"] = (eight["pixels"].to(torch.int64) * 257).to(torch.uint16)
    floating["pixels"] = eight["pixels"].float() / 255 * 12.5
    expected = make_views("contrastive", eight)["pixel_values"]
    for crops in (sixteen, floating):
        assert (make_views("contrastive", crops)["pixel_values"] - expected).abs().max() < 1e-4


def test_autocast_changes_nothing() -> None:
    @register_transform("mix_rows")
    @dataclass(frozen=True, kw_only=True)
    class MixRows(ChannelTransform):
        def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
            return planes @ planes / SIZE  # a product of matrices is what autocast would do in bfloat16

    for settings in (load_preset("contrastive"), plain(transforms=[{"name": "mix_rows"}])):
        expected = make_views(settings, make_crops())["pixel_values"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = make_views(settings, make_crops())["pixel_values"]
        assert made.dtype == torch.float32
        assert torch.equal(made, expected)


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("channels", [("blue", "green"), ("green", "er", "dna"), ("a", "b", "c", "green", "e")])
def test_any_channels_in_any_order(preset: str, channels: tuple[str, ...]) -> None:
    made = make_views(preset, make_crops(channels=len(channels)), channels)
    assert made["pixel_values"].shape[2] == len(channels)
    assert made["pixel_values"].isfinite().all()


@pytest.mark.parametrize("protein_index", [0, 1, 2])
def test_the_protein_is_found_by_name(protein_index: int) -> None:
    channels = ["red", "blue"]
    channels.insert(protein_index, "mito")
    steps = [{"name": "rescale_protein", "probability": 1.0, "factor": [0.0, 0.0]}, {"name": "drop_channel"}]
    settings = plain(transforms=steps, protein_channel="mito")
    made = make_views(settings, make_crops(64, channels=3), channels)["pixel_values"][:, 0]
    assert (made.amax(dim=(2, 3)) == 0)[:, protein_index].all()  # rescaled by 0
    others = [index for index in range(3) if index != protein_index]
    assert 0 < (made.amax(dim=(2, 3)) == 0)[:, others].double().mean() < 0.3  # dropped now and then


@pytest.mark.parametrize("level", [0, 17])
@pytest.mark.parametrize("preset", preset_names())
def test_constant_and_empty_crops_stay_finite(preset: str, level: int) -> None:
    crops = make_crops()
    crops["pixels"][:] = level
    crops["cell_masks"][:4] = False
    assert make_views(preset, crops)["pixel_values"].isfinite().all()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_views("contrastive", make_crops())
    for cells in (1, 3, 7):
        monkeypatch.setattr(views_module, "_CPU_BLOCK_BYTES", cells * 4 * 4 * SIZE * SIZE)
        made = make_views("contrastive", make_crops())
        assert torch.allclose(made["pixel_values"], expected["pixel_values"], atol=1e-5)
        assert torch.equal(made["cell_masks"], expected["cell_masks"])


def test_threads_do_not_show() -> None:
    before = torch.get_num_threads()
    made = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        made.append(make_views("contrastive", make_crops()))
    torch.set_num_threads(before)
    for other in made[1:]:
        assert torch.allclose(other["pixel_values"], made[0]["pixel_values"], atol=1e-5)
        assert torch.equal(other["cell_masks"], made[0]["cell_masks"])


@pytest.mark.parametrize("part", [(0, 8), (8, 16), (0, 16)])
def test_a_process_makes_its_part_of_the_global_views(part: tuple[int, int]) -> None:
    start, stop = part
    whole, maker = make_crops(), ViewMaker(load_preset("contrastive").with_size(SIZE))
    share = CropBatch(**{name: value[start:stop] for name, value in whole.items()})
    made = maker(share, RYBG, seeded(), first_cell=start, global_cells=16)
    expected = make_views("contrastive", whole)
    assert torch.allclose(made["pixel_values"], expected["pixel_values"][start:stop], atol=1e-5)
    assert torch.equal(made["cell_masks"], expected["cell_masks"][start:stop])


def test_cells_outside_of_the_global_batch_are_refused() -> None:
    for first_cell, global_cells in ((-1, 32), (1, 16), (0, 8)):
        with pytest.raises(InputError, match="has fewer than 16 cells"):
            ViewMaker("validation")(make_crops(), RYBG, seeded(), first_cell=first_cell, global_cells=global_cells)


def test_one_of_chooses_for_each_crop_and_evenly() -> None:
    shape = BatchShape(4_000, RYBG, "green", SIZE, SIZE, SIZE)
    drawn = ViewMaker("contrastive").draw(shape, seeded())[1]
    active = {type(step).__name__: parameters["active"].double() for step, parameters in drawn.steps}
    assert abs(active["Affine"].mean() - 0.5) < 0.03
    assert abs(active["Perspective"].mean() - 0.25) < 0.03
    assert (active["Affine"] * active["Perspective"]).sum() == 0
    assert abs(active["GaussianBlur"].mean() - 0.25) < 0.02
    assert abs(active["Sharpness"].mean() - 0.125) < 0.02
    assert (active["GaussianBlur"].amax(dim=1) * active["Sharpness"].amax(dim=1)).sum() == 0


def test_geometry_is_composed_in_order() -> None:
    """Two shears in a row, one interpolation: the same as one after the other on a smooth image."""
    ramp = torch.linspace(0, 1, SIZE)
    image = (ramp[:, None] * 3).sin() * (ramp[None, :] * 2).cos()
    crops = make_crops(1, channels=1)
    crops["pixels"] = image[None, None]
    first = {"name": "affine", "rotation_deg": [30, 30], "shift": [0.1, 0.1], "scale": [1, 1]}
    second = {"name": "horizontal_flip", "probability": 1.0}
    together = make_views(plain(transforms=[first, second]), crops, ["green"])["pixel_values"][:, 0]
    apart = make_views(plain(transforms=[first]), crops, ["green"])["pixel_values"][:, 0].flip(-1)
    assert torch.allclose(together, apart, atol=1e-5)


def test_crops_of_another_size_come_out_at_the_right_one() -> None:
    crops = make_crops(4)
    for preset in preset_names():
        made = ViewMaker(load_preset(preset).with_size(48))(crops, RYBG, seeded())
        assert made["pixel_values"].shape[-2:] == (48, 48)
        assert made["cell_masks"].shape[-2:] == (48, 48)
        assert made["cell_masks"].flatten(1).any(dim=1).all()


def test_channels_may_be_scaled_on_their_own() -> None:
    made = make_views(plain(scaling="channel"), make_crops())["pixel_values"]
    assert torch.allclose(made.amax(dim=(3, 4)), torch.ones(16, 1, 4), atol=1e-6)
    assert (made.amin(dim=(3, 4)) == 0).all()


def test_published_pipelines_differ_in_their_intensities_alone() -> None:
    def kinds(preset: str) -> list[bool]:
        views = load_preset(preset).views
        return [any(isinstance(step, IntensityTransform) for step in view.transforms) for view in views]

    ours = {"gentle", "half_affine", "moderate", "orientations"}
    assert set(preset_names()) == {"contrastive", "multi_task", "reconstruction", "validation"} | ours
    assert kinds("reconstruction") == [False]
    assert kinds("multi_task") == [False, True]
    assert kinds("contrastive") == [True, True]
    assert load_preset("validation").views == (ViewSettings(1.0, ()),)
    for preset in ("reconstruction", "multi_task", "contrastive"):
        settings = load_preset(preset)
        assert (settings.size_px, settings.scaling) == (448, "image")
        for view in settings.views:
            assert view.mask_probability == 0.5
            assert geometry_of(view) == geometry_of(load_preset("reconstruction").views[0])
    assert load_preset("multi_task").views[1] == load_preset("contrastive").views[0]


def geometry_of(view: ViewSettings) -> list[Transform | OneOf]:
    return [step for step in view.transforms if not is_intensity(step)]


def is_intensity(step: Transform | OneOf) -> bool:
    return isinstance(step.choices[0] if isinstance(step, OneOf) else step, IntensityTransform)


def test_presets_state_the_defaults_of_their_transforms() -> None:
    """What stands in the YAML and what the code does by default are one specification."""
    for view in load_preset("contrastive").views:
        for step in view.transforms:
            for transform in step.choices if isinstance(step, OneOf) else (step,):
                assert transform == type(transform)()


def test_a_transform_of_ones_own_joins_by_name() -> None:
    @register_transform("gamma")
    @dataclass(frozen=True, kw_only=True)
    class Gamma(ChannelTransform):
        gamma: Range = (2.0, 2.0)

        def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
            gamma = draw_uniform([shape.cells, len(shape.channels)], self.gamma, generator)
            return super().draw(shape, generator) | {"gamma": gamma}

        def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
            return planes ** parameters["gamma"][:, None, None]

    @register_transform("quarter_turn")
    @dataclass(frozen=True, kw_only=True)
    class QuarterTurn(GeometricTransform):
        def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
            turn = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
            return turn.expand(shape.cells, 3, 3)

    crops = make_crops()
    untouched = make_views(plain(), crops)["pixel_values"]
    made = make_views(plain(transforms=[{"name": "quarter_turn"}, {"name": "gamma", "gamma": [3.0, 3.0]}]), crops)
    assert torch.allclose(made["pixel_values"], untouched.rot90(-1, (-2, -1)) ** 3, atol=1e-4)
    assert torch.equal(made["cell_masks"][0, 0], disc().rot90(-1))
    with pytest.raises(InputError, match=r"'gamma'.*taken"):
        register_transform("gamma")(BrightnessContrast)
    with pytest.raises(InputError, match="cannot be a transform"):
        register_transform("nothing")(dict)  # type: ignore[type-var]


def test_settings_come_from_yaml_with_parts_by_anchor(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "size_px: 32\nviews:\n"
        "  - transforms:\n    - &flips [{name: horizontal_flip}, {name: vertical_flip, probability: 0.25}]\n"
        "  - mask_probability: 0.2\n    transforms:\n    - *flips\n    - {name: gaussian_noise, sigma: [0.1, 0.2]}\n"
    )
    settings = settings_from_yaml(path)
    assert load_settings(str(path)) == settings
    assert settings.size_px == 32
    assert [len(view.transforms) for view in settings.views] == [2, 3]
    assert settings.views[0].mask_probability == 0.5
    assert settings.views[1].transforms[:2] == settings.views[0].transforms
    assert settings.views[1].transforms[2].sigma == (0.1, 0.2)
    assert settings_from_dict(yaml.safe_load(path.read_text())) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "`views` is None"),
        ({"views": []}, "no `views`"),
        ({"views": [{}], "size": 3}, r"Unknown key.*size.*known are views, size_px"),
        ({"views": [{"probability": 1}]}, r"views\[0\].*known are mask_probability, transforms"),
        ({"views": [{"mask_probability": 2}]}, "mask_probability is 2"),
        ({"views": [{}], "size_px": 0}, "size_px is 0"),
        ({"views": [{}], "scaling": "batch"}, "one of image, channel"),
        ({"views": [{"transforms": [{"name": "blur"}]}]}, r"'blur' in .*transforms\[0\]: known are affine.*one_of"),
        ({"views": [{"transforms": [{"name": "affine", "angle": 3}]}]}, "angle.*known are probability, rotation_deg"),
        ({"views": [{"transforms": [{"name": "affine", "scale": 3}]}]}, r"\(affine\): Affine.scale is 3"),
        ({"views": [{"transforms": ["affine"]}]}, "expected a mapping with a `name`"),
        ({"views": [{"transforms": [{"name": "one_of", "choices": []}]}]}, "at least two"),
        ({"views": [{"transforms": [{"name": "one_of", "choices": [{"name": "affine"}] * 2, "p": 1}]}]}, "p in"),
    ],
)
def test_wrong_settings_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings_from_dict(values)


def test_unknown_presets_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one of contrastive, gentle, half_affine, moderate, multi_task"):
        ViewMaker("multitask")
    with pytest.raises(InputError, match=r"file of view settings .* does not exist"):
        load_settings(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "bad.yaml").write_text("views: [")
    with pytest.raises(InputError, match="not valid YAML"):
        load_settings(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(4, 4, 8, 8, dtype=torch.float64)}, "uint8, uint16 or float32"),
        ({"pixels": torch.zeros(4, 8, 8)}, r"\[cells, channels, height, width\]"),
        ({"pixels": torch.zeros(0, 4, 8, 8)}, "empty"),
        ({"pixels": torch.zeros(4, 3, 8, 8)}, "3 channels, but the names given"),
        ({"cell_masks": torch.zeros(4, 8, 8)}, "expected bool"),
        ({"cell_masks": torch.zeros(4, 8, 9, dtype=torch.bool)}, "True inside the cell"),
        ({"antibodies": torch.zeros(3)}, "antibodies"),
    ],
)
def test_wrong_batches_are_refused(change: dict, message: str) -> None:
    crops = {
        "pixels": torch.zeros(4, 4, 8, 8),
        "cell_masks": torch.zeros(4, 8, 8, dtype=torch.bool),
        "antibodies": torch.zeros(4, dtype=torch.int64),
        "locations": torch.zeros(4, 35),
    }
    with pytest.raises(InputError, match=message):
        ViewMaker("multi_task")(CropBatch(**{**crops, **change}), RYBG, seeded())


def test_channel_names_must_differ() -> None:
    with pytest.raises(InputError, match="4 channels, but the names"):
        make_views("validation", make_crops(), ("red", "red", "blue", "green"))


def test_cells_make_a_picture(single_cells: Path) -> None:
    files = sorted(single_cells.glob("*.npy"))[:4]
    stored = ("red", "green", "blue", "yellow")
    pixels = torch.from_numpy(np.stack([np.load(file) for file in files])).permute(0, 3, 1, 2).contiguous()
    crops = CropBatch(
        pixels=pixels,
        cell_masks=pixels.amax(dim=1) > 0,
        antibodies=torch.zeros(4, dtype=torch.int64),
        locations=torch.zeros(4, 35),
    )
    picture = picture_views(crops, stored, load_preset("multi_task"), seeded())
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    columns = np.array_split(picture[18:], 3, axis=1)  # crop, view 1, view 2
    assert all(column.max() == 255 and column.std() > 10 for column in columns)
    assert np.array_equal(picture, picture_views(crops, stored, load_preset("multi_task"), seeded()))


def test_the_command_draws_cells_from_shards(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "shards", SyntheticCrops(size_px=32))
    (tmp_path / "small.yaml").write_text("size_px: 32\nviews:\n- transforms: [{name: affine}]\n")
    pictures = []
    for name in ("first.png", "second.png"):
        arguments = ["views", str(tmp_path / "shards"), "--output", str(tmp_path / name), "--antibodies", "3"]
        result = CliRunner().invoke(app, [*arguments, "--cells", "2", "--pipeline", str(tmp_path / "small.yaml")])
        assert result.exit_code == 0, result.output
        assert "Drew 6 cells" in result.output
        pictures.append(np.asarray(Image.open(tmp_path / name)))
    assert np.array_equal(*pictures)
    assert pictures[0].std() > 10
    assert pictures[0].shape == (18 + 6 * 228 - 4, 2 * 228 - 4, 3)


def test_the_command_refuses_an_unknown_pipeline(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "shards")
    output = tmp_path / "views.png"
    result = CliRunner().invoke(app, ["views", str(tmp_path / "shards"), "--output", str(output), "--pipeline", "x"])
    assert result.exit_code == 2
    assert "expected one of contrastive" in result.output
    assert not output.exists()
