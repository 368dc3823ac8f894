"""Streaming: every batch as planned, on any number of processes and workers, from any step on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subcell_hf.augmentation.presets import load_preset
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.errors import InputError
from subcell_hf.shards.batch_plan import BatchSettings
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.shards.streaming import ShardBatch, ShardLoader, in_order_loader, training_loader
from subcell_hf.types import MultiViewBatch
from tests.cells.synthetic_crops import SyntheticCrops, expected_mask, expected_pixels, write_synthetic

SETTINGS = BatchSettings(antibodies_per_batch=4, cells_per_antibody=6, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten antibodies, three fields of five cells each."""
    path = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=10, fields_per_antibody=3, cells_per_field=5)
    write_synthetic(path, source, ShardSettings(fields_per_shard=6, split_fractions={"train": 0.8, "test": 0.2}))
    return path


@pytest.fixture
def reader(folder: Path) -> ShardReader:
    return ShardReader(folder)


def ids(batches: list[ShardBatch]) -> list[list[str]]:
    return [batch["cell_ids"] for batch in batches]


def whole(reader: ShardReader, epoch: int = 0, settings: BatchSettings = SETTINGS, **options: Any) -> list[ShardBatch]:
    """All batches of an epoch."""
    loader = training_loader(reader, settings, split=None, **options)
    loader.set_epoch(epoch)
    return list(loader)


def test_batches_hold_what_they_say(reader: ShardReader) -> None:
    for batch in whole(reader):
        assert batch["pixels"].shape == (24, 4, 8, 8)
        assert batch["pixels"].dtype == torch.uint8
        assert batch["cell_masks"].dtype == torch.bool
        assert batch["locations"].shape == (24, 35)
        assert (batch["antibodies"].reshape(4, 6) == batch["antibodies"].reshape(4, 6)[:, :1]).all()
        for position, name in enumerate(batch["cell_ids"]):
            antibody = int(name.split("_")[0])
            assert reader.index.antibodies[batch["antibodies"][position]] == f"HPA{antibody:06d}"
            field = reader.cells.fields_of_view[batch["fields_of_view"][position]]
            assert name.startswith(f"{field}_")
            line = reader.index.cell_lines[batch["cell_lines"][position]]
            assert line == ("U2OS", "A-431")[int(field[-1]) % 2]
            np.testing.assert_array_equal(batch["pixels"][position], expected_pixels(name, 8, "uint8"))
            np.testing.assert_array_equal(batch["cell_masks"][position], expected_mask(name, 8))
            found = {reader.index.classes[k] for k in batch["locations"][position].nonzero().flatten()}
            assert found == [{"Nucleoplasm"}, {"Cytosol"}, {"Nucleoplasm", "Cytosol"}, set()][antibody % 4]


