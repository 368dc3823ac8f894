"""Which cells stand in which batch."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.shards.batch_plan import BatchPlan, BatchSettings, round_robin
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.shards.streaming import ShardBatch, training_loader
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic

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


def test_every_antibody_stands_once_in_an_epoch_and_fillers_are_marked(reader: ShardReader) -> None:
    batches = whole(reader)
    assert len(batches) == 3
    seen = Counter(int(label) for batch in batches for label in batch["antibodies"][~batch["repeated"]].tolist())
    assert seen == dict.fromkeys(range(10), 6)
    for batch in batches:
        assert len(set(batch["antibodies"].tolist())) == 4, "the antibodies of a batch differ"
    assert sum(int(batch["repeated"].sum()) for batch in batches) == 2 * 6
    plan = BatchPlan(reader.cells, reader.split_rows(None), SETTINGS)
    assert plan.repeated_antibodies_per_epoch == 2


def test_last_batch_can_be_dropped(reader: ShardReader) -> None:
    batches = whole(reader, settings=BatchSettings(4, 6, last_batch="drop"))
    assert len(batches) == 2
    assert not any(batch["repeated"].any() for batch in batches)
    over_epochs = {
        int(label)
        for epoch in range(12)
        for batch in whole(reader, epoch, BatchSettings(4, 6, last_batch="drop"))
        for label in batch["antibodies"]
    }
    assert over_epochs == set(range(10)), "another remainder is dropped in each epoch"


def test_cells_come_in_turn_from_every_field_and_all_are_used_in_time(reader: ShardReader) -> None:
    used = Counter[str]()
    for epoch in range(30):
        for batch in whole(reader, epoch):
            for cells in np.array(batch["cell_ids"]).reshape(4, 6):
                fields = Counter(name.rsplit("_", 1)[0] for name in cells)
                assert len(set(cells)) == 6
                assert sorted(fields.values()) == [2, 2, 2]
            used.update(batch["cell_ids"])
    assert len(used) == 150
    assert min(used.values()) > 4


def test_round_robin_takes_each_stratum_before_any_again() -> None:
    strata = np.array([5, 5, 5, 5, 9, 9, 2])
    orders = set()
    for seed in range(200):
        order = round_robin(strata, np.random.default_rng(seed))
        assert sorted(order) == list(range(7))
        assert sorted(strata[order[:3]]) == [2, 5, 9]
        assert sorted(strata[order[3:5]]) == [5, 9]
        orders.add(tuple(strata[order[:3]]))
    assert len(orders) == 6, "strata come in random order"


def test_antibodies_with_too_few_cells(tmp_path: Path) -> None:
    source = SyntheticCrops(antibodies=3, fields_per_antibody=1, cells_per_field=5)
    write_synthetic(tmp_path, source)
    reader = ShardReader(tmp_path)
    settings = BatchSettings(antibodies_per_batch=3, cells_per_antibody=12)
    (batch,) = whole(reader, settings=settings)
    for cells, repeated in zip(
        np.array(batch["cell_ids"]).reshape(3, 12), batch["repeated"].reshape(3, 12), strict=True
    ):
        assert len(set(cells[:5])) == len(set(cells[5:10])) == 5
        assert repeated.tolist() == [False] * 5 + [True] * 7
    assert BatchPlan(reader.cells, reader.split_rows(None), settings).short_antibodies.tolist() == [0, 1, 2]
    with pytest.raises(
        InputError, match=r"needs 3 different antibodies, but only 0 can be used \(3 of 3 have fewer than 12"
    ):
        whole(reader, settings=BatchSettings(3, 12, short_antibodies="drop"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"antibodies_per_batch": 0},
        {"cells_per_antibody": 0},
        {"seed": -1},
        {"last_batch": "x"},
        {"short_antibodies": ""},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        BatchSettings(**{"antibodies_per_batch": 4, **wrong})
