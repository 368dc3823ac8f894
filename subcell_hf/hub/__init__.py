"""Cards, repositories, endpoint and demo for the Hugging Face Hub."""

from subcell_hf.extras import attach_exports

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
