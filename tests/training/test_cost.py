"""What a step costs is what torch counts."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.training.monitoring.cost import estimate_step_cost

SHAPE = {
    "image_size": 64, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 64, "mask_ratio": 0.0, "reconstruction_weight": 0.0,
}  # fmt: skip


def test_convolutions_cost_what_torch_counts() -> None:
    counted, estimated = {}, {}
    for kind in ("linear", "convolutional"):
        config = SubCellConfig(patch_embedding_type=kind, **SHAPE)
        model = SubCellModel(config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.rand(1, 4, 64, 64))
        counted[kind] = counter.get_total_flops()
        estimated[kind] = estimate_step_cost(config, model, views=2).training_flops_per_cell
    added = counted["convolutional"] - counted["linear"]
    assert added == 2 * (32**2 * 8 * 4 * 9 + 16**2 * 16 * 8 * 9 + 8**2 * 32 * 16 * 9)
    assert estimated["convolutional"] - estimated["linear"] == 2 * 3 * added
