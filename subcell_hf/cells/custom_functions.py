"""Functions of the user: imported from a file or an installed module, and identified by their source."""

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from subcell_hf.errors import InputError

_CUSTOM = "custom_"
"""Begins the names of modules that are files of the user."""


def import_function(where: str, what: str = "segmentation") -> Callable[..., Any]:
    """Import a function, once for each version of its file.

    A file may import modules beside it, as a script does.

    Args:
        where: `module:function` of an installed module, or `path/to/file.py:function`.
        what: What the function is for, in messages.

    Raises:
        InputError: If there is no such file, module or function, or it cannot be imported.
    """
    module_name, _, name = where.rpartition(":")
    try:
        if module_name.endswith(".py"):
            path = Path(module_name).resolve()
            module = _load_file(path, last_change_ns(path))
        else:
            module = import_module(module_name)
        function = getattr(module, name)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"The {what} {where!r} cannot be imported ({type(error).__name__}: {error}). Give an installed "
            "module and its function, module:function, or a file, path/to/file.py:function."
        ) from error
    if not callable(function):
        raise InputError(f"The {what} {where!r} is a {type(function).__name__}, expected a function.")
    found: Callable[..., Any] = function
    return found


@cache
def _load_file(path: Path, changed_ns: int) -> ModuleType:
    """Run a Python file as a module; its time of change distinguishes versions."""
    spec = util.spec_from_file_location(f"{_CUSTOM}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    for name, file in _modules_beside(path).items():
        if name in sys.modules:
            loaded = sys.modules[name].__file__
            if loaded is None or Path(loaded).resolve() != file:
                raise ImportError(f"{file} has the name of a module that is loaded from {loaded}; give it another name")
            del sys.modules[name]  # it may have changed
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    folder = str(path.parent)
    sys.path.insert(0, folder)
    # A compiled file counts as current for a second, even if its source changes meanwhile.
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes_bytecode
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what its functions import; nothing installed is hidden by it
    return module


def last_change_ns(path: Path) -> int:
    """Time when a file, or a module beside it that it imports, was last changed, in nanoseconds.

    Args:
        path: A Python file.

    Raises:
        OSError: If there is no such file.
        SyntaxError: If it is no Python.
    """
    return max(file.stat().st_mtime_ns for file in _files_with(path))


def source_checksum(function: Callable[..., Any]) -> str:
    """SHA-256 of the file that a function is defined in, and the modules beside it that it imports.

    Args:
        function: Any function or class.

    Returns:
        The sum; empty where it has no file.
    """
    try:
        source = inspect.getsourcefile(function)
    except TypeError:  # a callable object, or a function that is not written in Python
        return ""
    if source is None or not Path(source).is_file():
        return ""
    files = _files_with(Path(source)) if function.__module__.startswith(_CUSTOM) else [Path(source)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _files_with(path: Path) -> list[Path]:
    """A file, and those of the modules beside it that it imports."""
    return [path, *(file for module in _modules_beside(path).values() for file in _files_of(module))]


def _modules_beside(path: Path) -> dict[str, Path]:
    """Name → file of the modules in the folder of a file that it imports, and that these import."""
    found: dict[str, Path] = {}
    left = [path]
    while left:
        for name in _imported_names(left.pop()):
            for file in (path.parent / f"{name}.py", path.parent / name / "__init__.py"):
                if name not in found and file.is_file() and file != path:
                    found[name] = file.resolve()
                    left += _files_of(found[name])
    return dict(sorted(found.items()))


def _files_of(module: Path) -> list[Path]:
    """The files of a module, all of them of a package."""
    return sorted(module.parent.rglob("*.py")) if module.name == "__init__.py" else [module]


def _imported_names(path: Path) -> Iterator[str]:
    """First part of the name of each module that a file imports, but for relative imports."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
