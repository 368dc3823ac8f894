"""Functions of the user: imported from a file or an installed module, and identified by their source."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

from subcell_hf.errors import InputError


def import_function(where: str, what: str = "segmentation") -> Callable[..., Any]:
    """Import a function, once for each version of its file.

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
            module = _load_file(path, path.stat().st_mtime_ns)
        else:
            module = import_module(module_name)
        function = getattr(module, name)
    except Exception as error:
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
    spec = util.spec_from_file_location(f"custom_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    spec.loader.exec_module(module)
    return module


def source_checksum(function: Callable[..., Any]) -> str:
    """SHA-256 of the file that a function is defined in; empty where it has none.

    Args:
        function: Any function or class.
    """
    try:
        file = inspect.getsourcefile(function)
    except TypeError:  # a callable object, or a function that is not written in Python
        return ""
    return "" if file is None or not Path(file).is_file() else hashlib.sha256(Path(file).read_bytes()).hexdigest()
