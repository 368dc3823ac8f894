"""The model: configuration, encoder, classifier, pretraining, image processor, pipeline and objectives."""

from subcell_hf.extras import attach_exports
from subcell_hf.registration import add_models

__getattr__, __dir__, __all__ = attach_exports(__name__, __file__)

add_models()
