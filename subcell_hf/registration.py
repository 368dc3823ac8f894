"""Makes transformers' Auto classes know SubCell."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO_CLASSES_MODULE = "transformers.models.auto"


def register() -> None:
    """Register configuration, models, image processor and pipeline with transformers; harmless when repeated."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForPreTraining,
    )
    from transformers.pipelines import PIPELINE_REGISTRY
    from transformers.utils.import_utils import is_vision_available

    from subcell_hf.model.configuration_subcell import SubCellConfig
    from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
    from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
    from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
    from subcell_hf.model.pipeline_subcell import TASK, SubCellPipeline

    AutoConfig.register(SubCellConfig.model_type, SubCellConfig, exist_ok=True)
    AutoModel.register(SubCellConfig, SubCellModel, exist_ok=True)
    AutoModelForImageClassification.register(SubCellConfig, SubCellForImageClassification, exist_ok=True)
    AutoModelForPreTraining.register(SubCellConfig, SubCellForPreTraining, exist_ok=True)
    if is_vision_available():  # Without Pillow transformers' AutoImageProcessor refuses even to be registered with.
        AutoImageProcessor.register(SubCellConfig, slow_image_processor_class=SubCellImageProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=SubCellPipeline, pt_model=AutoModelForImageClassification, type="image"
        )


class _RegisteringLoader(Loader):
    """Loads transformers' Auto classes as ever, then registers ours."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        register()


class _RegisteringFinder(MetaPathFinder):
    """Steps in once, when transformers' Auto classes are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AUTO_CLASSES_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def register_when_needed() -> None:
    """Register now if the Auto classes are there, else as soon as somebody imports them.

    Importing transformers' models and torch takes seconds; `subcell --help` and scripts that only read tables do not
    pay for them.
    """
    if AUTO_CLASSES_MODULE in sys.modules:
        register()
    elif not any(isinstance(finder, _RegisteringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisteringFinder())
