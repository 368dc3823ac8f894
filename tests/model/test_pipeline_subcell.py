"""The pipeline: golden numbers through files, what it reads, what it refuses, and life without the package."""

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from transformers import pipeline

from subcell_hf import SubCellConfig, SubCellForImageClassification, SubCellImageProcessor, SubCellPipeline, convert
from subcell_hf.model.pipeline_subcell import TASK, read_file, read_plane
from tests.forked import run_program

COLOURS = ("red", "yellow", "blue", "green")
Array = np.ndarray[Any, Any]


def draw_crop(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 4096, shape or (4, 32, 32)).astype(np.uint16)


@pytest.fixture(scope="module")
def classifier() -> SubCellForImageClassification:
    torch.manual_seed(3)
    config = SubCellConfig(
        image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        pooling_hidden_size=16, classifier_hidden_sizes=[16],
    )  # fmt: skip
    model = SubCellForImageClassification(config).eval()
    for weights in model.parameters():  # far from their initial values, so that cells differ
        torch.nn.init.normal_(weights, std=0.3)
    return model


@pytest.fixture(scope="module")
def locate(classifier: SubCellForImageClassification) -> Any:
    return SubCellPipeline(
        classifier, image_processor=SubCellImageProcessor(size=32, pixel_size_um=0.1), task=TASK, device="cpu"
    )


