"""Imports that happen on first use, so that `import subcell_hf` and `subcell --help` stay fast, and may lack a library.

The public names of a room are listed in its stub, `__init__.pyi`: once for type checkers, editors, the documentation
and Python.
"""

import atexit
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from typing import Any, TypeVar

from lazy_loader import attach_stub

_Result = TypeVar("_Result")

EXTRAS = {
    "data": (
        "aiohttp",
        "fsspec",
        "imagecodecs",
        "jinja2",
        "markupsafe",
        "pandas",
        "PIL",
        "pyarrow",
        "scipy",
        "skimage",
        "tenacity",
        "tifffile",
        "tqdm",
        "urllib3",
        "zarr",
    ),
    "train": (
        "accelerate",
        "datasets",
        "matplotlib",
        "psutil",
        "sklearn",
        "tensorboard",
    ),
    "analysis": (
        "anndata",
        "copairs",
        "evaluate",
        "h5py",
        "harmonypy",
        "networkx",
        "numba",
        "pycytominer",
        "sknetwork",
        "umap",
    ),
    "hub": ("nbformat",),
    "demo": ("gradio",),
    "cellpose": ("cellpose",),
    "cellprofiler": ("cp_measure",),
    "stardist": ("cellcast",),
    "cpu": ("nncf", "openvino"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "microscopes": ("liffile", "nd2", "pylibCZIrw"),
    "cluster": ("ray",),
    "deepspeed": ("deepspeed",),
    "hidef": ("hidef",),
    "s3": ("s3fs",),
    "partners": ("geopandas", "lancedb", "pkg_resources", "shapely", "spatialdata"),
    "napari": ("magicgui", "napari", "superqt"),
    "search": ("faiss",),
}
"""Extra → the modules that it installs; a module is listed at the first extra that requires it."""


def explain_missing(module: str | None) -> str | None:
    """What to install for a module that could not be imported.

    Args:
        module: Dotted name, as in `ModuleNotFoundError.name`.

    Returns:
        A sentence for the user; None where the module is of no extra, then the installation is at fault.
    """
    top = (module or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if top in modules:
            return f"This needs {top}, which is not installed. Install it with: pip install 'subcell-hf[{extra}]'"
    return None


def attach_exports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the names of a stub available in its package; each is imported when it is first used.

    A name that is also the name of a submodule, such as `workflows.embed`, is the exported function, whichever of the
    two is imported first; `from subcell_hf.workflows.embed import …` still reads the module.

    Args:
        package: `__name__` of the package.
        file: Its `__file__`; the stub lies beside it.

    Returns:
        The package's `__getattr__`, `__dir__` and `__all__`. `__getattr__` raises ImportError, which names the extra to
        install, where a library is missing.
    """
    load, list_names, names = attach_stub(package, file)

    def load_explained(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            message = explain_missing(error.name)
            raise error if message is None else ImportError(f"{package}.{name}: {message}") from error

    return load_explained, list_names, names


def import_compiled(name: str) -> Any:
    """Import a library whose functions numba compiles and keeps in a cache, also where no cache can be written.

    numba refuses such functions where neither its own folders nor `NUMBA_CACHE_DIR` can be written, as in a container
    that runs as any user. A temporary folder then serves until the process ends.

    Args:
        name: Dotted name of the module.

    Returns:
        The module.

    Raises:
        OSError: If there is no temporary folder either.
    """
    try:
        return import_module(name)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
    import numba

    settings: Any = numba.config
    settings.CACHE_DIR = tempfile.mkdtemp(prefix="subcell-numba-")
    atexit.register(shutil.rmtree, settings.CACHE_DIR, ignore_errors=True)
    return import_module(name)


def run_compiled(function: Callable[[], _Result]) -> _Result:
    """Call a function whose numba code uses OpenMP, and leave the number of OpenMP threads as it was.

    numba sets that number for the thread in which it starts, and torch takes it for its own, also if torch is imported
    later. Here it starts in another thread, whose number concerns nobody else.

    Args:
        function: Called without arguments.

    Returns:
        What the function returns. What it raises is raised here.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # raised again by the caller's thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result()
