"""Pictures and page show what there is, trackers get it, and a run with them is the run without them."""

import html.parser
import os
import re
import shlex
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerState

from subcell_hf.errors import InputError
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.monitoring.charts import Series, draw_lines, draw_stack, thin, to_png, to_svg
from subcell_hf.training.monitoring.model_pictures import caption_rows, choose_rows, draw_pictures
from subcell_hf.training.monitoring.picture_sheet import TILE_PX, draw_sheet
from subcell_hf.training.monitoring.run_page import MOST_MOMENTS, RunFacts, write_run_page
from subcell_hf.training.monitoring.terminal_progress import describe_log
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import resolve
from subcell_hf.training.pretraining.trainer import PreTrainer
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
KINDS = ("attention", "features", "reconstruction")
SMALL = shlex.split(
    "--image_size 32 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 48 "
    "--pooling_hidden_size 16 --decoder_hidden_size 16 --decoder_num_hidden_layers 1 --decoder_num_attention_heads 2 "
    "--decoder_intermediate_size 24 --projection_hidden_sizes 24 24 --projection_size 8 --centroid_hidden_sizes 24 "
    "--protein_centroid_weight 1 --context_mask_ratio 0.05 --antibodies_per_batch 4 --cells_per_antibody 2 "
    "--dataloader_num_workers 0 --use_cpu true --warmup_epochs 0 --max_steps 4 --eval_steps 2 --save_steps 4 "
    "--logging_steps 1 --disable_tqdm true --picture_cells 3"
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=4, size_px=32)
    write_synthetic(folder, source, ShardSettings(split_fractions={"train": 0.6, "validation": 0.4}))
    return folder


def build(shards: Path, folder: Path, *words: str) -> PreTrainer:
    run = resolve(parse_arguments([*SMALL, "--shards", str(shards), "--output_dir", str(folder), *words]), world_size=1)
    return PreTrainer(run.build_model(), run.training, run.data)


