"""Two and four gloo processes give the loss and every gradient of one process on the same global batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from tests.forked import Forked

BASE = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "pooling_hidden_size": 16, "pooling_dropout": 0.0, "probe_dropout": 0.0, "num_labels": 5,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24, "projection_hidden_sizes": [24, 24], "projection_size": 8,
    "centroid_hidden_sizes": [24],
}  # fmt: skip
OFF = {"reconstruction_weight": 0.0, "cell_contrast_weight": 0.0, "protein_contrast_weight": 0.0, "mask_ratio": 0.0}
RECIPES = {
    "mae": OFF | {"reconstruction_weight": 1.0, "mask_ratio": 0.5, "object_mask_ratio": 0.5},
    "cell": OFF | {"cell_contrast_weight": 1.0},
    "protein": OFF | {"protein_contrast_weight": 1.0},
    "cell_protein": OFF | {"cell_contrast_weight": 1.0, "protein_contrast_weight": 1.0},
    "mae_cell_protein_contrast": {},
    "mae_cell_protein_centroid": {
        "reconstruction_weight": 0.5, "cell_contrast_weight": 0.5, "protein_contrast_weight": 0.0,
        "protein_centroid_weight": 1.0, "context_mask_ratio": 0.05, "centroid_noise_weight": 0.2,
    },
    "cell_protein_centroid": OFF | {"cell_contrast_weight": 1.0, "protein_centroid_weight": 1.0},
    "supervised": OFF | {"probe_detached": False},
    "separate": {"channel_tokens": "separate", "object_mask_ratio": 0.5},
    "separate_without_protein": {"channel_tokens": "separate", "protein_centroid_weight": 1.0},
    "parts": {
        "cell_pooling_heads": 1, "cell_contrast_positives": "field_of_view", "protein_views": "first",
        "probe_detached": False,
    },
}  # fmt: skip
RECIPES["separate_parts"] = RECIPES["parts"] | RECIPES["separate"]


CHANNELS = {
    "separate": ["other", "red", "protein", "blue"],
    "separate_without_protein": ["red", "blue", "other", "other_2"],
    "separate_parts": ["other", "red", "protein", "blue"],
}
PARTS = {
    # Antibodies with two cells or more, and fields whose cells are on several processes.
    "antibodies": torch.tensor([0, 2, 0, 2, 1, 2, 1, 2]),
    "cell_groups": torch.tensor([0, 3, 0, 2, 1, 3, 1, 2]),
}


def _model(recipe: str) -> SubCellForPreTraining:
    torch.manual_seed(0)
    return SubCellForPreTraining(SubCellConfig(**BASE | RECIPES[recipe])).double().train()


def _global_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.rand(8, 2, 4, 32, 32, generator=generator, dtype=torch.float64),
        "cell_masks": torch.rand(8, 2, 32, 32, generator=generator) > 0.5,
        # Antibody 2 has cells on every process, and the counts differ.
        "antibodies": torch.tensor([0, 2, 0, 2, 1, 2, 3, 2]),
        "locations": torch.randint(0, 2, (8, 5), generator=generator).double(),
        "noise": torch.rand(8, 2, 4, generator=generator),
        "teacher_noise": torch.rand(8, 2, 4, generator=generator),
    }


def _train_step(recipe: str, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    model = _model(recipe)
    everything = _global_batch() | (PARTS if recipe.endswith("parts") else {})
    inputs = {name: value.chunk(world)[rank] for name, value in everything.items()}
    inputs["centroid_noise"] = torch.nn.functional.normalize(
        torch.randn(4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64), dim=-1
    )
    run = DistributedDataParallel(model) if world > 1 else model
    outputs = run(**inputs, channels=CHANNELS.get(recipe))
    outputs.loss.backward()
    loss = outputs.loss.detach().clone()
    if world > 1:
        dist.all_reduce(loss)
    results = {"loss": loss / world}
    results |= {f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return results | {f"buffer.{name}": buffer for name, buffer in model.named_buffers()}


def take_part(rank_of_process: str, world_size: str, folder: str) -> None:
    """What each process does."""
    rank, world = int(rank_of_process), int(world_size)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results = {recipe: _train_step(recipe, rank, world) for recipe in RECIPES}
    if rank == world - 1:
        torch.save(results, Path(folder) / "results.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_are_one_process(world: int, tmp_path: Path) -> None:
    code = "import sys; from tests.model.test_global_batch import take_part; take_part(*sys.argv[1:])"
    ranks = [
        Forked("-c", code, str(rank), str(world), str(tmp_path), log=tmp_path / f"{rank}.log") for rank in range(world)
    ]
    for rank in ranks:
        assert rank.wait() == 0, rank.output
    together = torch.load(tmp_path / "results.pt", weights_only=True)
    for recipe in RECIPES:
        alone = _train_step(recipe)
        assert alone.keys() == together[recipe].keys()
        for name, expected in alone.items():
            torch.testing.assert_close(together[recipe][name], expected, atol=1e-9, rtol=1e-7, msg=f"{recipe}: {name}")
