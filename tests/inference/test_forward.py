"""Batches through a model: memory that runs out halves them, and reading goes on beside them."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import subcell_hf
from subcell_hf.errors import InputError
from subcell_hf.inference.engine.batches import read_ahead
from subcell_hf.inference.engine.forward import BatchEmbedder
from subcell_hf.inference.models import precision
from subcell_hf.inference.models.layer_times import LayerTimes
from subcell_hf.inference.models.loading import CellEncoder, choose_device, find_models
from subcell_hf.inference.models.precision import choose_precision
from subcell_hf.model.configuration_subcell import SubCellConfig
from tests.inference.embedding_runs import random_crops, save_tiny_model


def test_memory_that_runs_out_halves_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, crops = save_tiny_model(tmp_path / "model"), random_crops(10)
    sizes: list[int] = []
    forward = CellEncoder.forward

    def forward_of_a_small_device(self: CellEncoder, pixel_values: torch.Tensor, channels: object) -> object:
        if len(pixel_values) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(pixel_values))
        return forward(self, pixel_values, channels)

    plain = subcell_hf.embed(crops, model=model, precision="fp32", progress=False)
    monkeypatch.setattr(CellEncoder, "forward", forward_of_a_small_device)
    with pytest.warns(UserWarning, match="continuing with 2 images per batch"):
        small = subcell_hf.embed(crops, model=model, precision="fp32", progress=False, batch_size=10)
    assert sizes == [2] * 5
    np.testing.assert_allclose(small.embeddings, plain.embeddings, atol=1e-5)


def test_small_models_get_larger_batches_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where no other batch was measured as faster.
    monkeypatch.setattr(precision, "time_layer", lambda shape, device: LayerTimes(shape, 1, {}, {}))
    published = SubCellConfig()  # ViT-B/16 at 448 px, as in benchmarks/forward.py
    wide = SubCellConfig(image_size=896, hidden_size=1024, intermediate_size=4096, num_attention_heads=16)
    small = SubCellConfig(image_size=224, hidden_size=384, intermediate_size=1536, num_attention_heads=6)
    tiny = SubCellConfig(image_size=64, patch_size=8, hidden_size=64, intermediate_size=256, num_attention_heads=2)
    folder = find_models(save_tiny_model(tmp_path / "model"))[0]
    found = {}
    for name, config in {"published": published, "wide": wide, "small": small, "tiny": tiny}.items():
        variant = replace(folder.variant, crop_px=None)
        model = replace(folder, config=config.to_dict(), variant=variant)
        found[name] = BatchEmbedder([model], torch.device("cpu"), "fp32").batch_size
    assert found == {"published": 2, "wide": 1, "small": 15, "tiny": 64}
    larger = replace(folder, config=small.to_dict(), variant=replace(folder.variant, crop_px=448))
    assert BatchEmbedder([larger, model], torch.device("cpu"), "fp32").batch_size == 4  # of the larger of two
    assert BatchEmbedder([larger], torch.device("cpu"), "fp32", batch_size=7).batch_size == 7


def test_other_errors_of_a_model_are_not_taken_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(CellEncoder, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        subcell_hf.embed(random_crops(4), model=save_tiny_model(tmp_path / "model"), progress=False, batch_size=4)


def test_reading_is_ahead_and_its_errors_arrive() -> None:
    read: list[int] = []
    reached = threading.Event()

    def items() -> Iterator[int]:
        for number in range(4):
            read.append(number)
            if number == 2:
                reached.set()
            yield number
        raise OSError("the disk is gone")

    ahead = read_ahead(items(), depth=2)
    assert next(ahead) == 0
    assert reached.wait(10)  # item 2 was read though nobody had asked for item 1
    assert [next(ahead) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    ahead = read_ahead(iter(range(100)), depth=1)
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_models_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder, nor an id"):
        find_models(str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has no config\.json"):
        find_models(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="needs --models"):
        find_models("auto")
    with pytest.raises(InputError, match="Unknown precision"):
        choose_precision("fp8", (), torch.device("cpu"))
    with pytest.raises(InputError, match="'warp' cannot be used"):
        choose_device("warp")
