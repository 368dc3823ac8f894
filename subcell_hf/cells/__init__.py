"""From fields of view to masks and single-cell crops with quality columns."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
