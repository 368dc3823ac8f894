"""The house keeps its laws: who imports whom, what the island may import, how long a file may be."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.house.test_exports import STUBS, exports_of

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "subcell_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
ISLAND = sorted((PACKAGE / "model").glob("*_subcell*.py"))

ROOMS = (
    "cli", "napari_plugin", "workflows", "hub", "evaluation", "inference", "report", "training", "weights", "tables",
    "cells", "shards", "simulation", "images", "augmentation", "parallel", "pages", "storage", "model", "registration",
    "ontology", "types", "settings", "progress", "process", "extras", "errors", "shipped",
)  # fmt: skip
"""As the data flows, from the top: a room imports itself and what stands behind it."""


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Level and dotted name of every import, those inside functions included, those for type checkers not."""
    for node in _walk_running_code(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == "subcell_hf":  # `from subcell_hf import ontology` names a room
                yield from ((0, f"{module}.{alias.name}") for alias in node.names if alias.name != "__version__")
            else:
                yield node.level, module
                yield from ((0, f"{module}.{alias.name}") for alias in node.names if module in STUBS)


def _walk_running_code(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk_running_code(child)


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_lies_below(path: Path) -> None:
    room = room_of(path)
    for level, name in imports_of(path):
        if level or name.split(".")[0] not in ("subcell_hf", "recipes"):
            continue
        assert name.split(".")[0] != "recipes", f"{path.name} imports {name}: nothing imports recipes"
        if "." in name and room != "__init__":
            target = name.split(".")[1]
            below = ROOMS[ROOMS.index(room) :]
            assert target in below, f"{room} must not import {target} ({path.name}: {name})"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "evaluation"], ids=lambda path: path.name)
def test_evaluation_takes_tables_and_never_a_model(path: Path) -> None:
    for _, name in imports_of(path):
        assert name.split(".")[0] not in {"torch", "transformers"}, f"{path.name} imports {name}"
        assert not name.startswith(("subcell_hf.inference", "subcell_hf.report", "subcell_hf.training"))


def test_the_rooms_are_those_of_the_plan() -> None:
    assert {room_of(path) for path in FILES} == {*ROOMS, "__init__"}


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_folder_is_looked_over_at_a_glance(folder: Path) -> None:
    names = [path.name for path in folder.iterdir() if path.is_file() and path.stem != "__init__"]
    assert len(names) <= 15, names


def test_no_file_imports_in_a_circle() -> None:
    """Also within a room, and through imports inside of functions."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    public = {f"{package}.{name}": module for package in STUBS for name, module in exports_of(package).items()}
    graph = {
        name: {public.get(target, target) for _, target in imports_of(path)} & set(modules)
        for name, path in modules.items()
    }
    TopologicalSorter({name: targets - {name} for name, targets in graph.items()}).prepare()


@pytest.mark.parametrize("path", ISLAND, ids=lambda path: path.name)
def test_the_island_stands_alone(path: Path) -> None:
    names = {file.stem for file in ISLAND}
    for level, name in imports_of(path):
        if level:
            assert level == 1, f"{path.name}: transformers copies imports of the form `from .module import Name` only"
            assert name in names, f"{path.name} imports .{name}, which is not of the island"
        else:
            top = name.split(".")[0]
            assert top in {"torch", "numpy", "transformers"} or top in sys.stdlib_module_names, f"{path.name}: {name}"


@pytest.mark.parametrize("path", ISLAND, ids=lambda path: path.name)
def test_no_text_of_the_island_looks_like_a_relative_import(path: Path) -> None:
    """transformers finds imports with a regular expression, in docstrings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    real = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert number in real or not line.strip().startswith(("from .", "import .")), f"{path.name}:{number}: {line}"


@pytest.mark.parametrize("path", [*FILES, *BENCHMARKS], ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_short(path: Path) -> None:
    limit = 700 if path.name.startswith("modeling_") else 400
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


def test_the_linter_knows_no_exemptions() -> None:
    assert "per-file-ignores" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not [path for path in FILES if "# noqa" in path.read_text(encoding="utf-8")]
