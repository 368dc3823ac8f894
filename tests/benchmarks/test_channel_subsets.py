"""The benchmark of sets of channels: which there are, what is trained, and how differences are summarized."""

import pytest

from benchmarks.channel_subsets import ANY_CHANNELS, SETS, WITHOUT_PROTEIN, channels_of, compare
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import build_config


def test_every_set_is_there_once() -> None:
    assert len({frozenset(letters) for letters in SETS}) == len(SETS) == 15
    assert channels_of("rybg") == ["red", "yellow", "blue", "green"]


def test_both_recipes_take_the_same_steps() -> None:
    shared, own = (
        parse_arguments([str(ANY_CHANNELS.with_name(f"{name}.yaml"))]) for name in ("any_channels", "quickstart")
    )
    same = ("num_train_epochs", "warmup_epochs", "base_learning_rate")
    assert [shared.training[name] for name in same] == [own.training[name] for name in same]
    assert (shared.data.views, shared.data.antibodies_per_batch) == (own.data.views, own.data.antibodies_per_batch)
    different = {
        name for name in shared.config.keys() | own.config.keys() if shared.config.get(name) != own.config.get(name)
    }
    assert different == {"channel_tokens", "channel_masking"}
    without = build_config(parse_arguments([str(ANY_CHANNELS.with_name("quickstart.yaml")), *WITHOUT_PROTEIN]))
    assert without.protein_contrast_weight == 0
    assert without.probe_detached


def test_differences_have_an_interval_over_seeds() -> None:
    found = compare([0.5, 0.6, 0.7], [0.4, 0.6, 0.5])
    assert found["difference"] == pytest.approx(0.1)
    half = 4.3027 * 0.1 / 3**0.5  # t of two degrees of freedom
    assert (found["interval_low"], found["interval_high"]) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-3)
    assert compare([0.5], [0.4]).keys() == {"separate", "own model", "difference"}
