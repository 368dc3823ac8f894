"""A run on two simulated fields of view, which other programs read.

The tests run in an environment of their own, see `build/partners` in the Makefile; elsewhere they are not collected.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.workflows.simulated_run import Run, make_run

collect_ignore_glob = [] if find_spec("spatialdata") else ["test_*.py"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run; tests write nothing into it."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests of the session write."""
    return tmp_path_factory.mktemp("written")
