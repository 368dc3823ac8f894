"""Libraries of the extras: which extra brings one that is not installed, and how to import one that numba compiles."""

import atexit
import shutil
import tempfile
from importlib import import_module
from typing import Any

EXTRAS = {
    "data": (
        "fsspec",
        "imagecodecs",
        "pandas",
        "PIL",
        "pyarrow",
        "scipy",
        "skimage",
        "tifffile",
        "tqdm",
        "zarr",
    ),
    "train": (
        "accelerate",
        "datasets",
        "jinja2",
        "markupsafe",
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
        "statsmodels",
        "umap",
    ),
    "hub": ("nbformat",),
    "demo": ("gradio",),
    "cellpose": ("cellpose",),
    "cluster": ("ray",),
    "deepspeed": ("deepspeed",),
    "hidef": ("hidef",),
}
"""Extra → the modules that it brings; a module stands at the first extra that needs it."""


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
