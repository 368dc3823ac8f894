"""A model's folder with a broken file gives one sentence that names the file, whichever command is asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ViTConfig, ViTModel
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.hub.demo.demo_model import DemoModel
from subcell_hf.hub.demo.space import local_settings
from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.inference.models.loading import CellEncoder, find_models
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.storage.model_folders import check_model, load_weights
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import build_config
from subcell_hf.weights.model_names import find_folder
from subcell_hf.weights.untrained import save_untrained
from tests.hub.tiny_models import save_tiny, write_facts

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
Damage = Callable[[Path], object]


def embed(folder: Path) -> None:
    (found,) = find_models(str(folder))
    CellEncoder(found, torch.device("cpu"), "fp32")


def export(folder: Path) -> None:
    export_model(folder, folder.parent / "out", sources=ExportSources(facts=write_facts(folder.parent)))


def untrained(folder: Path) -> None:
    save_untrained(str(folder), folder.parent / "out")


def pretrain(folder: Path) -> None:
    build_config(parse_arguments(["--init_checkpoint", str(folder)]))
    load_weights(SubCellModel, folder)


def demo(folder: Path) -> None:
    local_settings(folder, folder.parent / "examples", None)


COMMANDS = {command.__name__: command for command in (embed, export, untrained, pretrain, demo)}


def content(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def field(name: str, **values: Any) -> Damage:
    return content(name, lambda text: json.dumps(json.loads(text) | values).encode())


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, {"format": "pt"})

    return damage


def link(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/nowhere/blob")

    return damage


def another_family(folder: Path) -> None:
    shutil.rmtree(folder)
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    ).save_pretrained(folder)


ALL, JSON = (CONFIG, PROCESSOR, WEIGHTS), (CONFIG, PROCESSOR)
DAMAGES: dict[str, tuple[str, Damage, str]] = {
    **{f"{name} cut": (name, content(name, lambda text: text[:-40]), "damaged") for name in ALL},
    **{f"{name} empty": (name, content(name, lambda _: b""), "damaged") for name in ALL},
    **{f"{name} pointer": (name, content(name, lambda _: POINTER), "git lfs pull") for name in ALL},
    **{f"{name} linked": (name, link(name), "which does not exist") for name in ALL},
    **{f"{name} UTF-16": (name, content(name, lambda text: text.decode().encode("utf-16")), "JSON") for name in JSON},
    **{f"{name} a list": (name, content(name, lambda _: b"[1]"), "holds a list") for name in JSON},
    **{f"{name} nested": (name, content(name, lambda _: b"[" * 100_000), "not JSON") for name in JSON},
    **{f"{name} digits": (name, content(name, lambda _: b'{"a": ' + b"9" * 5000 + b"}"), "not JSON") for name in JSON},
    "type": (CONFIG, field(CONFIG, hidden_size="32"), "hidden_size"),
    "list": (CONFIG, field(CONFIG, channels={"red": 1, "blue": None}), "channels|layers|weights"),
    "NaN eps": (CONFIG, field(CONFIG, layer_norm_eps=float("nan")), "layer_norm_eps"),
    "NaN pixel": (CONFIG, field(CONFIG, pixel_size_um=float("nan")), "pixel_size_um"),
    "endless pixel": (CONFIG, field(CONFIG, pixel_size_um=float("inf")), "pixel_size_um"),
    "huge image": (CONFIG, field(CONFIG, image_size=16 * 10**9), "image_size|px"),
    "huge width": (CONFIG, field(CONFIG, hidden_size=2**40, pooling_hidden_size=2**40), "config.json"),
    "huge depth": (CONFIG, field(CONFIG, num_hidden_layers=10**9), "layers"),
    "other width": (CONFIG, field(CONFIG, hidden_size=64), "another shape"),
    "other depth": (CONFIG, field(CONFIG, num_hidden_layers=2), "missing"),
    "other pooling": (CONFIG, field(CONFIG, pooling_type="attention"), "not part of that model"),
    "without biases": (CONFIG, field(CONFIG, qkv_bias=False), "not part of that model"),
    "no class": (CONFIG, field(CONFIG, architectures=None), "SubCellModel"),
    "foreign class": (CONFIG, field(CONFIG, architectures=[["x"]]), "SubCellModel"),
    "labels with a gap": (CONFIG, field(CONFIG, id2label={"0": "a", "7": "b"}, label2id={"a": 0, "b": 7}), "id2label"),
    "labels twice": (CONFIG, field(CONFIG, id2label={"0": "a", "1": "a"}, label2id={"a": 1}), "id2label"),
    "other family": (CONFIG, another_family, "'vit'"),
    "foreign processor": (PROCESSOR, field(PROCESSOR, image_processor_type="ViTImageProcessor"), "ViTImageProcessor"),
    "processor's channels": (PROCESSOR, field(PROCESSOR, channels=["blue", "red", "yellow", "green"]), "makes blue"),
    "a switch as text": (PROCESSOR, field(PROCESSOR, do_normalize="false"), "do_normalize"),
    "processor's size": (PROCESSOR, field(PROCESSOR, size={"height": 10**9, "width": 10**9}), "size"),
    "processor's pixel": (PROCESSOR, field(PROCESSOR, pixel_size_um=float("nan")), "pixel_size_um"),
    "missing tensor": (WEIGHTS, tensors(lambda w: w.pop("layernorm.weight")), "missing, such as layernorm.weight"),
    "extra tensor": (WEIGHTS, tensors(lambda w: w.update(x=torch.ones(1))), "not part of that model, such as x"),
    "whole numbers": (WEIGHTS, tensors(lambda w: w.update({"layernorm.bias": w["layernorm.bias"].to(torch.int8)})),
                      "layernorm.bias: .* of other numbers, expected .* of floating-point"),
    "other shape": (WEIGHTS, tensors(lambda w: w.update({"layernorm.bias": torch.ones(3)})), r"layernorm.bias: \[3\]"),
    "HTML": (WEIGHTS, content(WEIGHTS, lambda _: b"<!DOCTYPE html><html>404</html>"), "damaged"),
}  # fmt: skip
NOT_FINITE = {
    "NaN": tensors(lambda w: w["layernorm.bias"].fill_(float("nan"))),
    "infinite": tensors(lambda w: w["embeddings.cls_token"].mul_(float("inf"))),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("SubCellModel", tmp_path_factory.mktemp("sound") / "model")


@pytest.mark.parametrize("name", DAMAGES)
def test_a_broken_file_is_named_in_one_sentence(name: str, sound: Path, tmp_path: Path) -> None:
    file, damage, message = DAMAGES[name]
    folder = shutil.copytree(sound, tmp_path / "model")
    damage(folder)
    for command in COMMANDS.values():
        if file == PROCESSOR and command is pretrain:
            continue  # training begins from checkpoints, which have no image processor
        with pytest.raises(InputError, match=message) as raised:
            command(folder)
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NOT_FINITE)
def test_weights_that_are_not_finite_are_refused_by_name(name: str, sound: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    NOT_FINITE[name](folder)
    for command in (embed, export, pretrain):
        with pytest.raises(InputError, match=r"NaN or infinite weights in (layernorm\.bias|embeddings\.cls_token)"):
            command(folder)


def test_a_byte_order_mark_is_no_damage(sound: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    for name in (CONFIG, PROCESSOR):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    for command in (embed, untrained, pretrain):
        command(folder)


INDICES = {
    "cut": (lambda text: text[:30], "not JSON"),
    "pointer": (lambda _: POINTER, "git lfs pull"),
    "no names": (lambda _: b'{"weight_map": {}}', "weight_map"),
    "a list": (lambda _: b'{"weight_map": ["a"]}', "weight_map"),
    "numbers": (lambda text: json.dumps(json.loads(text) | {"weight_map": {"a": 5}}).encode(), "without folders"),
    "lists": (lambda text: json.dumps(json.loads(text) | {"weight_map": {"a": ["b"]}}).encode(), "without folders"),
    "no metadata": (lambda text: json.dumps({"weight_map": json.loads(text)["weight_map"]}).encode(), "metadata"),
    "elsewhere": (lambda text: text.replace(b"model-00001", b"../model-00001"), "without folders"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_a_broken_index_of_weights_is_named(name: str, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    SubCellModel.from_pretrained(sound).save_pretrained(folder, max_shard_size="20KB")
    shutil.copy(sound / PROCESSOR, folder)
    embed(folder)
    change, message = INDICES[name]
    index = folder / "model.safetensors.index.json"
    index.write_bytes(change(index.read_bytes()))
    for command in (embed, export, untrained, pretrain):
        with pytest.raises(InputError, match=message) as raised:
            command(folder)
        assert str(index) in str(raised.value)
    with pytest.raises((ValueError, OSError)):
        SubCellModel.from_pretrained(folder)


def test_what_is_no_model_at_all(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command in (embed, untrained, export, demo):
        with pytest.raises(InputError, match=r"empty has no config\.json"):
            command(tmp_path / "empty")
    with pytest.raises(InputError, match="neither a folder, nor an id"):
        find_folder(tmp_path / "nothing")
    save_tiny("SubCellModel", tmp_path / "run" / "model")
    with pytest.raises(InputError, match=r"run/model.*give that folder"):
        embed(tmp_path / "run")


def test_a_hub_id_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("lab/model", "lab/bad name!"):
        with pytest.raises(InputError, match="was not found on the Hub") as raised:
            find_folder(name)
        assert "\n" not in str(raised.value)


def test_the_command_line_ends_with_2_and_no_traceback(tmp_path: Path) -> None:
    folder = save_tiny("SubCellForImageClassification", tmp_path / "model")
    (folder / WEIGHTS).write_bytes(POINTER)
    out = ["--output", str(tmp_path / "out")]
    for arguments in (["embed", str(tmp_path), "--model", str(folder), *out], ["untrained", str(folder), *out],
                      ["export", str(folder), *out], ["serve", str(folder)], ["demo", str(folder)]):  # fmt: skip
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, arguments
        assert "git lfs pull" in result.output.replace("\n", " ")
        assert not isinstance(result.exception, ValueError)


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    """Only `AutoModel.from_pretrained(trust_remote_code=True)` runs it, which is what that switch is for."""
    folder = save_tiny("SubCellModel", tmp_path / "model")
    hostile = f"import os\nos.mkdir({str(tmp_path / 'was-run')!r})\n"
    for path in folder.glob("*.py"):
        path.write_text(hostile + path.read_text())
    field(
        CONFIG, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, custom_pipelines={"x": {"impl": "e"}}
    )(folder)
    (folder / "evil.py").write_text(hostile)
    for command in COMMANDS.values():
        command(folder)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    EndpointHandler(str(folder), trust_remote_code=False)  # as `subcell serve` loads it
    DemoModel(str(folder), trust_remote_code=False)
    AutoModel.from_pretrained(folder)
    assert check_model(folder).hidden_size == 32
    assert not (tmp_path / "was-run").exists()
