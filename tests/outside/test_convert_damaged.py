"""Damaged or hostile checkpoints and yaml files in `subcell convert`: refused in one sentence, never run."""

import contextlib
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.weights.conversion import convert
from subcell_hf.weights.published_files import StateDict, read_state_dict
from tests.model.published import draw_published_weights

YAML = "model_config:\n  vit_model: {image_size: [16, 16], num_attention_heads: 4, layer_norm_eps: 1.0e-12}\n"
KERNEL = "encoder.embeddings.patch_embeddings.projection.weight"


class Canary:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def draw() -> tuple[StateDict, StateDict]:
    encoder, (classifier,) = draw_published_weights(
        torch.Generator().manual_seed(5),
        channels=2, width=32, layers=1, heads_of_pool=1, patch=8, grid=(2, 2), members=1,
    )  # fmt: skip
    return encoder, classifier


@pytest.fixture
def files(tmp_path: Path) -> Path:
    encoder, classifier = draw()
    torch.save(encoder, tmp_path / "encoder.pth")
    torch.save(classifier, tmp_path / "classifier.pth")
    (tmp_path / "config.yaml").write_text(YAML)
    return tmp_path


def convert_all(files: Path) -> Path:
    return convert(files / "encoder.pth", files / "out", "bg", [files / "classifier.pth"], files / "config.yaml")


def refuse(files: Path, message: str) -> str:
    with pytest.raises(InputError, match=message) as raised:
        convert_all(files)
    assert not (files / "out").exists()
    return str(raised.value)


def test_a_wrong_bit_never_passes(files: Path) -> None:
    """Either a member's checksum differs, or the bit is in bytes that no number comes from."""
    path, (sound, _) = files / "encoder.pth", draw()
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_state_dict(path)
        except InputError:
            refused += 1
        else:
            assert all(torch.equal(found[name], value) for name, value in sound.items())
    assert refused > 50


def test_the_checksum_is_named(files: Path) -> None:
    content = bytearray((files / "encoder.pth").read_bytes())
    with zipfile.ZipFile(files / "encoder.pth") as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data = archive.filename and content.find(largest.filename.encode()) + 200
    content[int(data or 0)] ^= 1
    (files / "encoder.pth").write_bytes(content)
    refuse(files, r"encoder\.pth is damaged: the checksum of its member .*data/\d+ differs")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["encoder.pth", "classifier.pth"])
def test_weights_that_are_not_finite(name: str, value: float, legacy: bool, files: Path) -> None:
    encoder, classifier = draw()
    weights = encoder if name == "encoder.pth" else classifier
    list(weights.values())[-1].view(-1)[0] = value
    torch.save(weights, files / name, _use_new_zipfile_serialization=not legacy)
    text = refuse(files, "NaN or infinite weights in")
    assert name in text


