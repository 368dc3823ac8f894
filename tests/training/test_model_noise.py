"""What a step hides depends on the batch alone: not on how it is shared, nor on anything drawn before."""

import torch

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.training.pretraining.model_noise import draw_noise

EVERYTHING = SubCellConfig(
    image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
    pooling_hidden_size=16, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
    decoder_intermediate_size=24, projection_hidden_sizes=[24], projection_size=8, centroid_hidden_sizes=[24],
    protein_centroid_weight=1.0, centroid_noise_weight=0.5, context_mask_ratio=0.1,
)  # fmt: skip
PIXELS = torch.zeros(6, 2, 4, 32, 32)


def test_parts_of_a_batch_get_the_numbers_of_the_whole() -> None:
    whole = draw_noise(EVERYTHING, PIXELS, 3, antibodies=2)
    assert {name: list(value.shape) for name, value in whole.items()} == {
        "noise": [6, 2, 16], "teacher_noise": [6, 2, 16], "centroid_noise": [2, 8],
    }  # fmt: skip
    assert not torch.equal(whole["noise"], whole["teacher_noise"])
    torch.testing.assert_close(whole["centroid_noise"].norm(dim=1), torch.ones(2))
    parts = [
        draw_noise(EVERYTHING, PIXELS[first : first + 3], 3, antibodies=2, first_cell=first, global_cells=6)
        for first in (0, 3)
    ]
    for name in ("noise", "teacher_noise"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    assert torch.equal(parts[1]["centroid_noise"], whole["centroid_noise"])
    assert not torch.equal(draw_noise(EVERYTHING, PIXELS, 4, antibodies=2)["noise"], whole["noise"])


def test_channels_that_are_hidden_apart_have_numbers_of_their_own() -> None:
    apart = SubCellConfig(**{**EVERYTHING.to_dict(), "channel_tokens": "separate", "channel_masking": "apart"})
    assert list(draw_noise(apart, PIXELS[:, :, :3], 3, antibodies=2)["noise"].shape) == [6, 2, 3 * 16]


def test_torchs_default_generator_is_left_alone_and_nothing_is_left_to_it() -> None:
    """Without dropout, a step with given noise draws nothing more."""
    EVERYTHING.pooling_dropout = EVERYTHING.probe_dropout = 0.0
    model = SubCellForPreTraining(EVERYTHING).train()
    pixels = torch.rand(PIXELS.shape)
    before = torch.get_rng_state()
    noise = draw_noise(EVERYTHING, pixels, 3, antibodies=2)
    model(pixels, antibodies=torch.arange(6) // 3, locations=torch.zeros(6, 31), **noise)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_what_the_model_uses_is_drawn() -> None:
    plain = SubCellConfig(mask_ratio=0.5, patch_size=16, image_size=32)
    assert draw_noise(plain, PIXELS[:, :1], 0, antibodies=2).keys() == {"noise"}
    assert draw_noise(SubCellConfig(mask_ratio=0.0, context_mask_ratio=0.0), PIXELS, 0, antibodies=2) == {}
