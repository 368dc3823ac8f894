"""Damaged and hostile folders: loading names the damage, opens no pickle, and never leaves the folder."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from subcell_hf.errors import InputError
from subcell_hf.hub.endpoint.endpoint_handler import EndpointHandler
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.storage.model_folders import check_weights, load_model
from tests.forked import run_program
from tests.hub.tiny_models import save_tiny

POISONED = ("pytorch_model.bin", "model.bin", "encoder.pth", "training_args.bin", "optimizer.pt")
# Reports every file that the process opens in the folder.
WATCHER = """
import os, sys
folder, opened = os.path.realpath(sys.argv[1]), set()
sys.addaudithook(lambda event, args: opened.add(str(args[0])) if event == "open" and folder in str(args[0]) else None)
from transformers import AutoImageProcessor, AutoModel
AutoModel.from_pretrained(folder, trust_remote_code=True)
AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
print("OPENED", sorted(os.path.relpath(path, folder) for path in opened))
"""


class Poison:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.slow
def test_poisoned_pickles_beside_the_weights_are_never_opened(tmp_path: Path) -> None:
    folder, marker = save_tiny("SubCellModel", tmp_path / "model"), tmp_path / "poisoned"
    for name in POISONED:
        torch.save(Poison(marker), folder / name)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    output = run_program("-c", WATCHER, folder, log=tmp_path / "log", cwd=tmp_path, env=environment)
    opened = output.split("OPENED")[1]
    assert "config.json" in opened
    assert not [name for name in POISONED if name in opened]
    load_model(folder)
    EndpointHandler(str(folder), trust_remote_code=False)
    assert not marker.exists()


def test_a_pickle_alone_is_no_model(tmp_path: Path) -> None:
    folder, marker = save_tiny("SubCellModel", tmp_path / "model"), tmp_path / "poisoned"
    (folder / "model.safetensors").unlink()
    torch.save(Poison(marker), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="a pickle, which is not opened"):
        load_model(folder)
    with pytest.raises(OSError, match="safetensors"):
        EndpointHandler(str(folder), trust_remote_code=False)
    with pytest.raises(OSError, match="safetensors"):
        SubCellModel.from_pretrained(folder)
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):  # on demand, transformers would read tensors from it
        SubCellModel.from_pretrained(folder, use_safetensors=False)
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["truncated", "cut header", "wild header", "empty", "text"])
def test_damaged_weights_are_refused_and_nothing_else_is_tried(damage: str, tmp_path: Path) -> None:
    folder, marker = save_tiny("SubCellModel", tmp_path / "model"), tmp_path / "poisoned"
    torch.save(Poison(marker), folder / "pytorch_model.bin")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {
            "truncated": content[:-1000], "cut header": content[:100], "wild header": b"\xff" * 8 + content[8:],
            "empty": b"", "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        }[damage]
    )  # fmt: skip
    with pytest.raises(InputError, match="damaged or truncated" if damage != "text" else "Git LFS pointer"):
        check_weights(folder)
    with pytest.raises((SafetensorError, OSError, ValueError)):
        SubCellModel.from_pretrained(folder)
    assert not marker.exists()


def lead_elsewhere(place: Path, name: object) -> Path:
    """A model whose index names one file for all weights, which lie beside its folder."""
    folder = save_tiny("SubCellModel", place / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, place / "secret.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("name", ["../secret.safetensors", "/tmp/secret.safetensors", "a/b.safetensors", "x.bin", 5])
def test_an_index_that_leads_elsewhere_is_refused(name: object, tmp_path: Path) -> None:
    folder = lead_elsewhere(tmp_path, name)
    with pytest.raises(InputError, match="without folders"):
        load_model(folder)
    if isinstance(name, str):
        for load in (SubCellModel.from_pretrained, AutoModel.from_pretrained, EndpointHandler):
            with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json names the weights.*without folders"):
                load(str(folder))


# What the code that lies beside the weights does, where this package is not.
STRANGER = """
import os, sys
sys.modules["subcell_hf"] = None
opened = []
def watch(event, args):
    if event == "open" and str(args[0]).endswith("secret.safetensors"):
        opened.append(str(args[0]))
sys.addaudithook(watch)
from transformers import AutoModel
try:
    AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
except ValueError as error:
    print("ValueError", error)
print("OPENED", opened)
"""


@pytest.mark.slow
def test_the_code_beside_the_weights_refuses_such_an_index_too(tmp_path: Path) -> None:
    folder = lead_elsewhere(tmp_path, "../secret.safetensors")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    output = run_program("-c", STRANGER, folder, log=tmp_path / "log", cwd=tmp_path, env=environment)
    assert "names the weights '../secret.safetensors'" in output
    assert "OPENED []" in output


def test_a_sharded_model_is_fine(tmp_path: Path) -> None:
    whole = save_tiny("SubCellModel", tmp_path / "model")
    SubCellModel.from_pretrained(whole).save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    files = check_weights(tmp_path / "sharded")
    assert len(files) > 2
    loaded = load_model(tmp_path / "sharded").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in load_file(whole / "model.safetensors").items())
    files[0].unlink()
    with pytest.raises(InputError, match="is missing, though the index names it"):
        check_weights(tmp_path / "sharded")
