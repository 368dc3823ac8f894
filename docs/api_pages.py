"""Writes the pages of the Python API while MkDocs builds: an index of all public names, and one page for each room.

The stubs `__init__.pyi` of the package say which names are public; the docstrings say the rest.
"""

import ast
from pathlib import Path
from typing import Any, NamedTuple

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = "subcell_hf"
ORDER = (
    "workflows",
    "model",
    "images",
    "cells",
    "shards",
    "augmentation",
    "simulation",
    "weights",
    "training",
    "inference",
    "tables",
    "report",
    "pages",
    "evaluation",
    "hub",
    "napari_plugin",
    "storage",
    "parallel",
    "types",
    "ontology",
    "errors",
)
"""Rooms in the order of the index; those with rooms of their own stand for these."""


class PublicName(NamedTuple):
    """A name that users import."""

    package: str  # from which it is imported
    name: str
    module: str  # that defines it
    summary: str  # first sentence of its docstring


def public_names(package: str) -> list[PublicName]:
    """What a package exports: functions, then classes, then constants; of a room of one file, all that it defines."""
    file = _file_of(package)
    if file.name != "__init__.py":
        found = [(name, package) for name in _summaries(package)]
    else:
        found = []
        for node in ast.parse(file.with_suffix(".pyi").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                found += [(alias.name, f"{package}.{node.module}") for alias in node.names]
    found.sort(key=lambda pair: (not pair[0][0].islower(), pair[0].isupper(), pair[0]))
    return [PublicName(package, name, module, _summaries(module)[name]) for name, module in found]


def packages() -> list[str]:
    """The package itself, its rooms, and the rooms of rooms that export names."""
    found = [PACKAGE]
    for room in ORDER:
        name = f"{PACKAGE}.{room}"
        inner = sorted((ROOT / PACKAGE / room).glob("*/__init__.pyi"))
        found += [f"{name}.{path.parent.name}" for path in inner] or [name]
    return found


def on_config(config: Any) -> Any:
    """Put the pages of the rooms below that of the API in the navigation."""
    pages = [{"Overview": "api.md"}, *({name.partition(".")[2]: _page_of(name)} for name in packages()[1:])]
    for entry in config.nav:
        if "Python API" in entry:
            entry["Python API"] = pages
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write a page for each room."""
    for package in packages()[1:]:
        files.append(File.generated(config, _page_of(package), content=room_page(package)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add the index to the page of the API."""
    return f"{markdown}\n\n{index()}" if page.file.src_uri == "api.md" else markdown


def index() -> str:
    """All public names with a sentence each, room by room."""
    parts = []
    for package in packages():
        rows = [f"| [`{name}`][{module}.{name}] | {summary} |" for _, name, module, summary in public_names(package)]
        title = f"## `{package}`" if package == PACKAGE else f"## [`{package}`]({_page_of(package)})"
        parts.append(f"{title}\n\n{_about(package)}\n\n| Name | Description |\n| --- | --- |\n" + "\n".join(rows))
    return "\n\n".join(parts)


def room_page(package: str) -> str:
    """What a room exports, with all docstrings."""
    parts = [f"# `{package}`\n\n{_about(package)}"]
    for _, name, module, _ in public_names(package):
        parts.append(f"[](){{#{package}.{name}}}\n\n::: {module}.{name}")
    return "\n\n".join(parts)


def _page_of(package: str) -> str:
    return f"api/{package.partition('.')[2].replace('.', '-')}.md"


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py")
    return file if file.exists() else path / "__init__.py"


def _about(package: str) -> str:
    text = ast.get_docstring(ast.parse(_file_of(package).read_text(encoding="utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def _summaries(module: str) -> dict[str, str]:
    """First sentence about every public function, class and constant of a module."""
    found = {}
    body = ast.parse(_file_of(module).read_text(encoding="utf-8")).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            text = following.value if isinstance(following, ast.Expr) else None
            if isinstance(target, ast.Name):
                found[target.id] = str(text.value) if isinstance(text, ast.Constant) else ""
    return {
        name: text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        for name, text in found.items()
        if not name.startswith("_")
    }
