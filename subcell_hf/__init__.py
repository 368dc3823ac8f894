"""SubCell vision transformers for fluorescence images of cells, integrated with the Hugging Face ecosystem."""

from subcell_hf.extras import attach_exports
from subcell_hf.parallel.cores import share_cores
from subcell_hf.registration import add_names

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)
__all__ += ["__version__"]

share_cores()
add_names()
