"""Streaming: every batch as planned, whoever reads it, wherever it lies, and nothing that is damaged."""

import functools
import http.server
import json
import pickle
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from subcell_hf.data import shard_reader
from subcell_hf.data.batch_plan import BatchPlan, BatchSettings, InOrderPlan, round_robin
from subcell_hf.data.shard_index import ShardIndex
from subcell_hf.data.shard_reader import ShardReader, Span, merge_spans
from subcell_hf.data.sharding import ShardSettings
from subcell_hf.data.streaming import ShardBatch, ShardDataset, ShardLoader, in_order_loader, training_loader
from subcell_hf.errors import InputError
from tests.data.synthetic_crops import SyntheticCrops, expected_mask, expected_pixels, write_synthetic

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
            np.testing.assert_array_equal(batch["pixels"][position], expected_pixels(name, 8, "uint8"))
            np.testing.assert_array_equal(batch["cell_masks"][position], expected_mask(name, 8))
            found = {reader.index.classes[k] for k in batch["locations"][position].nonzero().flatten()}
            assert found == [{"Nucleoplasm"}, {"Cytosol"}, {"Nucleoplasm", "Cytosol"}, set()][antibody % 4]


def test_order_is_a_function_of_seed_and_epoch(reader: ShardReader, folder: Path) -> None:
    first = ids(whole(reader))
    assert ids(whole(ShardReader(folder), workers=2)) == first
    assert ids(whole(reader, epoch=1)) != first
    assert ids(whole(reader, settings=BatchSettings(4, 6, seed=8))) != first


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
        assert parts[0]["view_seed"] == batch["view_seed"]
        assert len({part["view_seed"] for part in parts}) == world_size


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
    seeds = [
        batch["view_seed"]
        for epoch in range(3)
        for rank in range(2)
        for batch in whole(reader, epoch, rank=rank, world_size=2)
    ]
    assert len(set(seeds)) == 18
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
    with pytest.raises(InputError, match=f"cannot go on where it stopped: {reason}"):
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


def test_splits_are_chosen_by_name(reader: ShardReader) -> None:
    trained = {name for batch in in_order_loader(reader, 32, split="train") for name in batch["cell_ids"]}
    tested = {name for batch in in_order_loader(reader, 32, split="test") for name in batch["cell_ids"]}
    assert len(trained) == 120
    assert len(tested) == 30
    assert {f"HPA{int(name.split('_')[0]):06d}" for name in tested} == set(reader.index.splits["test"])
    with pytest.raises(InputError, match="no split 'validation'; it has train, test"):
        reader.split_rows("validation")


def test_reader_goes_to_other_processes(reader: ShardReader) -> None:
    copy = pickle.loads(pickle.dumps(ShardDataset(reader, InOrderPlan(reader.split_rows(None), 4))))
    assert copy[0, 3]["cell_ids"] == reader.cells.names(np.arange(12, 16))


# Other places than a disk.


def test_any_fsspec_url(folder: Path, reader: ShardReader) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/shards", recursive=True)
    expected = whole(reader)
    for url in ("memory://shards", "simplecache::memory://shards", f"file://{folder}"):
        remote = ShardReader(url)
        found = whole(remote)
        assert ids(found) == ids(expected)
        assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(found, expected, strict=True))
    memory.rm("/shards", recursive=True)


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, with the range requests that http.server lacks; fails now and then."""

    failures = 0
    with_ranges = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or not self.with_ranges:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        start, end = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        self.wfile.write(content[start : end + 1])


@pytest.fixture
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[RangeHandler]]]:
    """The folder's URL and the handler, whose class attributes say how it behaves."""
    handler = type("Handler", (RangeHandler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(shard_reader, "FIRST_PAUSE_S", 0.01)
    yield f"http://127.0.0.1:{server.server_port}/{folder.name}", handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_http(served: tuple[str, type[RangeHandler]], reader: ShardReader, workers: int) -> None:
    url, handler = served
    handler.failures = 2
    found = whole(ShardReader(url), workers=workers)
    expected = whole(reader)
    assert ids(found) == ids(expected)
    assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(found, expected, strict=True))


def test_http_that_stays_broken_or_has_no_such_folder(served: tuple[str, type[RangeHandler]]) -> None:
    url, handler = served
    with pytest.raises(FileNotFoundError, match=r"has no index.json: it is no finished folder of shards"):
        ShardReader(url + "x")
    handler.failures = 1000
    with pytest.raises(OSError, match="network read failed 4 times"):
        ShardReader(url)


def test_http_without_ranges_is_named(served: tuple[str, type[RangeHandler]]) -> None:
    url, handler = served
    reader = ShardReader(url)
    handler.with_ranges = False
    with pytest.raises(InputError, match=r"does not answer range requests: .* Read it as simplecache::http://127"):
        reader.read(np.arange(4))
    cached = ShardReader(f"simplecache::{url}")
    np.testing.assert_array_equal(cached.read(np.arange(1))[0][0], expected_pixels("0_A1_0_1", 8, "uint8"))


def test_neighbours_are_fetched_together() -> None:
    spans = [Span(0, 5_000, 6_000), Span(0, 0, 1_000), Span(1, 0, 1_000), Span(0, 200_000, 200_010), Span(0, 0, 1_000)]
    assert merge_spans(spans) == {Span(0, 0, 6_000): [1, 4, 0], Span(0, 200_000, 200_010): [3], Span(1, 0, 1_000): [2]}
    large = [Span(0, k * 10_000_000, (k + 1) * 10_000_000) for k in range(3)]
    assert list(merge_spans(large)) == large
    assert merge_spans([]) == {}


# Damage and malice.


def changed(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit_index(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**record, **changes}))


