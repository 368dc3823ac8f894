"""Hits of a screen: activity against controls, doses, positions, cell counts, quality and batch correction."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
