"""A notebook names files by texts: whatever takes a path takes a text too."""

import inspect
from pathlib import Path

import pytest

from subcell_hf import workflows
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.workflows import check_shards, crop_images, draw_views, inspect_images, shard_images

FUNCTIONS = [name for name in workflows.__all__ if inspect.isfunction(getattr(workflows, name))]
TAKES_WHAT_ANOTHER_GIVES = {"find_baselines", "find_profile_baselines"}
"""Their paths come from other functions of the package."""


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - TAKES_WHAT_ANOTHER_GIVES))
def test_no_function_takes_paths_alone(name: str) -> None:
    annotations = inspect.get_annotations(getattr(workflows, name), eval_str=True)
    taken = {argument: kind for argument, kind in annotations.items() if argument != "return"}
    assert [argument for argument, kind in taken.items() if kind in (Path, Path | None)] == []


def test_texts_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    simulate_dataset(2, 0, tmp_path / "images", size_px=256, progress=False)
    assert len(inspect_images("images").fields) == 2
    assert crop_images("images", "crops", progress=False).fields == 2
    shard_images("crops", "shards")
    assert check_shards("shards", contact_sheet="sheet.html").contact_sheet == Path("sheet.html")
    draw_views("shards", "views.png")
    assert {path.name for path in tmp_path.iterdir()} == {"images", "crops", "shards", "sheet.html", "views.png"}
