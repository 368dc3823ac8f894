"""What an unfinished run has finished is checked before it is used: damage is found, and that piece is done again."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from subcell_hf.cells.cropping import crop_fields
from subcell_hf.cells.sources import CroppedFields
from subcell_hf.errors import InputError
from subcell_hf.evaluation.baselines.measurements import Measurements
from subcell_hf.inference.engine.embedding import Processes
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.storage.records import read_record, write_record
from subcell_hf.tables.attention_maps import ATTENTION_FILE
from subcell_hf.tables.portable import write_portable_files
from subcell_hf.training.runs.checkpoints import find_problems, finish_checkpoint, staging_folder
from subcell_hf.types import FieldCrops
from tests.cells.synthetic_crops import SyntheticCrops
from tests.inference.embedding_runs import run, save_tiny_model, write_fields


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero_end(path: Path) -> None:
    """As after a crash of the machine: right size, last bytes never written."""
    content = path.read_bytes()
    path.write_bytes(content[: -len(content) // 3] + bytes(len(content) // 3))


DAMAGE: list[Callable[[Path], None]] = [flip, cut, empty, zero_end, Path.unlink]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    return write_fields(folder / "fields", 4), save_tiny_model(folder / "model")


@pytest.fixture(scope="module")
def whole(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "out"
    run(*inputs, output, attention_maps=True)
    return output


@pytest.fixture(scope="module")
def half(inputs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which parts 1 and 3 of 4 are finished."""
    output = tmp_path_factory.mktemp("half") / "out"
    run(*inputs, output, attention_maps=True, processes=Processes(1, 2, 0))
    return output


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("simulated") / "out"
    simulate_dataset(2, 3, output, size_px=256, progress=False)
    return output


