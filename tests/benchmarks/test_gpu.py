"""benchmarks/gpu/run.py runs to its end on a CPU in small: nothing but the GPU is new to it there."""

import copy
import importlib.util
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run.py"


@pytest.mark.slow
def test_all_measurements_are_written(tmp_path: Path) -> None:
    command = [sys.executable, BENCHMARK, "--device", "cpu", "--tiny", "--minutes", "60", "--output", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = {path.stem: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    found = {name: record["result"] for name, record in records.items()}
    assert set(found) == {f"{name}_cpu" for name in ("forward", "pretrain", "embed", "augment", "train_localization")}
    assert all(result["ratio"] > 0 and result["reference"] for result in found.values())
    assert all(record["command"].startswith("python benchmarks/") for record in records.values())
    forward, embed = found["forward_cpu"]["figures"], found["embed_cpu"]["figures"]
    assert {"reference", "transformers", "fp32", "bf16"} <= set(forward["cells_per_s"])
    assert set(forward["missing_ways"]) >= {"fp8", "fp32_compiled", "bf16_compiled"}
    assert forward["cosine_to_fp32"]["bf16"] > 0.99
    assert embed["smallest_cosine_to_reference"]["from_shards"] > 0.99
    assert ("int8" in embed["cells_per_s"]) == (find_spec("nncf") is not None)
    assert set(found["train_localization_cpu"]["figures"]["seconds"]) >= {"fp32", "bf16", "products_alone"}
    assert found["pretrain_cpu"]["figures"]["bf16"]["cells_per_s"] > 0
    augment = found["augment_cpu"]
    assert augment["shape"] == [4, 4, 48, 48]
    assert augment["ratio"] == min(figure["ratio"] for figure in augment["figures"].values())


def test_linear_layers_in_float8() -> None:
    """Torch computes the same call on a CPU, slowly; scales and layouts are those that a GPU asks for."""
    spec = importlib.util.spec_from_file_location("forward_benchmark", BENCHMARK.parents[1] / "forward.py")
    assert spec is not None
    assert spec.loader is not None
    forward = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(forward)
    torch.manual_seed(0)
    config = SubCellConfig.from_size("tiny", image_size=32, num_hidden_layers=2)
    model = SubCellForImageClassification(config).eval()
    with torch.inference_mode():
        float8 = forward.build_float8(copy.deepcopy(model).to(torch.bfloat16))
        replaced = [part for part in float8.modules() if isinstance(part, forward.Float8Linear)]
        images = torch.rand(2, 4, 32, 32)
        found, exact = float8(images.bfloat16()).pooler_output.float(), model(images).pooler_output
    assert len(replaced) == 6 * config.num_hidden_layers  # query, key, value, output, up and down
    for part in replaced:
        assert part.weight.T.stride(0) == 1  # a GPU takes the second matrix by columns
        assert part.scale.T.stride(1) == 1
    assert torch.cosine_similarity(found, exact).min() > 0.99
    assert not torch.equal(found, exact)
