"""`import subcell_hf` and `transformers` in every order: all names import, Auto classes and `pipeline` know ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.pipelines import PIPELINE_REGISTRY

from subcell_hf import registration
from subcell_hf.model import configuration_subcell
from tests.forked import run_program
from tests.hub.tiny_models import save_tiny

ORDERS = {
    "package first": "import subcell_hf, transformers",
    "package last": "import transformers.pipelines, transformers.models.auto.modeling_auto, subcell_hf",
    "model room only": "import subcell_hf.model.modeling_subcell, transformers",
}


class SquareImages(transformers.BaseImageProcessor):
    """Images of the right size as they are."""

    def __call__(self, images: Image.Image, **settings: object) -> transformers.BatchFeature:
        pixels = torch.from_numpy(np.asarray(images, np.float32)).permute(2, 0, 1)
        return transformers.BatchFeature({"pixel_values": pixels[None]})


def _run(code: str, *arguments: object) -> str:
    """What a fresh interpreter prints; nobody answers its questions."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "run the custom code" not in done.stdout + done.stderr
    return done.stdout


def _run_beside_libraries(folder: Path, code: str, *arguments: object) -> str:
    """What it prints where the libraries of transformers, but not transformers, are imported already."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    output = run_program("-c", code, *map(str, arguments), log=folder / "log", env=environment)
    assert "run the custom code" not in output
    return output


def test_importing_the_package_imports_nothing_else_and_watches_no_import() -> None:
    code = (
        "import sys; before = list(sys.meta_path); import subcell_hf; assert sys.meta_path == before\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'transformers.models.auto'} & set(sys.modules)))"
    )
    assert _run(code).strip() == "[]"


# Each name is the first that its interpreter takes from transformers. torch, whose own import takes most of the time,
# is there already.
FIRST_NAMES = """
import os, sys, subcell_hf, torch
for line in sys.argv[1:]:
    if not os.fork():
        exec(line)
        os._exit(0)
    print(line if os.wait()[1] else "works")
"""


@pytest.mark.slow
def test_whichever_name_of_transformers_is_imported_first(tmp_path: Path) -> None:
    lines = [
        "from transformers import pipeline",
        "from transformers import PreTrainedModel",
        "import transformers.models.auto.auto_mappings as names; names.CONFIG_MAPPING_NAMES",
        "from subcell_hf import SubCellPipeline; from transformers import Trainer",
    ]
    said = _run_beside_libraries(tmp_path, FIRST_NAMES, *lines).splitlines()
    assert [line for line in said if line in {"works", *lines}] == ["works"] * len(lines)


ALL_NAMES = """
import json, sys, {first}
import transformers
failed = {{}}
for name in sorted(transformers.__all__):
    try:
        getattr(transformers, name)
    except BaseException as error:
        failed[name] = type(error).__name__
print("FAILED", json.dumps(failed))
"""


@pytest.mark.slow
def test_every_public_name_of_transformers_is_imported_as_without_the_package() -> None:
    failed = json.loads(_run(ALL_NAMES.format(first="subcell_hf")).split("FAILED")[1])
    if failed:  # libraries that are missing here may be missed without the package too
        assert failed == json.loads(_run(ALL_NAMES.format(first="os")).split("FAILED")[1])


# transformers itself does not survive a first import by several threads at once, with or without this package.
IN_THREADS = """
import os, sys, threading, traceback, transformers.pipelines, transformers.image_processing_utils
lines = sys.argv[1:]
for turn in range(2):
    if not os.fork():
        failed, barrier = [], threading.Barrier(len(lines))
        def work(line):
            barrier.wait()
            try:
                exec(line, {})
            except BaseException:
                failed.append(traceback.format_exc())
        threads = [threading.Thread(target=work, args=[line]) for line in lines[turn:] + lines[:turn]]
        [thread.start() for thread in threads]
        [thread.join(60) for thread in threads]
        print(*failed, sep="\\n", file=sys.stderr, flush=True)
        os._exit(bool(failed) or any(thread.is_alive() for thread in threads))
    print(os.wait()[1])
