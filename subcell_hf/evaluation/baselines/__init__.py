"""Baselines for benchmarks: classical features and pixel components of the same cells."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
