"""Published weights give the published numbers, and nothing else is taken for them."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining
from typer.testing import CliRunner

from subcell_hf import ontology
from subcell_hf.cli import app
from subcell_hf.weights.conversion import convert
from subcell_hf.weights.published_files import ConversionError

from ..model.published import draw_published_weights, published_forward


@pytest.fixture(scope="module")
def rybg(golden_files: Path) -> Path:
    return golden_files / "small_rybg"


@pytest.fixture(scope="module")
def converted(rybg: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(
        encoder=rybg / "encoder.pth",
        classifiers=[rybg / "classifier_s0.pth", rybg / "classifier_s1.pth"],
        config=rybg / "model_config.yaml",
        channels="rybg",
        output=tmp_path_factory.mktemp("converted") / "rybg",
    )


def _compare(outputs, golden, heads_last_layer: bool = True) -> None:
    torch.testing.assert_close(outputs.pooler_output, torch.tensor(golden["pool_op"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.pooler_attentions, torch.tensor(golden["pool_attn"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.logits.sigmoid(), torch.tensor(golden["probabilities"]), atol=1e-5, rtol=0)
    if heads_last_layer:
        maps = outputs.attentions[-1][:, :, 0, 1:].unflatten(-1, golden["attentions"].shape[-2:])
        torch.testing.assert_close(maps, torch.tensor(golden["attentions"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", ["", "_96x96", "_64x96"])
def test_golden_numbers_with_classifiers(rybg: Path, converted: Path, size: str) -> None:
    golden = np.load(rybg / f"output{size}.npz")
    model = AutoModelForImageClassification.from_pretrained(converted)
    processor = AutoImageProcessor.from_pretrained(converted)
    inputs = processor(np.load(rybg / f"input{size}.npy"))
    np.testing.assert_allclose(inputs["pixel_values"], golden["input_norm"], atol=1e-6)
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
        tokens = AutoModel.from_pretrained(converted)(**inputs).last_hidden_state
    _compare(outputs, golden)
    torch.testing.assert_close(tokens, torch.tensor(golden["last_hidden_state"]), atol=1e-5, rtol=0)
    assert model.config.id2label[30] == "Negative"
    assert outputs.member_logits.shape == (2, 2, 31)


def test_golden_numbers_of_the_two_channel_model(golden_files: Path, tmp_path: Path) -> None:
    folder = golden_files / "small_bg"
    convert(
        folder / "encoder.pth",
        tmp_path / "bg",
        "bg",
        [folder / "classifier.pth"],
        folder / "model_config.yaml",
        crop_size_px=64,
    )
    golden = np.load(folder / "output.npz")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "bg")
    inputs = AutoImageProcessor.from_pretrained(tmp_path / "bg")(np.load(folder / "input.npy"))
    with torch.no_grad():
        outputs = model(**inputs, output_attentions=True)
    _compare(outputs, golden)
    assert model.config.channels == ["blue", "green"]


GEOMETRIES = [
    {
        "channels": 2,
        "width": 32,
        "layers": 1,
        "heads_of_pool": 1,
        "patch": 8,
        "grid": (4, 4),
        "heads": 4,
        "image": (32, 32),
    },
    {
        "channels": 3,
        "width": 48,
        "layers": 3,
        "heads_of_pool": 3,
        "patch": 16,
        "grid": (3, 3),
        "heads": 3,
        "image": (32, 80),
    },
    {
        "channels": 5,
        "width": 32,
        "layers": 2,
        "heads_of_pool": 2,
        "patch": 8,
        "grid": (2, 5),
        "heads": 2,
        "image": (24, 40),
    },
    {
        "channels": 1,
        "width": 64,
        "layers": 2,
        "heads_of_pool": 2,
        "patch": 16,
        "grid": (2, 2),
        "heads": 1,
        "image": (32, 32),
    },
]


@pytest.mark.parametrize(
    "geometry", GEOMETRIES, ids=lambda g: f"{g['channels']}ch-{g['heads_of_pool']}pool-p{g['patch']}"
)
def test_other_geometries(geometry: dict, tmp_path: Path) -> None:
    geometry = dict(geometry)
    heads, image, grid = geometry.pop("heads"), geometry.pop("image"), geometry["grid"]
    generator = torch.Generator().manual_seed(5)
    encoder, classifiers = draw_published_weights(generator, **geometry)
    torch.save(encoder, tmp_path / "encoder.pth")
    paths = [tmp_path / f"classifier_{n}.pth" for n in range(len(classifiers))]
    for path, weights in zip(paths, classifiers, strict=True):
        torch.save(weights, path)
    size = [edge * geometry["patch"] for edge in grid]
    (tmp_path / "model.yaml").write_text(
        f"model_config: {{vit_model: {{image_size: {size}, num_attention_heads: {heads}}}}}"
    )
    names = [f"stain{n}" for n in range(geometry["channels"])]
    convert(tmp_path / "encoder.pth", tmp_path / "out", names, paths, tmp_path / "model.yaml")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    images = torch.rand(2, geometry["channels"], *image, generator=generator)
    with torch.no_grad():
        ours = model(images)
        tokens = model.subcell(images).last_hidden_state
    theirs = published_forward(encoder, classifiers, images, heads, grid)
    torch.testing.assert_close(ours.pooler_output, theirs["pool_op"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pooler_attentions, theirs["pool_attn"], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logits.sigmoid(), theirs["probabilities"], atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens, theirs["last_hidden_state"], atol=1e-5, rtol=0)


def test_position_kind_is_read_from_the_weights(tmp_path: Path) -> None:
    from subcell_hf.model.positions_subcell import sincos_position_embeddings

    encoder, _ = draw_published_weights(
        torch.Generator().manual_seed(0), channels=2, width=64, layers=1, heads_of_pool=2, patch=16, grid=(2, 2)
    )
    torch.save(encoder, tmp_path / "vit.pth")
    encoder["encoder.embeddings.position_embeddings"] = sincos_position_embeddings(64, 2, 2)
    torch.save(encoder, tmp_path / "mae.pth")
    for name, kind in (("vit", "learned"), ("mae", "sincos")):
        convert(tmp_path / f"{name}.pth", tmp_path / name, "bg")
        assert AutoModel.from_pretrained(tmp_path / name).config.position_embedding_type == kind


def test_lightning_checkpoint_with_and_without_its_pretraining_parts(golden_files: Path, tmp_path: Path) -> None:
    golden = np.load(golden_files / "losses" / "mae_small.npz")
    state = {key[2:]: torch.tensor(golden[key]) for key in golden if key.startswith("w.")}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 7, "optimizer_states": []}, tmp_path / "last.ckpt")
    options = {"channels": "rybg", "num_attention_heads": 4}
    encoder = AutoModel.from_pretrained(convert(tmp_path / "last.ckpt", tmp_path / "encoder", **options))
    torch.testing.assert_close(encoder.layers[1].mlp.fc2.bias, state["encoder.encoder.layer.1.output.dense.bias"])
    whole = convert(tmp_path / "last.ckpt", tmp_path / "whole", keep_pretraining=True, labels=None, **options)
    model = AutoModelForPreTraining.from_pretrained(whole)
    torch.testing.assert_close(model.decoder.prediction.weight, state["decoder.decoder_pred.weight"])
    torch.testing.assert_close(model.cell_projection[6].weight, state["ssl_model.projector.mlp.6.weight"])
    assert model.config.protein_centroid_weight == 0
    assert torch.equal(AutoModel.from_pretrained(whole).layernorm.weight, encoder.layernorm.weight)


def test_command_line(rybg: Path, tmp_path: Path) -> None:
    arguments = ["convert", "--encoder", str(rybg / "encoder.pth"), "--classifier", str(rybg / "classifier_s0.pth")]
    arguments += [
        "--config",
        str(rybg / "model_config.yaml"),
        "--channels",
        "rybg",
        "--output",
        str(tmp_path / "model"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "model") in result.output
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "model").config.classifier_ensemble_size == 1
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "exists and is not an empty folder" in again.output


class _Attack:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_that_runs_code_is_refused_unopened(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": {}, "hyper_parameters": _Attack(marker)}, tmp_path / "zip.ckpt")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Attack(marker)))
    for name in ("zip.ckpt", "raw.pth"):
        with pytest.raises(ConversionError, match="a pickle can run code"):
            convert(tmp_path / name, tmp_path / "out", "rybg")
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def _tiny(tmp_path: Path, change=lambda weights: None) -> Path:
    encoder, _ = draw_published_weights(
        torch.Generator().manual_seed(0), channels=4, width=64, layers=1, heads_of_pool=2, patch=16, grid=(2, 2)
    )
    change(encoder)
    torch.save(encoder, tmp_path / "encoder.pth")
    return tmp_path / "encoder.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("encoder.layernorm.weight"), "missing: layernorm.weight"),
        (lambda w: w.update({"encoder.extra": torch.ones(1)}), r"Unexpected keys \(1\): encoder.extra"),
        (lambda w: w.update({"encoder.layernorm.bias": torch.ones(3)}), r"layernorm.bias: \[3\], expected \[64\]"),
        (lambda w: w.pop("pool_model.attention.weight"), "pooler.attention.score.weight"),
        (lambda w: w.update({"step": 3}), "expected tensors only.*step"),
        (
            lambda w: w.update({"encoder.embeddings.position_embeddings": torch.ones(1, 8, 64)}),
            "7 patches, not a square number",
        ),
    ],
)
def test_wrong_keys_are_listed_and_nothing_is_written(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(_tiny(tmp_path, change), tmp_path / "out", "rybg")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pth"]


def test_wrong_companions_are_refused(tmp_path: Path) -> None:
    encoder = _tiny(tmp_path)
    with pytest.raises(ConversionError, match="has 4 input channels, but channels has 2: blue, green"):
        convert(encoder, tmp_path / "out", "bg")
    with pytest.raises(ConversionError, match=r"nowhere\.pth does not exist"):
        convert(tmp_path / "nowhere.pth", tmp_path / "out", "rybg")
    (tmp_path / "noise.pth").write_bytes(b"PK\x03\x04" + bytes(range(200)))
    with pytest.raises(ConversionError, match=r"noise\.pth"):
        convert(tmp_path / "noise.pth", tmp_path / "out", "rybg")
    (tmp_path / "cut.pth").write_bytes(encoder.read_bytes()[:5000])
    with pytest.raises(ConversionError, match=r"cut\.pth"):
        convert(tmp_path / "cut.pth", tmp_path / "out", "rybg")
    (tmp_path / "other.yaml").write_text("model_config: {vit_model: {hidden_size: 768}}")
    with pytest.raises(ConversionError, match="hidden_size: 768, but 64 in the weights"):
        convert(encoder, tmp_path / "out", "rybg", config=tmp_path / "other.yaml")
    (tmp_path / "empty.yaml").write_text("a: 1")
    with pytest.raises(ConversionError, match=r"no section model_config\.vit_model"):
        convert(encoder, tmp_path / "out", "rybg", config=tmp_path / "empty.yaml")
    torch.save({"0.weight": torch.ones(3, 128), "encoder.x": torch.ones(1)}, tmp_path / "classifier.pth")
    with pytest.raises(ConversionError, match=r"unexpected keys: encoder\.x; missing keys: 0\.bias"):
        convert(encoder, tmp_path / "out", "rybg", [tmp_path / "classifier.pth"])
    for name, outputs in (("a", 31), ("b", 30)):
        torch.save({"0.weight": torch.ones(outputs, 128), "0.bias": torch.ones(outputs)}, tmp_path / f"{name}.pth")
    with pytest.raises(ConversionError, match="members of an ensemble must agree"):
        convert(encoder, tmp_path / "out", "rybg", [tmp_path / "a.pth", tmp_path / "b.pth"])
    with pytest.raises(ConversionError, match="Got 2 labels, expected 31"):
        convert(encoder, tmp_path / "out", "rybg", [tmp_path / "a.pth"], labels=["x", "y"])
    with pytest.raises(ValueError, match="Unknown channels 'rgb'"):
        convert(encoder, tmp_path / "out", "rgb")
    assert not (tmp_path / "out").exists()


def test_ontology_orders_are_the_published_ones() -> None:
    assert len(ontology.training_locations()) == 35
    assert ontology.reported_locations()[11] == "Golgi apparatus"
    assert ontology.challenge_locations()[17:] == ("Vesicles and punctate cytosolic patterns", "Negative")
    assert ontology.location_colours()["Mitochondria"] == "#ffff00"
    assert ontology.group_location("Centriolar satellite", "grouping_3") == "Cytosol"
    assert ontology.group_location("Aggresome", "grouping_1") is None
