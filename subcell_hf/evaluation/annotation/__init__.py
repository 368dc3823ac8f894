"""Sort the cells of an embedding table into custom classes: labels, a classifier on the embeddings, proposals."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
