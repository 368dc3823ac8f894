"""Files and folders that appear whole or not at all, and how those of others are read."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
