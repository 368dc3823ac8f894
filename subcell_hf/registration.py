"""Makes transformers' Auto classes and `pipeline` know SubCell, whichever is imported first.

transformers finds its own classes through tables of names: model type → name of the class, which is imported from
`transformers.models.<model type>` when it is first needed. SubCell becomes one more row of these tables, and this
package, whose public names are imported on first use, takes the place of that module. No import triggers another one,
so no order of imports can meet a module that is half imported.
"""

import importlib.util
import sys
from functools import cached_property
from importlib.machinery import PathFinder
from typing import Any

MODEL_TYPE = "subcell"
TASK = "subcell-localization"
HUB_TASK = "image-classification"
NAMES = "transformers.models.auto.auto_mappings"  # a file that holds tables of names and imports nothing
CONFIGURATIONS = "transformers.models.auto.configuration_auto"
MODELS = {
    "MODEL_MAPPING": "SubCellModel",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING": "SubCellForImageClassification",
    "MODEL_FOR_PRETRAINING_MAPPING": "SubCellForPreTraining",
}
IMAGE_PROCESSORS = {"torchvision": "SubCellImageProcessor", "pil": "SubCellImageProcessor"}  # by backend


def add_names() -> None:
    """Register the names of the configuration and the image processor in transformers; `import subcell_hf` does this.

    Neither torch nor transformers is imported for it, which would take seconds: `subcell --help` and scripts that only
    read tables do not pay for them.
    """
    sys.modules[f"transformers.models.{MODEL_TYPE}"] = sys.modules["subcell_hf"]
    names = _load_names()
    names.CONFIG_MAPPING_NAMES[MODEL_TYPE] = "SubCellConfig"
    names.IMAGE_PROCESSOR_MAPPING_NAMES[MODEL_TYPE] = IMAGE_PROCESSORS
    if CONFIGURATIONS in sys.modules:  # imported before this package, it has copied the table
        importlib.import_module(CONFIGURATIONS).CONFIG_MAPPING_NAMES[MODEL_TYPE] = "SubCellConfig"


def _load_names() -> Any:
    """transformers' tables of names, loaded from their file without its parent packages."""
    if NAMES not in sys.modules:
        package = importlib.util.find_spec("transformers")
        folders = (package and package.submodule_search_locations) or []
        spec = PathFinder.find_spec(NAMES, [f"{folder}/models/auto" for folder in folders])
        if spec is None or spec.loader is None:
            raise ImportError(f"There is no {NAMES}; expected transformers 5.18 to 5.23. Install one of them.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules.setdefault(NAMES, module)
    return importlib.import_module(NAMES)  # waits where another thread is importing it


def add_models() -> None:
    """Register the names of models and pipeline in transformers; importing `subcell_hf.model` does this.

    Whatever needs these names has a configuration of ours, which comes from there.
    """
    from transformers import AutoModelForImageClassification
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
    from transformers.pipelines import PIPELINE_REGISTRY

    rows: list[tuple[Any, Any]] = [(getattr(modeling_auto, mapping), name) for mapping, name in MODELS.items()]
    # Told nothing of video processors, `pipeline("image-classification")` asks whether it may run a folder's.
    rows += [(IMAGE_PROCESSOR_MAPPING, IMAGE_PROCESSORS), (VIDEO_PROCESSOR_MAPPING, {})]
    for mapping, name in rows:
        mapping._model_mapping[MODEL_TYPE] = name
        mapping._reverse_config_mapping["SubCellConfig"] = MODEL_TYPE  # may have been made before `add_names`
    PIPELINE_REGISTRY.supported_tasks[TASK] = _Task(
        impl="SubCellPipeline", pt=(AutoModelForImageClassification,), type="image"
    )
    PIPELINE_REGISTRY.supported_tasks[HUB_TASK] = _TaskByModel(PIPELINE_REGISTRY.supported_tasks[HUB_TASK])


class _Task(dict[str, Any]):
    """A row of transformers' table of pipelines; the class is imported when `pipeline` asks for it."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return getattr(sys.modules["subcell_hf"], value) if key == "impl" else value


class _TaskByModel(dict[str, Any]):
    """A row of a task that others have too: `pipeline` gets ours for a model of ours, and for any other the usual one.

    `pipeline` takes the class from this row and then calls it with the model, so the class decides at the call.
    """

    def __getitem__(self, key: str) -> Any:
        return self._class if key == "impl" else super().__getitem__(key)

    @cached_property
    def _class(self) -> type:
        usual = super().__getitem__("impl")
        if isinstance(usual, str):  # newer versions import a class when `pipeline` asks for it
            module, _, name = usual.rpartition(".")
            usual = getattr(importlib.import_module(module), name)

        def make(cls: type, model: Any, *args: Any, **kwargs: Any) -> Any:
            ours = model.config.model_type == MODEL_TYPE
            made = sys.modules["subcell_hf"].SubCellPipeline if ours else usual
            return made(model, *args, **kwargs)

        # Not an instance of this class, the pipeline is not initialized again, and is of the type that it says.
        return type(usual.__name__, (usual,), {"__new__": make, "__doc__": usual.__doc__})
