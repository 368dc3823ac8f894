"""The pages of the Python API are complete: all public names with their arguments, results and errors."""

import ast
import dataclasses
import importlib.util
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.house.test_exports import STUBS, exports_of

ROOT = Path(__file__).parents[2]


def _pages() -> Any:
    """The module that writes the pages, which lies beside them."""
    spec = importlib.util.spec_from_file_location("api_pages", ROOT / "docs" / "api_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = _pages()


def test_the_pages_list_every_public_name() -> None:
    listed = {f"{package}.{name}" for package in PAGES.packages() for name, *_ in _names(package)}
    exported = {f"{package}.{name}" for package in STUBS for name, module in exports_of(package).items()}
    rooms = set(STUBS) | {"subcell_hf.types", "subcell_hf.ontology", "subcell_hf.errors"}
    assert exported - listed <= rooms
    assert set(STUBS) - set(PAGES.packages()) <= {"subcell_hf.evaluation"}  # its rooms have pages of their own


def _names(package: str) -> Iterator[tuple[str, Any]]:
    """Public name → the object."""
    for _, name, module, _ in PAGES.public_names(package):
        yield name, getattr(import_module(module), name)


@pytest.mark.parametrize("package", PAGES.packages())
def test_public_names_are_documented(package: str) -> None:
    lacking = [f"{name}: summary" for _, name, _, summary in PAGES.public_names(package) if not summary]
    for name, found in _names(package):
        if inspect.isfunction(found):
            lacking += _lacking_of_function(name, found)
        elif dataclasses.is_dataclass(found):
            lacking += _lacking_of_fields(name, found)
    assert not lacking, "\n".join(lacking)


def _lacking_of_function(name: str, function: Any) -> Iterator[str]:
    text = inspect.getdoc(function) or ""
    function = inspect.unwrap(function)
    signature = inspect.signature(function)
    refers = "see `" in text or "as for `" in text or "as in `" in text
    for parameter in signature.parameters:
        if not refers and not re.search(rf"^ +(\w+, )*\**{parameter}(, \w+)*:", text, re.MULTILINE):
            yield f"{name}: Args lacks {parameter}"
    result = inspect.formatannotation(signature.return_annotation).strip("'")
    composite = re.match(r"Any|collections|dict|list|np|numpy|pd|torch|tuple|Iterator|Mapping|Sequence|Tensor", result)
    if composite and signature.parameters and not re.search(r"^(Returns|Yields):", text, re.MULTILINE):
        yield f"{name}: Returns, of {result}"
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
    raises = any(isinstance(node, ast.Raise) and node.exc for node in ast.walk(tree))
    if raises and not re.search(r"^Raises:", text, re.MULTILINE):
        yield f"{name}: Raises"


def _lacking_of_fields(name: str, found: Any) -> Iterator[str]:
    texts = [inspect.getdoc(part) or "" for part in found.__mro__ if part.__module__.startswith("subcell_hf")]
    own = {field for part in found.__mro__ if part.__module__.startswith("subcell_hf") for field in _annotations(part)}
    for field in dataclasses.fields(found):
        if field.name in own and not field.name.startswith("_") and "help" not in field.metadata:
            pattern = rf"^ +(\w+, )*{field.name}(, \w+)*( \(.*\))?:"
            if not any(re.search(pattern, text, re.MULTILINE) for text in texts):
                yield f"{name}: Attributes lacks {field.name}"


def _annotations(part: type) -> list[str]:
    return list(inspect.get_annotations(part))


@pytest.mark.slow
def test_the_site_shows_every_public_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True)
    for package in PAGES.packages()[1:]:
        page = tmp_path / "site" / PAGES._page_of(package).removesuffix(".md") / "index.html"
        shown = page.read_text(encoding="utf-8")
        for _, name, module, _ in PAGES.public_names(package):
            assert f'id="{module}.{name}"' in shown, f"{page} lacks {name}"
            assert f'id="{package}.{name}"' in shown, f"{page} cannot be linked at {package}.{name}"
