"""The same tables from Ray Data, also when a worker dies on the way."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import CroppedFields
from subcell_hf.errors import InputError
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.tables.files import read_table
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

SMALL = CropSettings(crop_px=128, output_px=32)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of two workers on this machine that reports nothing."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    root = str(Path(__file__).parents[2])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()


def kill_a_worker(killed: list[int], stop: threading.Event) -> None:
    """SIGKILL the first worker that is seen at work on embedding."""
    while not stop.is_set() and not killed:
        for process in psutil.Process().children(recursive=True):
            try:
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and "_Embedding" in title:
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)
                    return
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        time.sleep(0.02)


@pytest.mark.slow
def test_a_worker_that_dies_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 12)
    (fields / "7_A3_1_red.png").write_bytes(b"no picture")
    run(fields, model, tmp_path / "local", orientations=4)
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=kill_a_worker, args=(killed, stop))
    killer.start()
    report = run(fields, model, tmp_path / "ray", engine="ray", orientations=4)
    stop.set()
    killer.join()
    assert killed
    assert [name for name, _ in report.skipped] == ["7_A3_1"]
    local, ray = read_table(tmp_path / "local"), read_table(tmp_path / "ray")
    assert local.cells.drop(columns=["top_probability_1", "top_probability_2", "top_probability_3"]).equals(
        ray.cells.drop(columns=["top_probability_1", "top_probability_2", "top_probability_3"])
    )
    np.testing.assert_allclose(local.embeddings, ray.embeddings, atol=1e-5)
    np.testing.assert_allclose(local.probabilities, ray.probabilities, atol=1e-5)
    assert (tmp_path / "local" / "skipped.csv").read_bytes() == (tmp_path / "ray" / "skipped.csv").read_bytes()
    # Ray, which says that a worker died, would put another in its place, and numba compiles nothing that calls that.
    assert type(print) is type(len)


@pytest.mark.slow
def test_crops_and_shards_are_those_of_a_local_run(cluster: Any, tmp_path: Path) -> None:
    fields = write_fields(tmp_path / "fields", 3)
    (fields / "metadata.csv").write_text(
        "field_of_view,antibody,gene\n" + "".join(f"7_A{n}_1,HPA{n},G{n}\n" for n in range(3))
    )
    settings = ShardSettings(fields_per_shard=1, split_by=None)
    for engine in ("local", "ray"):
        crop_fields(fields, tmp_path / f"crops_{engine}", settings=SMALL, progress=False, engine=engine)
        source = CroppedFields(tmp_path / "crops_local")
        write_shards(source, tmp_path / f"shards_{engine}", settings, progress=False, engine=engine)
    for name in ("crops", "shards"):
        local, ray = tmp_path / f"{name}_local", tmp_path / f"{name}_ray"
        files = sorted(path.relative_to(local) for path in local.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(ray) for path in ray.rglob("*") if path.is_file())
        for path in files:
            assert (local / path).read_bytes() == (ray / path).read_bytes(), path


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown engine 'dask'"):
        crop_fields(tmp_path, tmp_path / "out", engine="dask", progress=False)