def test_flipped_bit_is_found_when_its_cell_is_read(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    cells = ShardReader(copy).cells
    path = copy / "shard-000001.tar"
    row = int(np.flatnonzero(cells.shard == 1)[3])
    content = bytearray(path.read_bytes())
    content[int(cells.offset[row] + cells.pixels_start[row]) + 10] ^= 4
    path.write_bytes(content)
    reader = ShardReader(copy)
    reader.read(np.array([row - 1, row + 1]))
    name = cells.names(np.array([row]))[0]
    with pytest.raises(
        InputError, match=rf"Cell {name} at byte {cells.offset[row]} of .*shard-000001.tar: its checksum"
    ):
        reader.read(np.array([row]))


def test_files_that_do_not_agree_with_the_index_are_named(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    path = copy / "shard-000002.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-5000])
    with pytest.raises(InputError, match=rf"shard-000002.tar has {len(content) - 5000} bytes, expected {len(content)}"):
        ShardReader(copy)
    rows = np.flatnonzero(ShardReader(copy, compare_files=False).cells.shard == 2)
    with pytest.raises(InputError, match="the shard is truncated"):
        ShardReader(copy, compare_files=False).read(rows)
    path.unlink()
    with pytest.raises(InputError, match=r"shard-000002.tar is missing"):
        ShardReader(copy)
    path.write_bytes(content)
    shutil.copy(path, copy / "other.tar")
    with pytest.raises(InputError, match=r"other.tar is not in the index"):
        ShardReader(copy)


def test_index_and_table_must_belong_together(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path)
    (copy / "cells.parquet").write_bytes((copy / "cells.parquet").read_bytes()[:-1])
    with pytest.raises(InputError, match=r"cells.parquet has sha256 .*, but the index expects"):
        ShardReader(copy)


@pytest.mark.parametrize(
    "name", ["../secret.tar", "/etc/passwd", "pipe:id.tar", "http://x/y.tar", "a b.tar", ".tar", ""]
)
def test_shards_outside_of_the_folder_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    copy = changed(folder, tmp_path)
    shards = json.loads((copy / "index.json").read_text())["shards"]
    edit_index(copy, shards=[{**shards[0], "file": name}, *shards[1:]])
    with pytest.raises(InputError, match=r"names the shard .*expected a plain file name"):
        ShardReader(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2, this subcell_hf reads version 1. Update subcell_hf"),
        ({"format": "other"}, 'is no index of shards: expected "format": "subcell-shards"'),
        ({"crop_size_px": 10**6}, "would decode to"),
        ({"dtype": "object"}, "dtype object cannot be stored"),
        ({"antibodies": ["A", "A"]}, "names a antibody twice: A"),
        ({"genes": ["G"]}, "has 1 genes for 10 antibodies"),
        ({"splits": {"train": ["nobody"]}}, "puts nobody into split 'train', but"),
        ({"splits": {"a": ["HPA000001"], "b": ["HPA000001"]}}, "HPA000001 into the splits 'a' and 'b'"),
        ({"shards": [{"file": "shard-000000.tar"}]}, "is incomplete"),
        ({"cells": "many"}, "index.json is incomplete or damaged (ValueError"),
        ({"shards": []}, "150 cells lie outside their shard"),
        ({"cells": 3}, "the index expects 3 rows"),
        ({"classes": ["Cytosol"]}, "Unknown location 'Nucleoplasm'"),
        ({"cell_lines": []}, "names the cell line"),
    ],
)
def test_odd_indexes_are_refused(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    copy = changed(folder, tmp_path)
    edit_index(copy, **changes)
    with pytest.raises(InputError, match=re.escape(message)):
        ShardReader(copy)


def test_other_text_than_an_index(folder: Path, tmp_path: Path) -> None:
    for text in (b"", b"[]", b"\x80\x04.", b"{"):
        with pytest.raises(InputError, match=r"is no JSON|is no index of shards"):
            ShardIndex.from_json(text, "index.json")
    with pytest.raises(FileNotFoundError, match=r"has no index.json: it is no finished folder of shards"):
        ShardReader(tmp_path)


@pytest.mark.parametrize("url", ["pipe:cat shards", "simplecache::pipe:cat shards"])
def test_commands_are_never_run(url: str) -> None:
    with pytest.raises(InputError, match="commands are never run"):
        ShardReader(url)
