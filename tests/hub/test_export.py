"""An export is a complete repository or nothing, and its card says what is true of the model."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from subcell_hf.errors import InputError
from subcell_hf.hub.cards.card_facts import REQUIRED, gather_facts, variant_names
from subcell_hf.hub.cards.model_card import CardModel, check_card, make_model_card
from subcell_hf.hub.publishing.export import check_export, export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.ontology import CHANNEL_VARIANTS
from tests.hub.tiny_models import save_tiny, write_facts, write_results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    sources = ExportSources(facts=write_facts(folder / "facts"), evaluations=(write_results(folder / "evaluation"),))
    model = save_tiny("SubCellForImageClassification", folder / "model")
    return export_model(model, folder / "out", repository="subcell/tiny", sources=sources)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_is_complete(exported: Path) -> None:
    files = check_export(exported)
    assert files.keys() >= {
        "README.md", "LICENSE", "CITATION.cff", "requirements.txt", "notebook.ipynb", "handler.py",
        "endpoint_images.py", "endpoint_batching.py", "config.json", "preprocessor_config.json", "model.safetensors",
        "modeling_subcell.py", "configuration_subcell.py", "image_processing_subcell.py", "pipeline_subcell.py",
        "example/red.png", "example/yellow.png", "example/blue.png", "example/green.png", "example/composite.png",
        "example/sheet.png", "pictures_subcell.py",
    }  # fmt: skip
    assert "subcell_hf" not in (exported / "handler.py").read_text().replace("subcell_hf_", "")
    assert yaml.safe_load((exported / "CITATION.cff").read_text())["references"][0]["doi"].startswith("10.1101/")
    assert (exported / "LICENSE").read_text().startswith("MIT License")
    nbformat.validate(nbformat.read(exported / "notebook.ipynb", as_version=4))
    assert str(exported.parent) not in "".join(map(str, contents(exported).values()))  # no path of this machine


def test_the_weights_are_those_of_the_model(exported: Path) -> None:
    given = load_file(exported.parent / "model" / "model.safetensors")
    found = load_file(exported / "model.safetensors")
    assert given.keys() == found.keys()
    assert all(torch.equal(given[name], found[name]) for name in given)


def test_the_example_is_a_cell(exported: Path) -> None:
    green = np.asarray(Image.open(exported / "example" / "green.png"))
    assert green.shape == (64, 64)
    assert green.std() > 5
    assert np.asarray(Image.open(exported / "example" / "composite.png")).shape == (64, 64, 3)


def test_the_same_model_exports_to_the_same_bytes_and_replaces(exported: Path, tmp_path: Path) -> None:
    sources = ExportSources(facts=write_facts(tmp_path), evaluations=(write_results(tmp_path / "evaluation"),))
    model, output = exported.parent / "model", tmp_path / "out"
    for _ in range(2):
        export_model(model, output, repository="subcell/tiny", sources=sources)
    assert contents(output) == contents(exported)
    assert {path.name for path in tmp_path.iterdir()} == {"facts.yaml", "evaluation", "out"}  # no leftovers


def test_the_card_says_what_is_true(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "transformers", "image-classification")
    assert data.model_name == "tiny"
    assert data["widget"][0]["src"] == "example/sheet.png"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("macro_map", 0.5, "test")
    assert result.metric_args == {"interval_low": 0.4, "interval_high": 0.6, "level": 0.95}
    table = "| --- | --- | --- | --- |\n| Simulated cells, test | Macro mAP | 0.500 | 0.400 – 0.600 (95 %) |"
    assert f"| data | metric | value | interval |\n{table}\n" in text
    assert "Pixel size: 0.8 µm" in text
    assert "| `yellow` | endoplasmic reticulum | plane 1 |" in text
    assert "* source: numbers out of a generator" in text
    assert "cut to 64 × 64 px" in text
    assert "{{" not in text
    assert "Device hours of the training were not recorded" in text


def test_a_card_with_missing_fields_is_refused_by_their_names(tmp_path: Path) -> None:
    model = save_tiny("SubCellModel", tmp_path / "model")
    with pytest.raises(InputError, match="lacks training_data, recipe, hyperparameters: give --run"):
        export_model(model, tmp_path / "out")
    (tmp_path / "facts.yaml").write_text("training_data: {a: b}\nrecipe: x\nhyperparameters: {a: 1}\nlimits: []\n")
    with pytest.raises(InputError, match="lacks limits:"):
        export_model(model, tmp_path / "out", sources=ExportSources(facts=tmp_path / "facts.yaml"))
    (tmp_path / "facts.yaml").write_text("training_data: HPA\nrecipe: x\nhyperparameters: {a: 1}\n")
    with pytest.raises(InputError, match="training_data must consist of `name: value` lines"):
        export_model(model, tmp_path / "out", sources=ExportSources(facts=tmp_path / "facts.yaml"))
    (tmp_path / "facts.yaml").write_text("colour: blue\n")
    with pytest.raises(InputError, match="has unknown fields: colour"):
        export_model(model, tmp_path / "out", sources=ExportSources(facts=tmp_path / "facts.yaml"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="lacks license, library_name, pipeline_tag, tags in its metadata"):
        check_card("---\nmodel_name: x\n---\n# x", "README.md")
    for damaged in ("model-index:\n- title: x", "tags: ["):
        with pytest.raises(InputError, match="invalid metadata"):
            check_card(f"---\n{damaged}\n---\n# x", "README.md")


@pytest.mark.parametrize("variant", variant_names())
def test_every_published_model_has_a_card(variant: str) -> None:
    method, channels = variant.split("-")[:2]
    classifies = variant.endswith("localization")
    config = SubCellConfig(
        channels=CHANNEL_VARIANTS[channels], position_embedding_type={"mae": "sincos", "vit": "learned"}[method]
    )
    config.architectures = ["SubCellForImageClassification" if classifies else "SubCellModel"]
    facts = gather_facts(config, f"subcell/{variant}", variant=variant)
    processor = SubCellImageProcessor(config.channels, 640, 0.0800885, do_center_crop=False, do_pad=False)
    card = make_model_card(CardModel(config, processor, 87_300_000), facts)
    data = check_card(str(card), variant)
    assert data.pipeline_tag == ("image-classification" if classifies else "image-feature-extraction")
    assert data.get("base_model") == (f"subcell/subcell-{method}-{channels}" if classifies else None)
    assert all(getattr(facts, name) for name in REQUIRED)
    assert "10,433 to train" in str(card)
    assert bool(data.eval_results) == (variant == "mae-ybg")
    assert ("| reported by |\n| --- | --- | --- | --- | --- |\n| JUMP pilot" in str(card)) == (variant == "mae-ybg")
    wrong = SubCellConfig(channels=["a", "b"])
    wrong.architectures = ["SubCellModel"]
    with pytest.raises(InputError, match=f"not the published {variant}: channels is"):
        gather_facts(wrong, "subcell/x", variant=variant)


def test_there_is_a_card_for_every_published_model() -> None:
    expected = {f"{m}-{c}{end}" for m in ("mae", "vit") for c in CHANNEL_VARIANTS for end in ("", "-localization")}
    assert set(variant_names()) == expected


def test_hyperparameters_of_the_cards_are_those_of_the_recipes() -> None:
    methods = yaml.safe_load((ROOT / "model_cards" / "published.yaml").read_text())["methods"]
    for method in methods.values():
        recipe = yaml.safe_load((ROOT / "recipes" / "configs" / f"{method['recipe']}.yaml").read_text())
        assert recipe["position_embedding_type"] == method["position_embedding_type"]
        shared = recipe.keys() & method["hyperparameters"].keys()
        assert len(shared) >= 8
        assert {name: recipe[name] for name in shared} == {name: method["hyperparameters"][name] for name in shared}


def test_only_the_encoder(tmp_path: Path) -> None:
    model = save_tiny("SubCellForPreTraining", tmp_path / "model")
    sources = ExportSources(facts=write_facts(tmp_path))
    folder = export_model(model, tmp_path / "out", sources=sources, encoder_only=True)
    keys = load_file(folder / "model.safetensors").keys()
    assert not [key for key in keys if key.startswith(("decoder", "subcell", "probe"))]
    images = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        expected = AutoModel.from_pretrained(model).eval()(images).pooler_output
        assert torch.equal(AutoModel.from_pretrained(folder).eval()(images).pooler_output, expected)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["SubCellModel"]


def test_channels_of_another_assay(tmp_path: Path) -> None:
    model = save_tiny("SubCellModel", tmp_path / "model", channels=["er", "DNA 405/450", "mito"])
    folder = export_model(model, tmp_path / "out", sources=ExportSources(facts=write_facts(tmp_path)))
    assert {path.stem for path in (folder / "example").iterdir()} == {"er", "channel_1", "mito", "composite", "sheet"}
    assert "| `DNA 405/450` | as named | plane 1 |" in (folder / "README.md").read_text()


def test_broken_models_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    sources = ExportSources(facts=write_facts(tmp_path))
    model = save_tiny("SubCellModel", tmp_path / "model")
    weights = load_file(model / "model.safetensors")

    def refuse(message: str) -> None:
        with pytest.raises(InputError, match=message):
            export_model(model, tmp_path / "out", sources=sources)
        assert not (tmp_path / "out").exists()

    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[:-100])
    refuse("damaged or truncated")
    (model / "model.safetensors").write_bytes(b"\xff" * 8 + content[8:])
    refuse("damaged or truncated")
    save_file(
        {k: v for k, v in weights.items() if k != "layernorm.weight"}, model / "model.safetensors", {"format": "pt"}
    )
    refuse("1 are missing, such as layernorm.weight")
    weights["layernorm.bias"][0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    refuse(r"NaN or infinite weights in layernorm\.bias")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"x")
    refuse("has pytorch_model.bin, a pickle, which is not opened")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    refuse(r"names the file '\.\./\.\./secret\.safetensors'")


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    model = save_tiny("SubCellModel", tmp_path / "model")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is not an earlier export"):
        export_model(model, tmp_path / "precious", sources=ExportSources(facts=write_facts(tmp_path)))
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "x"
    (tmp_path / "precious" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"lacks README.md, preprocessor_config.json, handler.py"):
        check_export(tmp_path / "precious")
