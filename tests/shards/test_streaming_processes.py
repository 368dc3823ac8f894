"""Streaming in processes of its own: stopped and gone on with, over the Hub's protocol, and in little memory."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from subcell_hf.shards.batch_plan import BatchSettings
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.shards.streaming import training_loader
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import Forked

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: object, **environment: str) -> Any:
    """Run Python text in a child process, check its exit code and read its last line as JSON."""
    # Files, not pipes: orphaned workers hold on to a pipe for some seconds.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=output,
            stderr=errors,
            timeout=300,
            check=False,
        )
        output.seek(0)
        errors.seek(0)
        assert done.returncode == 0, errors.read().decode()
        return json.loads(output.read().splitlines()[-1])


GO_ON = """
import json, os, sys
from pathlib import Path
import torch
from subcell_hf.shards.batch_plan import BatchSettings
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.streaming import training_loader

folder, state_file, workers, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
loader = training_loader(ShardReader(folder), BatchSettings(4, 6, seed=7), split=None, workers=workers)
if state_file.exists():
    loader.load_state_dict(json.loads(state_file.read_text()))
seen = []
while len(seen) < count:
    for batch in loader:
        views = torch.rand(2, generator=torch.Generator().manual_seed(batch["view_seed"]))
        seen.append([batch["cell_ids"], views.tolist(), int(batch["pixels"].sum())])
        if len(seen) == count:
            break
state_file.write_text(json.dumps(loader.state_dict()))
print(json.dumps(seen), flush=True)
os._exit(0)  # As a killed job ends: nothing is tidied up.
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_twice_and_gone_on_with_in_new_processes(tmp_path: Path, workers: int) -> None:
    write_synthetic(tmp_path / "shards", SyntheticCrops(antibodies=10, cells_per_field=5))

    def go_on(state: str, workers: int, count: int) -> Any:
        words = map(str, (tmp_path / "shards", tmp_path / state, workers, count))
        done = Forked("-c", GO_ON, *words, log=tmp_path / "log")
        assert done.wait() == 0, done.output
        return json.loads(done.output.splitlines()[-1])

    expected = go_on("whole.json", 0, 7)
    seen: list[Any] = []
    for count in (2, 3, 2):
        seen += go_on("state.json", workers, count)
    assert seen == expected
    assert json.loads((tmp_path / "state.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())


HUB = """
import json, sys
from tests.hub import loopback_hub
loopback_hub.LARGE = ()  # no file goes through LFS
server, hub = loopback_hub.serve()
import os
os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_DISABLE_XET="1", HF_TOKEN="hf_write")
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("subcell/cells", repo_type="dataset")
api.upload_folder(folder_path=sys.argv[1], repo_id="subcell/cells", repo_type="dataset", path_in_repo="data")
from subcell_hf.shards.batch_plan import BatchSettings
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.streaming import training_loader
hub.log.clear()
reader = ShardReader("hf://datasets/subcell/cells/data")
batches = list(training_loader(reader, BatchSettings(2, 6, seed=7), split=None))
gets = [line for line in hub.log if line.startswith("GET") and ".tar" in line]
print(json.dumps({"ids": [batch["cell_ids"] for batch in batches], "gets": len(gets),
                  "sums": [int(batch["pixels"].sum()) for batch in batches]}))
"""


@pytest.mark.slow
def test_hub_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_synthetic(folder, SyntheticCrops(antibodies=4, cells_per_field=5))
    found = run(HUB, folder, HF_HOME=str(tmp_path / "home"))
    batches = list(training_loader(ShardReader(folder), BatchSettings(2, 6, seed=7), split=None))
    assert found["ids"] == [batch["cell_ids"] for batch in batches]
    assert found["sums"] == [int(batch["pixels"].sum()) for batch in batches]
    assert 0 < found["gets"] <= 4 * 6, "no more than one request for each cell"


PEAK = """
import json, resource, sys
from subcell_hf.shards.batch_plan import BatchSettings
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.streaming import in_order_loader, training_loader
reader = ShardReader(sys.argv[1])
cells = sum(len(batch["cell_ids"]) for batch in in_order_loader(reader, 20))
cells += sum(len(batch["cell_ids"]) for batch in training_loader(reader, BatchSettings(4, 5), split=None))
print(json.dumps([cells, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_read(tmp_path: Path) -> None:
    peaks = {}
    for antibodies in (5, 100):
        source = SyntheticCrops(antibodies=antibodies, fields_per_antibody=10, cells_per_field=10, size_px=64)
        write_synthetic(tmp_path / str(antibodies), source, ShardSettings(fields_per_shard=100))
        cells, peaks[antibodies] = run(PEAK, tmp_path / str(antibodies))
        assert cells >= 100 * antibodies
    pixels_kib = 10_000 * 5 * 64 * 64 / 1024
    assert peaks[100] < 2 * peaks[5]
    assert peaks[100] - peaks[5] < pixels_kib / 5, "the cells were kept"


def _read_as_one_of_two(rank: int, folder: str, rendezvous: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    loader = training_loader(ShardReader(folder), BatchSettings(4, 6, seed=7), split=None, workers=1)
    names = [batch["cell_ids"] for batch in loader]
    gathered: list[list[list[str]]] = [[], []]
    torch.distributed.all_gather_object(gathered, names)
    if rank == 0:
        Path(results).write_text(json.dumps(gathered), encoding="utf-8")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_process_group_shares_each_batch_without_being_told(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_synthetic(folder, SyntheticCrops(antibodies=10, cells_per_field=5))
    arguments = (str(folder), str(tmp_path / "rendezvous"), str(tmp_path / "names.json"))
    torch.multiprocessing.spawn(_read_as_one_of_two, args=arguments, nprocs=2)
    first, second = json.loads((tmp_path / "names.json").read_text(encoding="utf-8"))
    alone = [
        batch["cell_ids"] for batch in training_loader(ShardReader(folder), BatchSettings(4, 6, seed=7), split=None)
    ]
    assert [a + b for a, b in zip(first, second, strict=True)] == alone
    assert len(alone) == 3
