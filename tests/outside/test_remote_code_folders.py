"""Several folders with code of their own in one process: each runs its own, whatever the folders are called."""

import os
import shutil
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

import subcell_hf.model
from tests.forked import result_of, run_program
from tests.hub.tiny_models import save_tiny

ISLAND = Path(subcell_hf.model.__path__[0])

# Importing the package is an error, as if it were not installed.
LOAD = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "subcell_hf":
            raise ModuleNotFoundError("subcell_hf is not installed here")

sys.meta_path.insert(0, Blocked())
import numpy as np, torch, transformers

found = {}
for folder in sys.argv[1:]:
    call = {"trust_remote_code": True}
    model = transformers.AutoModelForImageClassification.from_pretrained(folder, **call)
    encoder = transformers.AutoModel.from_pretrained(folder, **call)
    locate = transformers.pipeline(model=folder, **call)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, **call)
    found[folder] = [getattr(sys.modules[type(thing).__module__], "WHOSE", "unchanged")
                     for thing in (model.config, model, encoder, locate, locate.model, processor)]
    cell = np.random.default_rng(0).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    with torch.no_grad():
        found[folder].append(model(**processor(cell)).logits[0].tolist())
print("FOUND", json.dumps(found))
"""


def _load(*folders: Path) -> dict[str, list[object]]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["HF_MODULES_CACHE"] = str(folders[0].parent / "modules")
    output = run_program("-c", LOAD, *folders, log=folders[0].parent / "log", cwd=Path("/"), env=environment)
    found: dict[str, list[object]] = result_of(output, "FOUND")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["modeling_subcell.py", "objectives_subcell.py", "image_processing_subcell.py"])
def test_folders_of_one_name_and_configuration_run_their_own_code(changed: str, tmp_path: Path) -> None:
    first = save_tiny("SubCellForImageClassification", tmp_path / "first" / "model")
    second = shutil.copytree(first, tmp_path / "second" / "model")
    (second / changed).write_text(f"{(second / changed).read_text()}\n\nWHOSE = 'second'\n")
    if changed == "modeling_subcell.py":  # code that makes other numbers of the same weights
        code = (second / changed).read_text()
        assert "logits=logits," in code
        (second / changed).write_text(code.replace("logits=logits,", "logits=logits + 1,"))
    places = {"modeling_subcell.py": {1, 2, 4}, "objectives_subcell.py": set(), "image_processing_subcell.py": {5}}
    found = _load(first, second, first)
    assert found[str(first)][:6] == ["unchanged"] * 6
    assert {place for place in range(6) if found[str(second)][place] == "second"} == places[changed]
    difference = [b - a for a, b in zip(found[str(first)][6], found[str(second)][6], strict=True)]  # type: ignore[call-overload]
    assert difference == pytest.approx([1.0 if changed == "modeling_subcell.py" else 0.0] * len(difference), abs=1e-5)


@pytest.mark.parametrize("file", sorted(path.name for path in ISLAND.glob("*_subcell*.py")))
def test_every_file_of_the_island_is_in_the_checksum_of_the_configuration(file: str) -> None:
    """transformers keeps models by configuration class, and a class by the checksum of the files that it names."""
    named = {Path(path).name for path in get_relative_import_files(ISLAND / "configuration_subcell.py")}
    assert file in named | {"configuration_subcell.py"}
