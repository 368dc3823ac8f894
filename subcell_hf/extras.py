"""Which extra of this package brings a library that is not installed."""

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