def test_a_sound_legacy_file_converts(files: Path) -> None:
    encoder, classifier = draw()
    expected = convert_all(files)
    for name, weights in (("encoder.pth", encoder), ("classifier.pth", classifier)):
        torch.save(weights, files / name, _use_new_zipfile_serialization=False)
    made = convert(files / "encoder.pth", files / "again", "bg", [files / "classifier.pth"], files / "config.yaml")
    assert (made / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_the_unpickler_raises(legacy: bool, files: Path) -> None:
    """Changed pickles under right checksums: refused or equal in shape, with nothing but our error."""
    path = files / "encoder.pth"
    torch.save(draw()[0], path, _use_new_zipfile_serialization=not legacy)
    content, rng = path.read_bytes(), random.Random(1)
    with zipfile.ZipFile(io.BytesIO(content)) if not legacy else io.BytesIO() as archive:
        members = {} if legacy else {name: archive.read(name) for name in archive.namelist()}
    for _ in range(60):
        target = next((name for name in members if name.endswith("data.pkl")), "")
        damaged = bytearray(members[target] if members else content)
        for _ in range(rng.choice((1, 2, 5))):
            damaged[rng.randrange(min(len(damaged), 4000))] = rng.randrange(256)
        if members:
            with zipfile.ZipFile(path, "w") as made:
                for name, member in members.items():
                    made.writestr(name, bytes(damaged) if name == target else member)
        else:
            path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            read_state_dict(path)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "text": (lambda path: path.write_bytes(b"404: Not Found"), "encoder.pth"),
    "HTML": (lambda path: path.write_bytes(b"<!DOCTYPE html><html></html>"), "encoder.pth"),
    "pointer": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-3000]), "truncated or damaged"),
    "begun": (lambda path: path.write_bytes(path.read_bytes()[:100]), "truncated or damaged"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "encoder.pth"),
    "safetensors": (lambda path: save_file(draw()[0], path), "safetensors file, expected a .pth"),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "contains a list"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "contains a Tensor"),
    "nothing": (lambda path: torch.save({}, path), "contains a dict"),
    "an object": (lambda path: torch.save({"a": ViTConfig()}, path), "a pickle can run code"),
    "whole numbers": (lambda path: torch.save({"a": torch.ones(2, dtype=torch.int8)}, path), "a is int8"),
    "complex": (lambda path: torch.save({"a": torch.ones(2, dtype=torch.complex64)}, path), "a is complex64"),
    "sparse": (lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path), "encoder.pth"),
    "no memory": (lambda path: torch.save({"a": torch.empty(3, device="meta")}, path), "encoder.pth"),
    "endless": (lambda path: torch.save({"a": torch.ones(1).expand(2**40)}, path), "completely stored in the file"),
    "ViT": (lambda path: torch.save(ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
            intermediate_size=8, image_size=32)).state_dict(), path), "not a SubCell checkpoint"),
    "flat kernel": (lambda path: torch.save(draw()[0] | {KERNEL: torch.ones(32)}, path), "expected 4 axes"),
    "positions": (lambda path: torch.save(draw()[0] | {"encoder.embeddings.position_embeddings": torch.ones(1, 5, 7)},
                  path), r"expected \[1, patches"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_sound_encoder(name: str, files: Path) -> None:
    damage, message = DAMAGES[name]
    damage(files / "encoder.pth")
    assert "encoder.pth" in refuse(files, message)


def test_archives_that_torch_does_not_write(files: Path) -> None:
    path = files / "encoder.pth"
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    refuse(files, "compressed members")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (*members, members[-1]):
            archive.writestr(name, content)
    refuse(files, "members with equal names")


@pytest.mark.parametrize("where", ["plain pickle", "legacy", "zip", "member", "classifier"])
def test_no_code_of_a_checkpoint_is_run(where: str, files: Path) -> None:
    marker, path = files / "was-run", files / "encoder.pth"
    canary: Any = Canary(marker)
    if where == "plain pickle":
        path.write_bytes(pickle.dumps(canary))
    elif where == "member":
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, pickle.dumps(canary) if name.endswith("data.pkl") else content)
    elif where == "classifier":
        torch.save(draw()[1] | {"x": canary}, files / "classifier.pth")
    else:
        torch.save(draw()[0] | {"x": canary}, path, _use_new_zipfile_serialization=where == "zip")
    refuse(files, "a pickle can run code")
    assert not marker.exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "empty": (b"", "has no section"),
    "a list": (b"- 1\n- 2\n", "has no section"),
    "no section": (b"model_config: [1]\n", "has no section"),
    "a section that is a list": (b"model_config: {vit_model: [1, 2]}\n", "has no section"),
    "UTF-16": (YAML.encode("utf-16"), "not valid YAML"),
    "cp1252": (b"# \xe9\n" + YAML.encode(), "not valid YAML"),
    "tag": (b"!!python/object/apply:os.mkdir [was-run]\n", "not valid YAML"),
    "tag inside": (YAML.encode() + b"x: !!python/object/apply:os.mkdir [was-run]\n", "not valid YAML"),
    "bomb": (BOMB.encode() + YAML.encode(), "repeats itself by aliases"),
    "bomb in a field": (BOMB.encode() + b"model_config: {vit_model: {num_attention_heads: *i}}\n", "by aliases"),
    "loop": (b"a: &a [*a]\n" + YAML.encode(), "not valid YAML"),
    "deep": (b"[" * 5000, "not valid YAML"),
    "digits": (b"a: " + b"9" * 5000 + b"\n", "not valid YAML"),
    "a date that is none": (b"a: 2001-99-99\n", "not valid YAML"),
    "cut": (b"model_config: {vit_model: {image_size: [16,", "not valid YAML"),
    "text for a number": (YAML.replace("4,", "four,").encode(), "num_attention_heads: 'four'"),
    "heads as a list": (YAML.replace("4,", "[4],").encode(), "num_attention_heads"),
    "no heads": (YAML.replace("4,", "0,").encode(), "num_attention_heads"),
    "other heads": (YAML.replace("4,", "5,").encode(), "num_attention_heads"),
    "NaN": (YAML.replace("1.0e-12", ".nan").encode(), "layer_norm_eps"),
    "one edge": (YAML.replace("[16, 16]", "[16]").encode(), "image_size"),
    "edges as text": (YAML.replace("[16, 16]", "[a, b]").encode(), "image_size"),
    "no image": (YAML.replace("[16, 16]", "0").encode(), "image_size"),
    "huge image": (YAML.replace("[16, 16]", "16000000000").encode(), "image_size"),
    "another model's": (YAML.replace("image_size", "hidden_size: 768, image_size").encode(), "does not belong"),
    "unknown activation": (YAML.replace("image_size", "hidden_act: magic, image_size").encode(), "magic"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_damaged_yaml(name: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    content, message = YAMLS[name]
    (files / "config.yaml").write_bytes(content)
    text = refuse(files, message)
    assert "config.yaml" in text or "encoder.pth" in text
    assert len(text) < 2000
    assert not (files / "was-run").exists()


def test_a_byte_order_mark_is_no_damage(files: Path) -> None:
    expected = (convert_all(files) / "config.json").read_bytes()
    (files / "config.yaml").write_bytes(b"\xef\xbb\xbf" + YAML.encode())
    labels = files / "labels.txt"
    labels.write_bytes("\ufeffFirst\n".encode() + b"".join(b"L%d\n" % n for n in range(30)))
    made = convert(files / "encoder.pth", files / "again", "bg", [files / "classifier.pth"], files / "config.yaml")
    assert (made / "config.json").read_bytes() == expected
    arguments = ["convert", "--encoder", files / "encoder.pth", "--classifier", files / "classifier.pth",
                 "--channels", "bg", "--config", files / "config.yaml", "--labels", labels,
                 "--output", files / "named"]  # fmt: skip
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    assert json.loads((files / "named" / "config.json").read_bytes())["id2label"]["0"] == "First"


def test_a_classifier_given_twice(files: Path) -> None:
    (files / "link.pth").symlink_to(files / "classifier.pth")
    with pytest.raises(InputError, match=r"link\.pth is given twice"):
        convert(
            files / "encoder.pth",
            files / "out",
            "bg",
            [files / "classifier.pth", files / "link.pth"],
            files / "config.yaml",
        )


def test_the_command_line_shows_a_sentence(files: Path) -> None:
    (files / "encoder.pth").write_bytes((files / "encoder.pth").read_bytes()[:-3000])
    arguments = ["convert", "--encoder", str(files / "encoder.pth"), "--channels", "bg", "--output", str(files / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "truncated or damaged" in result.output.replace("\n", " ")
