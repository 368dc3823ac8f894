"""Files and folders that are complete or absent, records with checksums, and readers for files of other programs."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