@pytest.fixture(scope="module")
def published(golden_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model as a converted folder."""
    golden, folder = golden_files / "small_rybg", tmp_path_factory.mktemp("converted") / "model"
    members = [golden / f"classifier_s{seed}.pth" for seed in (0, 1)]
    settings = {"config": golden / "model_config.yaml", "crop_size_px": 64}
    return convert(golden / "encoder.pth", folder, "rybg", classifiers=members, **settings)


# --- golden numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["", "_64x96", "_96x96"])
@pytest.mark.parametrize("form", ["array", "npy", "tiff", "ome", "planes"])
def test_files_give_the_golden_numbers(
    golden_files: Path, published: Path, tmp_path: Path, size: str, form: str
) -> None:
    crops = np.load(golden_files / f"small_rybg/input{size}.npy")
    golden = np.load(golden_files / f"small_rybg/output{size}.npz")
    locate = pipeline(model=str(published), trust_remote_code=True, device="cpu", size=crops.shape[2:])
    assert locate.task == "subcell-localization"
    inputs = [write(crop, tmp_path / f"cell {number}", form) for number, crop in enumerate(crops)]
    results = locate(inputs, batch_size=2, top_k=None, return_embedding=True, return_attention=True)
    for number, result in enumerate(results):
        np.testing.assert_allclose(result["embedding"], golden["pool_op"][number], atol=1e-5, rtol=0)
        np.testing.assert_allclose(result["attention"], golden["pool_attn"][number], atol=1e-5, rtol=0)
        by_name = {location["label"]: location["score"] for location in result["locations"]}
        scores = [by_name[name] for _, name in sorted(locate.model.config.id2label.items())]
        np.testing.assert_allclose(scores, golden["probabilities"][number], atol=1e-5, rtol=0)
        ranks = [location["score"] for location in result["locations"]]
        assert ranks == sorted(ranks, reverse=True)


def write(crop: Array, stem: Path, form: str) -> Any:
    if form == "array":
        return crop
    if form == "npy":
        np.save(stem.with_suffix(".npy"), crop)
        return str(stem.with_suffix(".npy"))
    if form == "tiff":
        tifffile.imwrite(stem.with_suffix(".tif"), crop, photometric="minisblack")
        return {"image": stem.with_suffix(".tif")}
    if form == "ome":
        names = ["Green", "Blue", "Yellow", "Red"]
        tifffile.imwrite(stem.with_suffix(".ome.tif"), crop[::-1], metadata={"axes": "CYX", "Channel": {"Name": names}})
        return stem.with_suffix(".ome.tif")
    for name, plane in zip(COLOURS, crop, strict=True):
        tifffile.imwrite(f"{stem}_{name}.tiff", plane, compression="zlib")
    return {name: f"{stem}_{name}.tiff" for name in COLOURS}


# --- options and results -----------------------------------------------------------------------------------------


def test_options(locate: Any) -> None:
    crop = draw_crop()
    everything = locate(crop, top_k=None)
    assert len(everything) == 31
    assert set(everything[0]) == {"label", "score"}
    assert locate(crop) == everything[:5]
    assert locate(crop, top_k=2) == everything[:2]
    threshold = everything[7]["score"]
    assert locate(crop, top_k=None, threshold=threshold) == everything[:8]
    assert locate(crop, threshold=1) == []
    assert set(locate(crop, return_embedding=True)) == {"locations", "embedding"}
    assert locate(crop, return_attention=True)["attention"].shape == (2, 2, 2)


def test_batches_equal_single_cells(locate: Any) -> None:
    crops = [draw_crop(4, 30 + number, 40, seed=number) for number in range(5)]
    single = [locate(crop, return_embedding=True) for crop in crops]
    assert len({tuple(result["embedding"][:3]) for result in single}) == 5
    for inputs in (crops, tuple(crops), (crop for crop in crops)):
        for result, expected in zip(locate(inputs, batch_size=2, return_embedding=True), single, strict=True):
            np.testing.assert_allclose(result["embedding"], expected["embedding"], atol=1e-5)
            assert [place["label"] for place in result["locations"]] == [
                place["label"] for place in expected["locations"]
            ]
    assert locate([]) == []
    assert len(locate(np.stack([crop[:, :30] for crop in crops]))) == 5


def test_several_proteins_per_cell(locate: Any, classifier: SubCellForImageClassification) -> None:
    names = ["er", "agp", "mito", "dna", "rna"]
    cells = [dict(zip(names, draw_crop(5, 32, 32, seed=seed), strict=True)) for seed in range(3)]
    mapping = {"red": "rna", "yellow": "er", "blue": "dna", "green": ["mito", "agp"]}
    options = {"return_embedding": True, "return_attention": True, "top_k": 1}
    results = locate(cells, channel_mapping=mapping, batch_size=2, **options)
    for cell, result in zip(cells, results, strict=True):
        assert list(result["locations"]) == ["mito", "agp"]
        for number, protein in enumerate(["mito", "agp"]):
            alone = locate(cell, channel_mapping={**mapping, "green": protein}, **options)
            width = len(alone["embedding"])
            np.testing.assert_allclose(
                result["embedding"][number * width : (number + 1) * width], alone["embedding"], atol=1e-5
            )
            np.testing.assert_allclose(result["attention"][number], alone["attention"], atol=1e-5)
            assert result["locations"][protein][0]["label"] == alone["locations"][0]["label"]
    pixel_values = locate.image_processor(cells, channel_mapping=mapping)["pixel_values"]
    panel = classifier.subcell.embed_panel(pixel_values)
    np.testing.assert_allclose(results[2]["embedding"], panel[2].detach(), atol=1e-5)


def test_masks_and_pixel_sizes_of_each_cell(locate: Any, tmp_path: Path) -> None:
    crop, mask = draw_crop(), np.zeros((32, 32), np.uint8)
    mask[5:20, 9:30] = 1
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    Image.fromarray(mask.astype(bool)).save(tmp_path / "bits.png")
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    expected = locate(crop * mask)
    for form in (mask, tmp_path / "mask.png", tmp_path / "bits.png", str(tmp_path / "mask.tif")):
        assert locate({"image": crop, "cell_mask": form}) == expected
        assert locate({**dict(zip(COLOURS, crop, strict=True)), "cell_mask": form}) == expected
    assert locate(crop) != expected
    sized = locate.image_processor(crop, pixel_size_um=0.2)["pixel_values"]
    assert locate({"image": crop, "pixel_size_um": 0.2}) == locate({"image": crop}, pixel_size_um=0.2)
    assert locate({"image": crop, "pixel_size_um": 0.2}, return_embedding=True)["embedding"] == pytest.approx(
        locate.model(sized).pooler_output[0].detach().numpy(), abs=1e-5
    )


def test_ome_metadata_settles_what_is_not_said(locate: Any, tmp_path: Path) -> None:
    crop, path = draw_crop(), tmp_path / "cell.ome.tiff"
    metadata = {
        "axes": "CYX", "Channel": {"Name": ["rna", "er", "dna", "mito"]},
        "PhysicalSizeX": 200, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 200, "PhysicalSizeYUnit": "nm",
    }  # fmt: skip
    tifffile.imwrite(path, crop, metadata=metadata, photometric="minisblack")
    with pytest.raises(ValueError, match=r"cell.ome.tiff names its channels rna, er, dna, mito; expected blue, green"):
        locate(path)
    mapping = {"red": "rna", "yellow": "er", "blue": "dna", "green": "mito"}
    expected = locate(crop, pixel_size_um=0.2)
    assert locate(path, channel_mapping=mapping) == expected
    assert locate({"image": path, "channels": COLOURS}) == expected
    assert locate(path, channels=COLOURS, pixel_size_um=0.1) == locate(crop)


def test_processor_has_to_fit_the_model(classifier: SubCellForImageClassification) -> None:
    with pytest.raises(ValueError, match="makes the channels blue, green, the model wants red, yellow, blue, green"):
        SubCellPipeline(classifier, image_processor=SubCellImageProcessor(channels=["blue", "green"]))


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_grey_planes_are_read_to_the_last_bit(tmp_path: Path, dtype: Any, suffix: str) -> None:
    plane = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (20, 30)).astype(dtype)
    path = tmp_path / f"Zelle ü 1{suffix}"
    if suffix == ".png":
        Image.fromarray(plane).save(path)
    elif suffix == ".tif":
        tifffile.imwrite(path, plane)
    else:
        np.save(path, plane)
    got = read_plane(path, "green")
    assert got.dtype == dtype
    assert np.array_equal(got, plane)


@pytest.mark.parametrize(("colour", "planes"), [("red", [0]), ("green", [1]), ("blue", [2]), ("yellow", [0, 1])])
def test_hpa_pictures_are_read_as_their_channel(hpa_fields: Path, colour: str, planes: list[int]) -> None:
    path = hpa_fields / f"89_B5_1_{colour}.jpg"
    assert np.array_equal(read_plane(path, colour), np.rint(np.asarray(Image.open(path))[..., planes].mean(axis=2)))
    with pytest.raises(ValueError, match=rf"{path.name} is a composite: .*expected signal in {WRONG[colour]} alone"):
        read_plane(path, WRONG[colour])


WRONG = {"red": "yellow", "green": "red", "blue": "green", "yellow": "green"}


def test_pictures_of_other_assays_and_grey_ones_saved_as_rgb(tmp_path: Path) -> None:
    plane = draw_crop(8, 9).astype(np.uint8)
    Image.fromarray(np.stack([plane] * 3, -1)).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([plane * 0, plane, plane * 0], -1)).save(tmp_path / "green.png")
    tifffile.imwrite(tmp_path / "green.tif", np.stack([plane * 0, plane, plane * 0], -1), photometric="rgb")
    assert np.array_equal(read_plane(tmp_path / "grey.png", "blue"), plane)
    assert np.array_equal(read_plane(tmp_path / "green.png", "mito"), plane)
    assert np.array_equal(read_plane(tmp_path / "green.tif", "green"), plane)


@pytest.mark.parametrize("axes", ["CYX", "YXC", "TZCYX", "stack", "pages"])
def test_tiff_axes_come_in_the_order_of_the_model(tmp_path: Path, axes: str) -> None:
    crop, path = draw_crop(), tmp_path / "cell.tif"
    if axes == "stack":
        options = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": [0]}
        tifffile.imwrite(path, crop.astype(np.uint8), **options)
        assert np.array_equal(read_file(path).pixels, crop.astype(np.uint8))
        return
    if axes == "pages":
        with tifffile.TiffWriter(path) as file:
            for plane in crop:
                file.write(plane, contiguous=True)
    else:
        order = {"CYX": crop, "YXC": np.moveaxis(crop, 0, 2), "TZCYX": crop[None, None]}[axes]
        tifffile.imwrite(path, order, metadata={"axes": axes}, photometric="minisblack")
    assert np.array_equal(read_file(path).pixels, crop)


def unreadable(folder: Path) -> dict[str, tuple[Path | str, str]]:
    """Every kind of file that has to be refused, and what the message says."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4)).astype(np.uint8)
    plane, rgb = noise[..., 0], noise[..., :3]
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for suffix in (".png", ".jpg"):
        Image.fromarray(plane).save(folder / f"whole{suffix}")
    np.save(folder / "whole.npy", plane)
    tifffile.imwrite(folder / "whole.tif", plane)
    tifffile.imwrite(folder / "packed_whole.tif", plane, compression="zlib")
    for whole in list(folder.glob("*whole.*")):
        whole.with_stem(whole.stem.replace("whole", "cut")).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.tif").write_text("no image")
    (folder / "deep_colour.png").write_bytes(imagecodecs.png_encode(rgb.astype(np.uint16) * 257))
    Image.fromarray(noise).save(folder / "alpha.png")
    Image.fromarray(rgb).save(folder / "composite.png")
    tifffile.imwrite(folder / "depth.tif", noise, metadata={"axes": "ZYX"}, photometric="minisblack")
    series = np.stack([noise, noise])
    tifffile.imwrite(folder / "five.tif", series, metadata={"axes": "TYXC"}, photometric="minisblack")
    tifffile.imwrite(folder / "stack.tif", noise.transpose(2, 0, 1), photometric="minisblack")
    with tifffile.TiffWriter(folder / "two.tif") as file:
        file.write(plane)
        file.write(plane[:9])
    metadata = {"axes": "YX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.3}
    tifffile.imwrite(folder / "oblong.ome.tif", plane, metadata=metadata)
    damaged = ("cut.png", "cut.jpg", "cut.npy", "cut.tif", "packed_cut.tif", "empty.png", "text.tif")
    messages = dict.fromkeys(damaged, "cannot be read .* damaged") | {
        "pickled.npy": "cannot be read .*allow_pickle=False",
        "deep_colour.png": "has 16-bit colours", "alpha.png": "has the mode RGBA", "composite.png": "is a composite",
        "depth.tif": "has the axes ZYX", "five.tif": "has the axes TYXC", "stack.tif": r"has the shape \(4, 64, 64\)",
        "two.tif": "holds 2 images", "oblong.ome.tif": r"has pixels of \[0.1, 0.3\] µm", "cell.czi": "has an unknown",
    }  # fmt: skip
    return {name: (folder / name, message) for name, message in messages.items()}


def test_files_that_cannot_be_used_are_refused_by_name(locate: Any, tmp_path: Path) -> None:
    crop = draw_crop(4, 64, 64)
    for name, (path, message) in unreadable(tmp_path).items():
        with pytest.raises(ValueError, match=rf"(?s){name} {message}"):
            locate({**dict(zip(COLOURS, crop, strict=True)), "green": path})
    with pytest.raises(ValueError, match=r"composite.png is an RGB picture without a colour for yellow"):
        locate(tmp_path / "composite.png")


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ("https://example.org/cell.tif", ValueError, "https://example.org/cell.tif is a URL; expected a local file"),
        ("missing.tif", FileNotFoundError, "no file missing.tif"),
        ({"red": "a.png"}, FileNotFoundError, "no file a.png"),
        ({"dapi": "a.png"}, ValueError, "has the channels dapi; expected red, yellow, blue, green"),
        ({**dict.fromkeys(COLOURS, draw_crop(8, 8)), "mask": 1}, ValueError, "holds mask; expected.*'cell_mask'"),
        ({"image": draw_crop(), "mask": 1}, ValueError, "Beside 'image' is mask"),
        ({"image": draw_crop(2, 4, 8, 8)}, ValueError, "holds 2 cells"),
        (draw_crop(3, 8, 8), ValueError, "expected 4 planes"),
        (None, ValueError, "Image 0 is NoneType"),
        ({}, ValueError, "Image 0 has no planes; expected red, yellow, blue, green"),
        ({"image": {}}, ValueError, "Image 0 has no planes; expected red, yellow, blue, green"),
    ],
)
def test_inputs_that_cannot_work_are_refused_by_number(
    locate: Any, item: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        locate(item)
    with pytest.raises(error, match=message) as caught:
        locate([draw_crop(), item], batch_size=2)
    assert caught.value.__notes__ == ["This was input 1 of the list."]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0; expected a whole number above 0"),
        ({"threshold": 2}, "threshold=2; expected a score from 0 to 1"),
        ({"cutoff": 0.5}, "Unknown settings cutoff"),
        ({"normalize": "plane"}, "normalize='plane'"),
    ],
)
def test_options_that_cannot_work_are_refused(locate: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate(draw_crop(), **options)


def test_missing_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "cell.tif", draw_crop(8, 8))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImportError, match="needs tifffile: pip install tifffile"):
        read_file(tmp_path / "cell.tif")


