"""Fixtures shared by every room's tests."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of golden files and real data; tests that need it skip, saying so, where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"no golden files: {SHARED} is missing")
    return SHARED
