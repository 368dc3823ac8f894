"""What the published cells are for: embedding them, and pretraining on their shards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from subcell_hf.cells.published.choice import CellChoice
from subcell_hf.errors import InputError, UnreachableError
from subcell_hf.inference.models.loading import find_models
from subcell_hf.inference.sources.recognition import open_source
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.shards.cell_table import read_cell_records
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.tables.files import read_table
from subcell_hf.workflows.embed import embed_to_folder
from subcell_hf.workflows.embed_input import EmbedInput, read_embed_input
from subcell_hf.workflows.pretrain import main
from subcell_hf.workflows.shards import shard_published_cells
from tests.cells.published.bucket import SMALL, Bucket, simulate_fields
from tests.hub.tiny_models import save_tiny
from tests.workflows.test_pretrain import SHRUNK, STEPS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return save_tiny("SubCellForImageClassification", folder, pixel_size_um=0.0800885, channels=["blue", "green"])


def given(bucket: Bucket, model: Path, **options: object) -> EmbedInput:
    return EmbedInput(f"hpa:{bucket.url}", str(model), options=SourceOptions(crop_px=64, **options))  # type: ignore[arg-type]


def test_published_cells_are_embedded_as_the_model_wants_them(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    choice = CellChoice(max_cells=24)
    lost = next(name for name in sorted(bucket.files) if "_cell_mask" in name)
    content = bucket.files.pop(lost)
    first = given(bucket, model, choice=choice)
    done = embed_to_folder(first, tmp_path / "embeddings", report=False)
    table = read_table(tmp_path / "embeddings")
    shard_published_cells(
        f"hpa:{bucket.url}", tmp_path / "shards", choice=choice, split_by="none", crop=SMALL, progress=False
    )
    records = read_cell_records(str(tmp_path / "shards")).to_pylist()
    assert sorted(table.cells["cell_id"]) == sorted(row["cell_id"] for row in records)
    assert len(done.skipped) + len(records) == 24
    known = table.cells.set_index("cell_id")
    for row in records:
        for name in ("antibody", "gene", "locations", "cell_line", "plate", "well", "sample", "field_of_view"):
            assert known.loc[row["cell_id"], name] == row[name]
    run = json.loads((tmp_path / "embeddings" / "run.json").read_text())
    assert read_embed_input(run) == first  # for the baselines of an evaluation, which read the same cells
    bucket.files[lost] = content


def test_the_window_is_that_of_the_field(bucket: Bucket, model: Path) -> None:
    source, _, what = open_source(f"hpa:{bucket.url}", find_models(str(model), crop_px=64), SourceOptions(crop_px=64))
    assert what == "published cells"
    field = simulate_fields(1)[0]
    block = source.read(field.name)
    assert block.crops is not None
    assert field.label_mask is not None
    assert len(block) == len(np.unique(field.label_mask)) - 1
    padded = np.pad(field.pixels, ((0, 0), (128, 128), (128, 128)))
    seen = 0
    for record, pixels in zip(block.crops.cells, block.crops.pixels, strict=True):
        places = np.nonzero(np.pad(field.label_mask, 128) == int(record["label"]))
        if max(int(found.max()) - int(found.min()) for found in places) >= 128:
            continue  # larger than the published crop
        top, left = ((int(found.min()) + int(found.max()) + 1 - 64) // 2 for found in places)
        np.testing.assert_array_equal(pixels, padded[:, top : top + 64, left : left + 64])
        seen += 1
    assert seen > 5


def test_cells_are_not_skipped_for_a_server_that_is_away(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    source, *_ = open_source(f"hpa:{bucket.url}", find_models(str(model), crop_px=64), SourceOptions(crop_px=64))
    bucket.down = True
    with pytest.raises(UnreachableError, match="Run the same command again"):
        source.read(source.names()[0])
    with pytest.raises(InputError, match="has no meaning for it"):
        open_source(f"hpa:{bucket.url}", find_models(str(model)), SourceOptions(segmentation="cellpose"))
    with pytest.raises(InputError, match="can be chosen for hpa: only"):
        open_source(tmp_path, find_models(str(model)), SourceOptions(choice=CellChoice(max_cells=3)))
    shutil.rmtree(tmp_path / "hf")
    with pytest.raises(InputError, match="could not be downloaded"):
        open_source(f"hpa:{bucket.url}", find_models(str(model)), SourceOptions())


def test_two_commands_pretrain_on_them(bucket: Bucket, tmp_path: Path) -> None:
    settings = ShardSettings(split_fractions={"train": 0.7, "validation": 0.3})
    shards, run = tmp_path / "shards", tmp_path / "run"
    shard_published_cells(
        f"hpa:{bucket.url}", shards, split_by="antibody", settings=settings, crop=SMALL, progress=False
    )
    main(["mae_cell_protein_contrast", "--shards", str(shards), *SHRUNK, "--output_dir", str(run)])
    state = json.loads((run / f"checkpoint-{STEPS}" / "trainer_state.json").read_text(encoding="utf-8"))
    losses = [line["loss"] for line in state["log_history"] if "loss" in line]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
