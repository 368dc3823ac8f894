"""Fixtures shared by every room's tests."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config: pytest.Config) -> None:
    """Keep remote code that tests load out of the user's cache; transformers reads the variable when it is imported."""
    folder = Path(config.rootpath) / "build" / "modules_cache"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HF_MODULES_CACHE"] = str(folder)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: packed ones hold the time of packing, and all workers must collect equal names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data outside the repository; tests that need it skip, saying so, where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data: {SHARED} is missing")
    return SHARED


@pytest.fixture(scope="session")
def golden_files() -> Path:
    """Folder of numbers that the published code gave; its README says how they were made."""
    return GOLDEN