# --- saving ------------------------------------------------------------------------------------------------------


def test_a_saved_pipeline_is_whole(locate: Any, tmp_path: Path) -> None:
    locate.save_pretrained(tmp_path / "saved")
    again = pipeline(model=str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert again(draw_crop()) == locate(draw_crop())
    again.save_pretrained(tmp_path / "twice")  # what loading does to the configuration must not spoil it
    for folder in ("saved", "twice"):
        configuration = json.loads((tmp_path / folder / "config.json").read_text())
        assert configuration["custom_pipelines"][TASK]["impl"] == "pipeline_subcell.SubCellPipeline"
        assert (tmp_path / folder / "pipeline_subcell.py").exists()
    assert pipeline(TASK, model=str(tmp_path / "twice"), pipeline_class=SubCellPipeline, device="cpu")(
        draw_crop()
    ) == locate(draw_crop())


@pytest.mark.slow
def test_works_where_the_package_is_not_installed(locate: Any, tmp_path: Path) -> None:
    locate.save_pretrained(tmp_path / "saved")
    crop = draw_crop()
    np.save(tmp_path / "crop.npy", crop)
    script = textwrap.dedent("""
        import json, sys
        from importlib.abc import MetaPathFinder

        class Blocker(MetaPathFinder):
            def find_spec(self, fullname, path=None, target=None):
                if fullname.split(".")[0] in ("subcell_hf", "tifffile", "imagecodecs"):
                    raise ModuleNotFoundError(f"No module named {fullname}")

        sys.meta_path.insert(0, Blocker())
        from transformers import pipeline

        locate = pipeline(model="saved", trust_remote_code=True, device="cpu")
        assert type(locate).__module__.startswith("transformers_modules"), type(locate)
        json.dump(locate("crop.npy"), open("out.json", "w"))
        locate.save_pretrained("again")
        assert pipeline(model="again", trust_remote_code=True, device="cpu")("crop.npy") == locate("crop.npy")
    """)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    run_program("-c", script, log=tmp_path / "log", cwd=tmp_path, env=environment)
    expected = locate(crop)
    got = json.loads((tmp_path / "out.json").read_text())
    assert [place["label"] for place in got] == [place["label"] for place in expected]
    assert [place["score"] for place in got] == pytest.approx([place["score"] for place in expected], abs=1e-6)
