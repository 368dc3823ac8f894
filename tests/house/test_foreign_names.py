"""What training uses of transformers' Trainer that is private or undocumented is in one file, the adapter."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import accelerate.accelerator
import pytest
import transformers.integrations.integration_utils
import transformers.trainer
import transformers.trainer_callback

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "subcell_hf" / "training" / "runs" / "trainer_adapter.py"

UNDOCUMENTED = {
    "_internal_call", "callback_handler", "current_gradient_accumulation_steps", "hub_model_id", "is_deepspeed_enabled",
    "init_hf_repo", "push_in_progress", "scaler", "stateful_callbacks", "training_bar", "tb_writer",
    "ExportableState", "INTEGRATION_TO_CALLBACK", "TRAINER_STATE_NAME", "TRAINING_ARGS_NAME",
}  # fmt: skip
"""Public names that no page of transformers' or Accelerate's documentation promises."""


def _own_names(module: object, *classes: str) -> Iterator[str]:
    """Methods of the module's classes and attributes that they give themselves; of all classes if none is named."""
    for found in ast.walk(ast.parse(inspect.getsource(module))):  # type: ignore[arg-type]
        if isinstance(found, ast.ClassDef) and (not classes or found.name in classes):
            for node in ast.walk(found):
                if isinstance(node, ast.FunctionDef):
                    yield node.name
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    yield node.attr


@cache
def private_names() -> set[str]:
    """Of Trainer, Accelerator and the callbacks that come with transformers."""
    names = {
        *_own_names(transformers.trainer, "Trainer"),
        *_own_names(transformers.trainer_callback),
        *_own_names(transformers.integrations.integration_utils),
        *_own_names(accelerate.accelerator, "Accelerator"),
    }
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def foreign_names_in(text: str) -> set[str]:
    """Private and undocumented names that a file reads, calls, defines or hands over."""
    used = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.FunctionDef):
            used.add(node.name)
        elif isinstance(node, ast.keyword | ast.arg) and node.arg:
            used.add(node.arg)
        elif isinstance(node, ast.ImportFrom):
            used.update(alias.name for alias in node.names)
    return used & (private_names() | UNDOCUMENTED)


def _near_trainer(path: Path, text: str) -> bool:
    return (ROOT / "subcell_hf" / "training") in path.parents or "transformers" in text or "accelerate" in text


FILES = sorted(
    path
    for folder in ("subcell_hf", "recipes", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
    if path != ADAPTER and _near_trainer(path, path.read_text(encoding="utf-8"))
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_but_the_adapter_uses_what_may_change_without_notice(path: Path) -> None:
    """Nor does a class of ours define a method that would replace one of Trainer's by accident."""
    assert foreign_names_in(path.read_text(encoding="utf-8")) == set()


def test_such_names_are_found() -> None:
    code = "class Mine(Trainer):\n    def _save(self):\n        self._load_rng_state(f(_internal_call=True))\n"
    assert foreign_names_in(code) == {"_save", "_load_rng_state", "_internal_call"}
    assert {"_save_checkpoint", "_prepare_inputs", "hub_model_id"} <= foreign_names_in(ADAPTER.read_text("utf-8"))
