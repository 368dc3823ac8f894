"""Pages of one HTML file each: one way of filling templates, one theme, one map of points."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