def test_order_is_a_function_of_seed_and_epoch(reader: ShardReader, folder: Path) -> None:
    first = ids(whole(reader))
    assert ids(whole(ShardReader(folder), workers=2)) == first
    assert ids(whole(reader, epoch=1)) != first
    assert ids(whole(reader, settings=BatchSettings(4, 6, seed=8))) != first


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_same_global_batches(reader: ShardReader, world_size: int) -> None:
    expected = whole(reader)
    shares = [whole(reader, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(expected)}
    for step, batch in enumerate(expected):
        parts = [share[step] for share in shares]
        assert [name for part in parts for name in part["cell_ids"]] == batch["cell_ids"]
        assert torch.equal(torch.cat([part["pixels"] for part in parts]), batch["pixels"])
        assert torch.equal(torch.cat([part["repeated"] for part in parts]), batch["repeated"])
        assert {part["view_seed"] for part in parts} == {batch["view_seed"]}
        assert [part["first_cell"] for part in parts] == [24 // world_size * rank for rank in range(world_size)]
        assert {part["global_cells"] for part in parts} == {24}


@pytest.mark.parametrize("pipeline", ["multi_task", "contrastive"])
def test_processes_share_the_same_views(reader: ShardReader, pipeline: str) -> None:
    def views(**process: int) -> list[MultiViewBatch]:
        return [make_views(reader, batch, pipeline) for batch in whole(reader, **process)]

    expected = views()
    for world_size in (2, 4):
        shares = [views(rank=rank, world_size=world_size) for rank in range(world_size)]
        for step, batch in enumerate(expected):
            for name in ("pixel_values", "cell_masks"):
                together = torch.cat([share[step][name] for share in shares])
                assert torch.allclose(together.float(), batch[name].float(), atol=1e-5), (world_size, step, name)


def make_views(reader: ShardReader, batch: ShardBatch, pipeline: str) -> MultiViewBatch:
    generator = torch.Generator().manual_seed(batch["view_seed"])
    channels = reader.index.crop_format.channels
    where = {name: batch[name] for name in ("first_cell", "global_cells")}
    return ViewMaker(load_preset(pipeline).with_size(batch["pixels"].shape[-1]))(batch, channels, generator, **where)


def test_world_sizes_that_do_not_fit_are_refused(reader: ShardReader) -> None:
    with pytest.raises(InputError, match="4 antibodies per global batch cannot be shared by 3 processes"):
        training_loader(reader, SETTINGS, split=None, rank=0, world_size=3)
    with pytest.raises(InputError, match="5 cells per global batch cannot be shared by 2 processes"):
        in_order_loader(reader, 5, rank=0, world_size=2)
    with pytest.raises(InputError, match="rank must be"):
        training_loader(reader, SETTINGS, split=None, rank=2, world_size=2)
    with pytest.raises(InputError, match="both rank and world_size"):
        training_loader(reader, SETTINGS, split=None, rank=0)


def test_launchers_are_asked_for_rank_and_world_size(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ids(whole(reader)) == ids(whole(reader, rank=1, world_size=2))


def test_view_seeds_differ(reader: ShardReader) -> None:
    seeds = [batch["view_seed"] for epoch in range(3) for batch in whole(reader, epoch)]
    assert len(set(seeds)) == 9
    for seed in seeds:
        torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_going_on_from_any_step_twice_in_a_row(reader: ShardReader, workers: int) -> None:
    expected = [(batch["view_seed"], batch["cell_ids"]) for epoch in range(2) for batch in whole(reader, epoch)]
    for stop in range(7):
        loader = training_loader(reader, SETTINGS, split=None, workers=workers)
        seen = []
        for pause in (stop, min(stop + 2, 6)):
            state = json.loads(json.dumps(loader.state_dict()))
            loader = training_loader(reader, SETTINGS, split=None, workers=workers)
            loader.load_state_dict(state)
            seen += take(loader, pause - len(seen))
        state = loader.state_dict()
        loader = training_loader(reader, SETTINGS, split=None, workers=workers)
        loader.load_state_dict(state)
        seen += take(loader, 6 - len(seen))
        assert seen == expected, f"stopped after {stop}"


def take(loader: ShardLoader, count: int) -> list[tuple[int, list[str]]]:
    """The next batches, over epochs; the loader's state is taken while workers are ahead."""
    seen: list[tuple[int, list[str]]] = []
    while len(seen) < count:
        for batch in loader:
            seen.append((batch["view_seed"], batch["cell_ids"]))
            if len(seen) == count:
                return seen
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_torchs_default_generator_alone(reader: ShardReader, workers: int) -> None:
    """Dropout draws from it: a run that resumes within an epoch must find it as the checkpoint has it."""
    loaders = (
        training_loader(reader, SETTINGS, split=None, workers=workers),
        in_order_loader(reader, 8, workers=workers),
    )
    before = torch.get_rng_state()
    assert sum(1 for loader in loaders for _ in loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_follow_each_other_and_can_be_set(reader: ShardReader) -> None:
    loader = training_loader(reader, SETTINGS, split=None)
    assert len(loader) == 3
    assert ids(list(loader)) == ids(whole(reader, 0))
    assert ids(list(loader)) == ids(whole(reader, 1))
    loader.set_epoch(7)
    assert ids(list(loader)) == ids(whole(reader, 7))
    # Broken off: begins anew, unless the state is loaded.
    loader.set_epoch(2)
    next(iter(loader))
    assert loader.state_dict()["step"] == 1
    assert ids(list(loader)) == ids(whole(reader, 2))
    # The Trainer sets the epoch after a state was loaded: nothing is lost.
    state = {**loader.state_dict(), "epoch": 5, "step": 2}
    loader.load_state_dict(state)
    loader.set_epoch(5)
    assert ids(list(loader)) == ids(whole(reader, 5))[2:]


def test_state_after_the_last_batch_is_the_next_epoch(reader: ShardReader) -> None:
    loader = training_loader(reader, SETTINGS, split=None)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (1, 0)


def test_another_number_of_processes_goes_on_with_the_same_global_batches(reader: ShardReader) -> None:
    loader = training_loader(reader, SETTINGS, split=None, rank=0, world_size=1)
    next(iter(loader))
    shares = []
    for rank in range(2):
        share = training_loader(reader, SETTINGS, split=None, rank=rank, world_size=2)
        share.load_state_dict(loader.state_dict())
        shares.append(ids(list(share)))
    assert [a + b for a, b in zip(*shares, strict=True)] == ids(whole(reader))[1:]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (BatchSettings(5, 6, seed=7), "antibodies_per_batch was 4, is 5"),
        (BatchSettings(4, 5, seed=7), "cells_per_antibody was 6, is 5"),
        (BatchSettings(4, 6, seed=8), "seed was 7, is 8"),
    ],
)
def test_states_of_other_batches_are_refused(reader: ShardReader, other: BatchSettings, reason: str) -> None:
    state = training_loader(reader, SETTINGS, split=None).state_dict()
    with pytest.raises(InputError, match=f"cannot be resumed: {reason}"):
        training_loader(reader, other, split=None).load_state_dict(state)
    with pytest.raises(InputError, match="cells was"):
        training_loader(reader, SETTINGS, split="train").load_state_dict(state)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_more_workers_than_shards(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SyntheticCrops(antibodies=2), ShardSettings(fields_per_shard=100))
    reader = ShardReader(tmp_path)
    assert len(reader.index.shards) == 1
    settings = BatchSettings(2, 8)
    assert ids(whole(reader, settings=settings, workers=3)) == ids(whole(reader, settings=settings))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_in_order_every_cell_once(reader: ShardReader, world_size: int) -> None:
    loaders = [in_order_loader(reader, 16, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(loader) for loader in loaders]
    assert {len(share) for share in shares} == {10}
    names = [
        name
        for parts in zip(*shares, strict=True)
        for part in parts
        for name, repeated in zip(part["cell_ids"], part["repeated"].tolist(), strict=True)
        if not repeated
    ]
    assert names == reader.cells.names(np.arange(150))
    for parts in zip(*shares, strict=True):
        assert len({len(part["cell_ids"]) for part in parts}) == 1, "every process has as many"
