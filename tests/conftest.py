"""Fixtures shared by every room's tests."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Keep remote code that tests load out of the user's cache; transformers reads the variable when it is imported."""
    folder = Path(config.rootpath) / "build" / "modules_cache"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HF_MODULES_CACHE"] = str(folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden files and real data; tests that need it skip, saying so, where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no golden files: {SHARED} is missing")
    return SHARED
