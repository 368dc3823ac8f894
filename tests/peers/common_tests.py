"""Access to the common tests of the installed transformers."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import transformers

FOLDER = Path(__file__).parents[2] / "build" / f"transformers-{transformers.__version__}-tests"
STAND_INS = Path(__file__).parent / "stand_ins"
PACKAGE = "transformers_common_tests"


def common_tests(module: str) -> ModuleType:
    """A module of transformers' tests, such as `"test_modeling_common"`; skips the caller where they are missing."""
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER} is missing: run make {FOLDER.relative_to(FOLDER.parents[1])}", allow_module_level=True)
    if PACKAGE not in sys.modules:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(FOLDER), str(STAND_INS)]
        sys.modules[PACKAGE] = package
        script = "fetch_hub_objects_for_ci"  # imported from a folder beside the tests
        sys.modules[script] = importlib.import_module(f"{PACKAGE}.{script}")
    return importlib.import_module(f"{PACKAGE}.{module}")
