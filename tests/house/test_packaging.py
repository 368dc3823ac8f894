"""The wheel is complete, light, and says what is missing."""

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from packaging.requirements import Requirement

from subcell_hf.extras import EXTRAS, explain_missing
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.files import write_parquet
from subcell_hf.training.recipes import RECIPE_FOLDERS
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.house.test_laws import FILES, imports_of

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_library_of_an_extra_is_known_by_the_name_that_it_is_imported_by() -> None:
    distributions = packages_distributions()
    for extra, modules in EXTRAS.items():
        wanted = {Requirement(text).name.lower() for text in PROJECT["optional-dependencies"][extra]}
        for module in modules:
            if module in distributions:  # cellpose is not installed for the tests
                assert wanted & {name.lower() for name in distributions[module]}, f"{module} is not of [{extra}]"


def test_every_import_is_declared() -> None:
    """Nothing works by the luck that some other library brings what we import."""
    distributions = packages_distributions()
    optional = {module for modules in EXTRAS.values() for module in modules}
    core = {Requirement(text).name.lower().replace("-", "_") for text in PROJECT["dependencies"]}
    for path in FILES:
        for level, name in imports_of(path):
            top = name.partition(".")[0]
            if level or top in sys.stdlib_module_names or top == "subcell_hf":
                continue
            of_core = core & {found.lower().replace("-", "_") for found in distributions.get(top, ())}
            assert of_core or top in optional, f"{path.name} imports {top}: declare it in pyproject.toml and extras.py"


def test_a_missing_library_is_explained() -> None:
    assert explain_missing("skimage.measure") == (
        "This needs skimage, which is not installed. Install it with: pip install 'subcell-hf[data]'"
    )
    assert explain_missing("subcell_hf.nothing") is None
    assert explain_missing(None) is None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_what_the_package_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "subcell_hf"
    files = {path.relative_to(ROOT).as_posix() for path in source.rglob("*") if path.suffix not in (".pyc", "")}
    files = {name for name in files if "/__pycache__/" not in name}
    assert files <= names, files - names
    assert "subcell_hf/annotations/locations.tsv" in names
    for name in RECIPE_FOLDERS:
        shipped = {f"subcell_hf/recipes/{name}/{path.name}" for path in (ROOT / "recipes" / name).iterdir()}
        assert shipped
        assert shipped <= names
    assert "subcell_hf/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "recipes/"))]


@pytest.mark.slow
def test_the_core_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Nothing but the wheel and what it requires: help, a model, and an error that names the extra."""
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",  # of torch and transformers little is imported
        "--constraint",
        str(ROOT / "constraints.txt"),
        str(wheel),
    ]
    subprocess.run(command, check=True, env=environment)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    subcell = str(python.parent / "subcell")
    assert "shards" in run(subcell, "--help").stdout
    code = (
        "import torch, subcell_hf\n"
        "from transformers import AutoModel\n"
        "config = subcell_hf.SubCellConfig.from_size('tiny', image_size=32, num_hidden_layers=1)\n"
        "model = AutoModel.from_config(config)\n"
        "print(tuple(model(torch.rand(2, 4, 32, 32)).pooler_output.shape))"
    )
    found = run(str(python), "-c", code)
    assert found.stdout.strip() == "(2, 384)", found.stderr
    found = run(subcell, "simulate", "--fields", "1", "--output", "fields")
    assert found.returncode == 2
    assert "pip install 'subcell-hf[data]'" in found.stderr


@pytest.mark.slow
def test_a_wheel_trains(wheel: Path, tmp_path: Path) -> None:
    """Where there is no clone: recipes by name, started as modules from a folder that holds the data alone.

    The libraries are those of the tests, the package is the wheel's.
    """
    site, folder = tmp_path / "site", tmp_path / "work"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=2, size_px=32)
    write_synthetic(folder / "shards", source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))

    def run(*words: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    small = "--image_size 32 --pooling_hidden_size 16 --antibodies_per_batch 4 --cells_per_antibody 2 --warmup_epochs 0"
    quick = "--use_cpu true --max_steps 2 --run_page false --picture_epochs 0 --validation_split none"
    launch = ("-m", "accelerate.commands.launch", "-m", "subcell_hf.workflows.pretrain")
    run(*launch, "quickstart", "--shards", "shards", *small.split(), *quick.split(), "--output_dir", "pretrained")

    tune = "-m subcell_hf.workflows.finetune finetune --init_checkpoint pretrained/model --data shards"
    said = run(*tune.split(), "--use_cpu", "true", "--max_steps", "1", "--output_dir", "tuned")
    assert "tuned/model with AutoModelForImageClassification" in said

    random = np.random.default_rng(0)
    cells = pd.DataFrame({"cell_id": [f"{n}" for n in range(40)], "field_of_view": "f", "antibody": "a"})
    cells["locations"] = np.resize(["Nucleoplasm", "Cytosol", "Nucleoli"], 40)
    cells["split"] = np.resize(["train", "train", "validation"], 40)[random.permutation(40)]
    write_parquet(EmbeddingTable(cells, random.standard_normal((40, 256)).astype("f4")), folder / "table.parquet")
    locate = "-m subcell_hf.workflows.train_localization --table table.parquet --encoder pretrained/model"
    said = run(*locate.split(), "--output", "located", "--max_epochs", "2", "--seeds", "1", "2", "--device", "cpu")
    assert "Wrote located: 2 members" in said

    where = run("-c", "import subcell_hf, subcell_hf.shipped as s; print(s.shipped_folder('recipes'))").strip()
    assert where == str(site / "subcell_hf" / "recipes")
