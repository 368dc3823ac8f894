"""SubCell vision transformers for fluorescence images of cells, integrated with the Hugging Face ecosystem."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from subcell_hf.extras import explain_missing
from subcell_hf.registration import add_names

__version__ = "0.1.0"

_PUBLIC = {
    "SubCellConfig": "subcell_hf.model.configuration_subcell",
    "SubCellModel": "subcell_hf.model.modeling_subcell",
    "SubCellForImageClassification": "subcell_hf.model.modeling_subcell",
    "SubCellForPreTraining": "subcell_hf.model.modeling_subcell_pretraining",
    "SubCellImageProcessor": "subcell_hf.model.image_processing_subcell",
    "SubCellPipeline": "subcell_hf.model.pipeline_subcell",
    "convert": "subcell_hf.hub.weights.conversion",
    "embed": "subcell_hf.workflows.embed",
    "export_model": "subcell_hf.hub.publishing.export",
}

if TYPE_CHECKING:
    from subcell_hf.hub.publishing.export import export_model
    from subcell_hf.hub.weights.conversion import convert
    from subcell_hf.model.configuration_subcell import SubCellConfig
    from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
    from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
    from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
    from subcell_hf.model.pipeline_subcell import SubCellPipeline
    from subcell_hf.workflows.embed import embed

__all__ = [
    "SubCellConfig",
    "SubCellForImageClassification",
    "SubCellForPreTraining",
    "SubCellImageProcessor",
    "SubCellModel",
    "SubCellPipeline",
    "__version__",
    "convert",
    "embed",
    "export_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import subcell_hf` and `subcell --help` stay fast."""
    if name in _PUBLIC:
        try:
            return getattr(import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            message = explain_missing(error.name)
            raise error if message is None else ImportError(f"subcell_hf.{name}: {message}") from error
    raise AttributeError(f"module 'subcell_hf' has no attribute {name!r}")


add_names()