"""


def test_threads_that_import_at_the_same_time() -> None:
    lines = [
        "import subcell_hf",
        "from transformers import AutoConfig; import subcell_hf; AutoConfig.for_model('subcell')",
        "import subcell_hf.model.configuration_subcell",
        "import subcell_hf.model.modeling_subcell",
        "from subcell_hf.model.pipeline_subcell import SubCellPipeline",
        "from subcell_hf import SubCellImageProcessor",
        "import subcell_hf; from transformers import AutoModel; config = subcell_hf.SubCellConfig.from_size('tiny', "
        "num_hidden_layers=1, image_size=32); AutoModel.from_config(config)",
    ]
    assert _run(IN_THREADS, *lines).split() == ["0"] * 2


# Without a word of trust_remote_code, in one interpreter per order.
WITHOUT_TRUST = """
{order}
import sys, numpy as np
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, pipeline
)
classifier, pretraining = sys.argv[1:]
cell = np.random.default_rng(0).integers(0, 255, (4, 64, 64), dtype=np.uint8)
made = [
    AutoImageProcessor.from_pretrained(classifier), AutoModel.from_pretrained(classifier),
    AutoModelForImageClassification.from_pretrained(classifier), AutoModelForPreTraining.from_pretrained(pretraining),
    AutoConfig.from_pretrained(classifier), AutoConfig.for_model("subcell"),
]
made += [AutoModel.from_config(made[-2]), AutoModelForImageClassification.from_config(made[-2])]
made += [pipeline(model=classifier), pipeline("subcell-localization", model=classifier)]
made += [pipeline("subcell-localization", model=made[2], image_processor=made[0])]
made += [pipeline(model=classifier, trust_remote_code=True), pipeline("image-classification", model=classifier)]
made += [pipeline("image-classification", model=made[2], image_processor=made[0])]
print(*(type(thing).__module__.rpartition(".")[0] for thing in made))
print(*(locate(cell) == made[-6](cell) and len(locate(cell)) for locate in made[-6:]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [
        save_tiny(kind, tmp_path_factory.mktemp("folders") / kind)
        for kind in ("SubCellForImageClassification", "SubCellForPreTraining")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_and_pipeline_take_the_package_in_every_order(
    order: str, folders: list[Path], tmp_path: Path
) -> None:
    code = WITHOUT_TRUST.format(order=ORDERS[order])
    modules, located = _run_beside_libraries(tmp_path, code, *folders).strip().splitlines()[-2:]
    assert modules.split() == ["subcell_hf.model"] * 14
    assert located.split() == ["5"] * 6


def test_models_of_other_types_keep_their_pipelines() -> None:
    usual = transformers.pipelines.ImageClassificationPipeline
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
                               image_size=16, patch_size=8, num_labels=3)
    )  # fmt: skip
    made = transformers.pipeline("image-classification", model=model, image_processor=SquareImages())
    assert type(made) is usual
    assert made.task == "image-classification"
    assert len(made(Image.new("RGB", (16, 16)))) == 3
    assert issubclass(PIPELINE_REGISTRY.supported_tasks["image-classification"]["impl"], usual)


WITHOUT_PILLOW = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("PIL", "torchvision"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np, subcell_hf
from transformers import AutoModelForImageClassification, pipeline
model = AutoModelForImageClassification.from_pretrained(sys.argv[1])
processor = subcell_hf.SubCellImageProcessor.from_pretrained(sys.argv[1])
print(len(pipeline("subcell-localization", model=model, image_processor=processor)(np.ones((4, 64, 64)))))
"""


@pytest.mark.slow
def test_pillow_is_not_needed(folders: list[Path]) -> None:
    assert _run(WITHOUT_PILLOW, folders[0]).strip() == "5"


def test_the_names_of_registration_are_those_of_the_configuration() -> None:
    assert registration.TASK == configuration_subcell.TASK
    assert configuration_subcell.SubCellConfig.model_type == registration.MODEL_TYPE
    models = {name.rpartition(".")[2] for auto, name in configuration_subcell.AUTO_MAP.items() if "Model" in auto}
    assert set(registration.MODELS.values()) == models


def test_the_tasks_of_a_folder_are_only_those_that_need_its_code() -> None:
    tasks = {registration.TASK: {}, "another": {}}
    custom = configuration_subcell.SubCellConfig(custom_pipelines=tasks).custom_pipelines
    assert custom == tasks
    assert "another" in custom
    assert registration.TASK not in custom