def tables(folder: Path) -> dict[str, bytes]:
    """Every file but `run.json`, which holds times."""
    return {
        path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.json"
    }


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *(("parquet", damage) for damage in DAMAGE),
        *((kind, damage) for kind in ("pictures.parquet", "json") for damage in (flip, cut, Path.unlink)),
        (ATTENTION_FILE, flip),
    ],
)
def test_a_damaged_part_of_an_embedding_is_made_again(
    damage: Callable[[Path], None],
    kind: str,
    inputs: tuple[Path, Path],
    whole: Path,
    half: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    output = shutil.copytree(half, tmp_path / "out")
    damage(output / "parts" / f"part-000001.{kind}")
    with caplog.at_level(logging.WARNING):
        report = run(*inputs, output, attention_maps=True)
    assert report.resumed_parts == 1
    assert tables(output) == tables(whole)
    gone = damage is Path.unlink and kind == "json"  # a part that was never finished
    assert ("part-000001" in caplog.text) is not gone


def test_a_damaged_part_of_another_process_is_made_again(
    inputs: tuple[Path, Path], whole: Path, half: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(half, tmp_path / "out")
    flip(output / "parts" / "part-000003.pictures.parquet")
    run(*inputs, output, attention_maps=True, processes=Processes(0, 2, 0))
    assert tables(output) == tables(whole)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_plan_of_an_embedding_loses_nothing(
    damage: Callable[[Path], None], inputs: tuple[Path, Path], whole: Path, half: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(half, tmp_path / "out")
    damage(output / "parts" / "plan.json")
    assert run(*inputs, output, attention_maps=True).resumed_parts == 2
    assert tables(output) == tables(whole)


def test_parts_of_another_run_are_refused_without_a_plan(inputs: tuple[Path, Path], half: Path, tmp_path: Path) -> None:
    output = shutil.copytree(half, tmp_path / "out")
    empty(output / "parts" / "plan.json")
    before = tables(output)
    with pytest.raises(InputError, match="other inputs or settings"):
        run(*inputs, output, pictures=1, attention_maps=True)
    assert tables(output) == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, damage) for name in ("embeddings.parquet", "pictures.parquet", ATTENTION_FILE)
       for damage in (flip, cut, Path.unlink)),
     ("skipped.csv", Path.unlink)],
)  # fmt: skip
def test_a_finished_run_that_was_damaged_is_not_called_complete(
    damage: Callable[[Path], None], name: str, inputs: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(whole, tmp_path / "out")
    damage(output / name)
    with pytest.raises(InputError, match=rf"damaged: {name} (is missing|has .*)\. Copy the folder again"):
        run(*inputs, output, attention_maps=True)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_anndata_file_of_a_finished_run_is_written_again(
    damage: Callable[[Path], None], inputs: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(whole, tmp_path / "out")
    damage(output / "embeddings.h5ad")
    run(*inputs, output, attention_maps=True)
    assert tables(output) == tables(whole)


def test_a_damaged_run_json_is_named(inputs: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    output = shutil.copytree(whole, tmp_path / "out")
    cut(output / "run.json")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        run(*inputs, output, attention_maps=True)


@pytest.mark.parametrize("ending", ["tiff", "json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_crops_are_cut_again(
    damage: Callable[[Path], None], ending: str, inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "crops"
    crop_fields(inputs[0], output, progress=False)
    before = tables(output)
    damage(output / "fields" / f"7_A1_1.{ending}")
    crop_fields(inputs[0], output, progress=False)
    assert tables(output) == before


def test_the_table_of_crops_is_written_again(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "crops"
    crop_fields(inputs[0], output, progress=False)
    before = tables(output)
    cut(output / "crops.parquet")
    with pytest.raises(InputError, match=r"crops\.parquet"):
        CroppedFields(output).fields()
    crop_fields(inputs[0], output, progress=False)
    assert tables(output) == before


def test_crops_whose_bytes_have_changed_are_not_read(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    crop_fields(inputs[0], tmp_path / "crops", progress=False)
    flip(tmp_path / "crops" / "fields" / "7_A1_1.tiff")
    with pytest.raises(InputError, match=r"7_A1_1\.tiff is damaged.*Run the same subcell crops command again"):
        CroppedFields(tmp_path / "crops").read("7_A1_1")


class _StopError(Exception):
    """Ends a run as a kill would."""


class _Stops(SyntheticCrops):
    """Crops of which the last antibody cannot be read, as if the run were killed there."""

    def read(self, name: str) -> FieldCrops:
        if name == self.fields()[-1].name:
            raise _StopError
        return super().read(name)


@pytest.mark.parametrize("name", ["1_A1_1_red.png", "1_A1_1_mask.png", ".1_A1_1.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_simulated_fields_are_made_again(
    damage: Callable[[Path], None], name: str, simulated: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(simulated, tmp_path / "out")
    damage(output / name)
    assert simulate_dataset(2, 3, output, size_px=256, progress=False) == 1
    assert tables(output) == tables(simulated)


SHARDS = {"antibodies": 4, "fields_per_antibody": 1, "cells_per_field": 3, "size_px": 16}


@pytest.mark.parametrize("name", ["shard-000000.tar", ".progress/shard-000000.json", ".progress/plan.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_shards_are_written_again(damage: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    settings = ShardSettings(fields_per_shard=1, split_by=None)
    write_shards(SyntheticCrops(**SHARDS), tmp_path / "whole", settings, progress=False)
    with pytest.raises(_StopError):
        write_shards(_Stops(**SHARDS), tmp_path / "out", settings, progress=False)
    damage(tmp_path / "out" / name)
    report = write_shards(SyntheticCrops(**SHARDS), tmp_path / "out", settings, progress=False)
    assert report.resumed_shards == (3 if name.endswith("plan.json") else 2)
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, damage) for name in ("shard-000001.tar", "cells.parquet") for damage in DAMAGE),
     ("skipped.csv", Path.unlink)],
)  # fmt: skip
def test_finished_shards_that_were_damaged_are_not_called_complete(
    damage: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    settings = ShardSettings(fields_per_shard=1, split_by=None)
    write_shards(SyntheticCrops(**SHARDS), tmp_path, settings, progress=False)
    assert write_shards(SyntheticCrops(**SHARDS), tmp_path, settings, progress=False).resumed_shards == 4
    damage(tmp_path / name)
    with pytest.raises(InputError, match=rf"damaged: {name} (is missing|has .*)\. Copy the folder again"):
        write_shards(SyntheticCrops(**SHARDS), tmp_path, settings, progress=False)


def test_shards_of_another_run_are_refused_without_a_plan(tmp_path: Path) -> None:
    with pytest.raises(_StopError):
        write_shards(_Stops(**SHARDS), tmp_path, ShardSettings(fields_per_shard=1, split_by=None), progress=False)
    empty(tmp_path / ".progress" / "plan.json")
    with pytest.raises(InputError, match="other inputs or settings"):
        write_shards(SyntheticCrops(**SHARDS), tmp_path, ShardSettings(fields_per_shard=2), progress=False)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["npz", "json"])
def test_damaged_measurements_are_made_again(damage: Callable[[Path], None], ending: str, tmp_path: Path) -> None:
    crops = SyntheticCrops(antibodies=1, fields_per_antibody=1, cells_per_field=3, size_px=32)
    block = crops.read(crops.fields()[0].name)
    kept = Measurements(tmp_path, 16)
    kept.measure("piece", [block])
    assert kept.has("piece")
    before = tables(tmp_path)
    (file,) = tmp_path.glob(f"*.{ending}")
    damage(file)
    assert not kept.has("piece")
    kept.measure("piece", [block])
    assert tables(tmp_path) == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_of_cells_are_written_again(damage: Callable[[Path], None], whole: Path, tmp_path: Path) -> None:
    table = whole / "embeddings.parquet"
    write_portable_files(table, tmp_path, single_files=True)
    before = tables(tmp_path)
    damage(next(tmp_path.rglob("*_embedding.npy")))
    write_portable_files(table, tmp_path, single_files=True)
    assert tables(tmp_path) == before


def test_a_record_of_other_things_is_no_record(tmp_path: Path) -> None:
    """JSON of any kind where a record should lie."""
    path = tmp_path / "record.json"
    for content in ("[]", "null", "{}", '{"record_sha256": 3}', "[" * 100_000, "NaN", "3" * 10_000, "\udcff"):
        path.write_text(content, errors="surrogateescape")
        assert read_record(path) is None
    write_record(path, {"b": [1, 2.5, None, "é"], "a": {"x": (1, 2)}, "nan": float("nan")})
    assert read_record(path) is not None


def test_a_manifest_of_other_things_is_a_damaged_checkpoint(tmp_path: Path) -> None:
    staging = staging_folder(tmp_path, 1)
    staging.mkdir()
    (staging / "model.safetensors").write_bytes(b"weights")
    checkpoint = finish_checkpoint(staging, 1)
    assert find_problems(checkpoint) == []
    sound = (checkpoint / "manifest.json").read_text()
    for wrong in ("[]", sound.replace('"bytes"', '"bytds"'), sound.replace('"files"', '"filds"'), "[" * 100_000):
        (checkpoint / "manifest.json").write_text(wrong)
        assert len(find_problems(checkpoint)) == 1
    (checkpoint / "manifest.json").write_text('{"format": "subcell-checkpoint", "files": []}')
    assert len(find_problems(checkpoint)) == 1
