"""Segmentation by a function of the user's: where it lies, what it may return, and which version of it ran."""

import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import import_module, util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.images.files import FieldError
from subcell_hf.images.masks.instances import check_instances
from subcell_hf.images.planes import MAX_LABELS
from subcell_hf.types import FieldOfView


def import_function(where: str) -> Callable[..., npt.NDArray[np.int32]]:
    """Import a function, once for each version of its file.

    Args:
        where: `module:function` of an installed module, or `path/to/file.py:function`.

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
            f"The segmentation {where!r} cannot be imported ({type(error).__name__}: {error}). Give an installed "
            "module and its function, module:function, or a file, path/to/file.py:function."
        ) from error
    if not callable(function):
        raise InputError(f"The segmentation {where!r} is a {type(function).__name__}, expected a function.")
    found: Callable[..., npt.NDArray[np.int32]] = function
    return found


@cache
def _load_file(path: Path, changed_ns: int) -> ModuleType:
    """Run a Python file as a module; its time of change distinguishes versions."""
    spec = util.spec_from_file_location(f"custom_segmentation_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    spec.loader.exec_module(module)
    return module


def describe_segmentation(method: str) -> str:
    """A method of segmentation as a record of a run names it: a custom one with a checksum of its source file."""
    if ":" not in method:
        return method
    file = inspect.getsourcefile(import_function(method))
    if file is None or not Path(file).is_file():
        return method
    return f"{method} {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}"


def run_custom(
    segmenter: Callable[..., Any], field: FieldOfView, name: object, *, trusted: bool = False, **options: Any
) -> npt.NDArray[np.int32]:
    """Segment a field by a function that is not ours, and check what it returns.

    Args:
        segmenter: Takes the field, returns labels.
        field: The field.
        name: Names the segmenter in messages.
        trusted: Whether to take every label as one cell, without the checks of `check_instances`.
        options: Passed on to the segmenter.

    Returns:
        `[height, width]` int32 labels, 0 is background.

    Raises:
        FieldError: If the function fails, or returns anything but labels of single cells.
    """
    where = f"Field {field.name!r}: the segmentation by {name}"
    try:
        labels = np.asarray(segmenter(field, **options))
    except (FieldError, MemoryError):
        raise
    except Exception as error:
        raise FieldError(f"{where} failed with {type(error).__name__}: {error}.") from error
    if labels.shape != field.pixels.shape[1:]:
        raise FieldError(f"{where} has shape {labels.shape}, expected {field.pixels.shape[1:]}.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise FieldError(f"{where} is {labels.dtype}, expected whole numbers: 0 outside, and one for each cell.")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max or len(np.unique(labels)) > MAX_LABELS + 1:
        raise FieldError(
            f"{where} has labels {labels.min()} to {labels.max()}, expected 0 outside and at most {MAX_LABELS:,} cells."
        )
    labels = labels.astype(np.int32)
    if labels.any() and not trusted:
        check_instances(replace(field, label_mask=labels), where)
    return labels