@pytest.fixture(scope="module")
def watched(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainer:
    """A run with everything that can be watched."""
    trainer = build(shards, tmp_path_factory.mktemp("runs") / "a <b> run")
    trainer.train()
    return trainer


def test_a_run_with_monitoring_is_the_run_without(shards: Path, watched: PreTrainer, tmp_path: Path) -> None:
    plain = build(shards, tmp_path, "--picture_epochs", "0", "--run_page", "false")
    plain.train()
    assert not (tmp_path / "monitoring").exists()
    expected, found = tmp_path / "checkpoint-4", watched.run_folder / "checkpoint-4"
    weights = [load_file(folder / "model.safetensors") for folder in (expected, found)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    states = [torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in (expected, found)]
    assert all(torch.equal(states[0][key]["exp_avg_sq"], states[1][key]["exp_avg_sq"]) for key in states[0])
    randoms = [(folder / "rng_state.pth").read_bytes() for folder in (expected, found)]
    assert randoms[0] == randoms[1]


def test_pictures_are_drawn_at_first_and_with_each_validation(watched: PreTrainer) -> None:
    folder = watched.run_folder / "monitoring"
    names = {f"{kind}-{step:08d}.png" for kind in KINDS for step in (0, 2, 4)}
    assert {path.name for path in (folder / "pictures").iterdir()} == names
    assert {path.name for path in folder.iterdir()} == {"index.html", "loss_curves.png", "pictures"}
    first, last = (Image.open(folder / "pictures" / f"features-{step:08d}.png") for step in (0, 4))
    assert first.size == last.size
    assert first.size[0] == pytest.approx(3 * TILE_PX, rel=0.05)


class _Page(html.parser.HTMLParser):
    """Text and outside addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.images = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith(("data:", "#")):
                self.addresses.append(value)

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_is_whole_and_needs_no_network(watched: PreTrainer) -> None:
    text = (watched.run_folder / "monitoring" / "index.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert page.addresses == []
    assert not re.search(r"@import|url\((?!#)|fetch\(|<link", text)
    assert page.images == 3 * len(KINDS)
    assert {"finished", "a <b> run", "step 4 of 4 · epoch 2"} <= set(page.words)  # the name's < is no tag
    titles = {
        "Weighted sum",
        "Reconstruction",
        "Cell contrast",
        "Protein contrast",
        "Protein centroid",
        "Probe (focal)",
    }
    titles |= {"Macro AUPRC", "Label ranking", "Top-5", "Learning rate", "Gradient norm", "Cells per second"}
    assert titles | {"Time of a step", "Model FLOPs utilization", "Memory"} <= set(page.words)
    assert text.count("<svg") == text.count("</svg>") == 15
    assert "Nucleoplasm" in page.words
    config = watched.model.config
    assert f"weight {config.protein_contrast_weight:g}" in page.words


def test_going_on_draws_the_page_from_the_checkpoint(shards: Path, watched: PreTrainer, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(watched.run_folder, folder)
    trainer = build(shards, folder, "--max_steps", "6", "--picture_epochs", "0")
    trainer.train(resume_from_checkpoint=True)
    words = _Page((folder / "monitoring" / "index.html").read_text(encoding="utf-8")).words
    assert "step 6 of 6 · epoch 3" in words
    losses = [line["step"] for line in trainer.state.log_history if "loss" in line]
    assert losses == [1, 2, 3, 4, 5, 6]


def test_throughput_is_logged_by_name(watched: PreTrainer) -> None:
    lines = [line for line in watched.state.log_history if "step_s" in line]
    assert [line["step"] for line in lines] == [2, 3, 4]  # the first step warms up
    for line in lines:
        phases = [line[f"{name}_s"] for name in ("data", "views", "forward", "backward", "optimizer")]
        assert sum(phases) == pytest.approx(line["step_s"])
        assert line["cells_per_s"] == pytest.approx(8 / line["step_s"])
        assert 0 < line["mfu"] < 1
        assert line["memory_gib"] > 0


def test_cells_show_different_locations_and_stay_the_same(shards: Path) -> None:
    reader = ShardReader(shards)
    rows = choose_rows(reader, "validation", 3)
    np.testing.assert_array_equal(rows, choose_rows(reader, "validation", 3))
    assert set(rows) <= set(reader.split_rows("validation"))
    captions = caption_rows(reader, rows)
    assert len({caption.split(": ")[1] for caption in captions[:2]}) == 2
    assert captions[0].startswith("GENE")
    everything = choose_rows(reader, "validation", 10**6)
    assert len(set(everything)) == len(everything) == len(reader.split_rows("validation"))


def _tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    step = sheet.shape[1] // 3 + 2
    top = sheet.shape[0] - (sheet.shape[0] - 34) // 3 * (3 - row) + 34
    return sheet[top : top + TILE_PX, column * step : column * step + TILE_PX].astype(int)


def test_drawing_leaves_model_and_random_numbers_alone(watched: PreTrainer) -> None:
    (monitoring,) = [c for c in watched.callback_handler.callbacks if type(c).__name__ == "Monitoring"]
    cells = monitoring._load_cells()
    watched.model.train()
    state = {name: value.clone() for name, value in watched.model.state_dict().items()}
    before = torch.get_rng_state()
    first, second = (draw_pictures(watched.model, cells) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert watched.model.training
    assert all(torch.equal(value, state[name]) for name, value in watched.model.state_dict().items())
    assert sorted(first) == list(KINDS)
    for name, picture in first.items():
        np.testing.assert_array_equal(picture, second[name])
    sheet = first["reconstruction"]
    for row in range(3):
        whole, seen, filled = (_tile(sheet, row, column) for column in range(3))
        hidden = np.abs(seen - round(0.45 * 255)).max(-1) <= 1
        # One of four patches is hidden; the others are shown as they are but for resampling at the edges.
        assert 0.2 < hidden.mean() < 0.3
        assert np.median(np.abs(filled - whole)[~hidden]) == 0
        assert np.abs(seen - whole)[~hidden].max() == 0
        assert np.abs(filled - whole)[hidden].mean() > 5


def test_without_reconstruction_and_weights_there_is_less_to_draw(shards: Path, tmp_path: Path) -> None:
    words = "--reconstruction_weight 0 --mask_ratio 0 --pooling_type cls --cell_contrast_positives cell_line"
    trainer = build(shards, tmp_path, *words.split())
    (monitoring,) = [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "Monitoring"]
    assert sorted(draw_pictures(trainer.model, monitoring._load_cells())) == ["features"]


def test_sheets_have_a_tile_for_every_picture() -> None:
    rows = [[torch.zeros(8, 8, 3), torch.ones(4, 4, 3)], [torch.ones(8, 8, 3), torch.zeros(2, 2, 3)]]
    sheet = draw_sheet(rows, ["one", "two " * 40], ["first", "second " * 60])
    assert sheet.shape[2] == 3
    assert (sheet[-TILE_PX // 2, [10, -10]] == [[255] * 3, [0] * 3]).all()


def test_charts_of_few_and_many_values() -> None:
    steps, values = thin(range(10_000), np.arange(10_000) * 2.0, most=100)
    assert len(steps) == 100
    assert steps[-1] == 9999
    assert values.mean() == pytest.approx(9999)
    for count in (1, 5, 1000):
        series = [Series(name, range(count), np.linspace(1, 2, count)) for name in ("first", "second")]
        svg = to_svg(draw_lines(series, low=0, smooth=True))
        assert svg.startswith("<svg")
        assert 'viewBox="' in svg
        assert "first" in svg
        assert "first" in to_svg(draw_stack(series, "s"))
    assert to_svg(draw_lines(series)) == to_svg(draw_lines(series))
    assert to_png(draw_lines(series)).startswith(b"\x89PNG")


def test_a_score_that_is_not_defined_is_no_best_one(tmp_path: Path) -> None:
    """Where every cell of the split has one location, no average precision is defined."""
    facts = RunFacts(tmp_path, "one", {}, step=3, total_steps=3, validation_cells=4, status="finished", version="0")
    (tmp_path / "monitoring").mkdir()

    def page(*scores: float | None) -> str:
        log = [
            {"step": step, "eval_macro_auprc": score, "eval_label_ranking_average_precision": 0.5, "eval_top5": 1.0}
            for step, score in enumerate(scores, 1)
        ]
        return write_run_page(facts, log).read_text(encoding="utf-8")

    nan = float("nan")
    assert re.search(r"0\.300.{1,99}at step 2, now 0\.200", page(nan, 0.3, 0.2), re.DOTALL)
    for undefined in (page(nan, nan), page(None)):
        assert "not defined on these cells" in undefined
        assert "Macro AUPRC" not in undefined
        assert "Label ranking" in undefined
    state = TrainerState(global_step=3, max_steps=3)
    assert "macro AUPRC not defined" in describe_log({"eval_macro_auprc": nan, "eval_cells": 4.0}, state)


def test_pictures_on_a_schedule_of_their_own_and_few_of_them_in_the_page(shards: Path, tmp_path: Path) -> None:
    words = "--max_steps 10 --picture_epochs 0.5 --eval_strategy no --save_strategy no --picture_cells 1"
    trainer = build(shards, tmp_path, *words.split())
    assert len(trainer.get_train_dataloader()) == 2  # steps an epoch
    trainer.train()
    pictures = (tmp_path / "monitoring" / "pictures").glob("attention-*.png")
    assert sorted(int(path.stem[-8:]) for path in pictures) == [*range(11)]
    page = _Page((tmp_path / "monitoring" / "index.html").read_text(encoding="utf-8"))
    assert page.images == MOST_MOMENTS * len(KINDS)
    assert "finished" in page.words


def test_unknown_trackers_are_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="report_to contains tensorbord"):
        build(shards, tmp_path, "--report_to", "tensorbord", "wandb")


@pytest.mark.slow
def test_trackers_get_components_metrics_and_pictures(shards: Path, tmp_path: Path) -> None:
    command = [str(ROOT / "recipes" / "pretrain.py"), *SMALL, "--shards", str(shards)]
    command += ["--output_dir", str(tmp_path / "run"), "--report_to", "tensorboard", "wandb", "trackio"]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    environment |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_SILENT": "true"}
    done = Forked(*command, log=tmp_path / "log", env=environment)
    assert done.wait() == 0, done.output[-3000:]

    (events,) = (tmp_path / "run" / "runs").rglob("events.*")
    board = EventAccumulator(str(events.parent)).Reload()
    scalars = {"train/loss_cell_contrast", "train/loss_probe", "train/cells_per_s", "train/data_s", "eval/macro_auprc"}
    assert scalars <= set(board.Tags()["scalars"])
    assert set(board.Tags()["images"]) == {f"pictures/{kind}" for kind in KINDS}
    assert [image.step for image in board.Images("pictures/attention")] == [0, 2, 4]

    stored = list(tmp_path.glob("wandb/offline-run-*/files/media/images/pictures/*.png"))
    assert sorted({path.name.split("_")[0] for path in stored}) == list(KINDS)
    assert len(stored) == 9
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert all(name in record.read_bytes() for name in (b"train/loss_cell_contrast", b"eval/macro_auprc", b"train/mfu"))

    assert len(list((tmp_path / "trackio" / "media").rglob("*.png"))) == 9
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        metrics = "".join(str(row) for row in connection.execute("SELECT metrics FROM metrics"))
    assert all(name in metrics for name in ("train/loss_probe", "eval/top5", "train/step_s", "pictures/features"))
