"""Laws that the code itself shows: parameters, randomness, names, silence, complete files."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.house.test_laws import FILES, ISLAND, PACKAGE, ROOT

TREES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
ISLAND_NAMES = {path.relative_to(PACKAGE).as_posix() for path in ISLAND}


class Call(NamedTuple):
    """One call, and what encloses it."""

    name: str  # as written, such as `np.random.default_rng`
    node: ast.Call
    function: str  # that contains it
    blocks: tuple[str, ...]  # the `with` statements around it, as written

    @property
    def keywords(self) -> dict[str | None, ast.expr]:
        """Its named arguments."""
        return {keyword.arg: keyword.value for keyword in self.node.keywords}


def calls_of(node: ast.AST, function: str = "", blocks: tuple[str, ...] = ()) -> Iterator[Call]:
    """Every call below a node."""
    if isinstance(node, ast.FunctionDef):
        function, blocks = node.name, ()
    if isinstance(node, ast.Call):
        yield Call(ast.unparse(node.func), node, function, blocks)
    inside = blocks + tuple(ast.unparse(item.context_expr) for item in getattr(node, "items", ()))
    for field, children in ast.iter_fields(node):
        for child in children if isinstance(children, list) else [children]:
            if isinstance(child, ast.AST):
                yield from calls_of(child, function, inside if field == "body" else blocks)


CALLS = {name: tuple(calls_of(tree)) for name, tree in TREES.items()}


# 3. Every trainable parameter is part of the model.


def test_only_the_model_makes_parameters_and_layers() -> None:
    made = {
        f"{name}: {call.name}"
        for name, calls in CALLS.items()
        for call in calls
        if name not in ISLAND_NAMES and re.fullmatch(r"(torch\.)?nn\.[A-Z]\w*", call.name)
    }
    assert not made


def test_objectives_are_functions_without_state() -> None:
    """Their only classes are functions with a gradient of their own."""
    tree = TREES["model/objectives_subcell.py"]
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert {ast.unparse(base) for node in classes for base in node.bases} <= {"torch.autograd.Function"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global | ast.Nonlocal)]
    assert not [call for call in CALLS["model/objectives_subcell.py"] if call.name.endswith("Parameter")]


# 4. Randomness is an argument.

_GLOBAL_SEEDS = re.compile(
    r"(torch\.(cuda\.)?(manual_seed(_all)?|seed)|(np|numpy)\.random\.seed|(\w+\.)?set_seed|random\.seed)"
)
_TORCH_DRAWS = re.compile(
    r"torch\.(rand|randn|randint|randperm|bernoulli|normal|multinomial|rand_like|randn_like)"
    r"|.*\.(normal_|uniform_|bernoulli_|exponential_|random_|geometric_)"
)
_GLOBAL_NUMPY = re.compile(
    r"(np|numpy)\.random\.(?!default_rng|RandomState|Generator|SeedSequence|PCG64|Philox)\w+|random\.\w+"
)
WITHOUT_GENERATOR = {
    "model/modeling_subcell.py: _init_weights": "transformers initializes weights from the global generator",
    "model/modeling_subcell_pretraining.py: _init_weights": "the same",
    "model/modeling_subcell_pretraining.py: _draw_noise": "what `forward` draws if its `noise` is not given",
    "model/modeling_subcell_pretraining.py: _draw_directions": "the same",
}
"""Where the global generator is read, and why that may be."""


SEEDED = {
    "training/runs/trainer_adapter.py: separate_random_streams": "dropout of torch knows the global generator only",
}
"""Where the global generator is seeded, and why."""


def test_no_global_generator_is_seeded() -> None:
    """But for a block after which the generator is as it was before."""
    seeded = {
        f"{name}: {call.function}"
        for name, calls in CALLS.items()
        for call in calls
        if _GLOBAL_SEEDS.fullmatch(call.name) and not any("fork_rng" in block for block in call.blocks)
    }
    assert seeded == set(SEEDED)


def test_random_numbers_come_from_a_generator_that_was_given_or_seeded() -> None:
    unseeded = set()
    for name, calls in CALLS.items():
        for call in calls:
            drawn = _TORCH_DRAWS.fullmatch(call.name) and "generator" not in call.keywords
            unseeded_numpy = call.name.endswith(("default_rng", "RandomState")) and not (
                call.node.args or call.node.keywords
            )
            if drawn or unseeded_numpy or _GLOBAL_NUMPY.fullmatch(call.name):
                unseeded.add(f"{name}: {call.function}")
    assert unseeded == set(WITHOUT_GENERATOR)


def test_libraries_that_draw_are_given_a_seed() -> None:
    drawing = re.compile(r"(\w+\.)*(PCA|TruncatedSVD|KMeans|UMAP|TSNE|Leiden|LogisticRegression|run_harmony)")
    found = {
        f"{name}:{call.node.lineno}: {call.name}": {"random_state", "seed"} & set(map(str, call.keywords))
        for name, calls in CALLS.items()
        for call in calls
        if drawing.fullmatch(call.name)
    }
    assert found
    assert not [place for place, seeded in found.items() if not seeded]


# 5. Names, not positions.


def test_the_order_of_colours_is_written_in_the_ontology_only() -> None:
    """The island and the files that are copied to the Hub stand alone; there tests compare them with the ontology."""
    alone = {*ISLAND_NAMES, "ontology.py"} | {name for name in TREES if name.startswith(("hub/endpoint/", "hub/demo/"))}
    written = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.List | ast.Tuple) and name not in alone:
                values = [item.value for item in node.elts if isinstance(item, ast.Constant)]
                if len(values) > 2 and set(values) <= {"red", "yellow", "blue", "green"}:
                    written.add(f"{name}:{node.lineno}")
    assert not written


def test_channels_are_not_chosen_by_a_number() -> None:
    """No `channels[0]`, and no `pixels[:, 0]` of arrays `[cells, channels, height, width]`."""
    chosen = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Subscript) or name == "ontology.py":
                continue
            of = ast.unparse(node.value)
            if isinstance(node.slice, ast.Tuple):
                index = node.slice.elts[1] if isinstance(node.slice.elts[0], ast.Slice) else None
                of_channels = re.fullmatch(r"(\w+\.)*(crops|pixels)", of)
            else:
                index, of_channels = node.slice, re.fullmatch(r"(.*\.)?channels", of)
            if of_channels and isinstance(index, ast.Constant) and isinstance(index.value, int):
                chosen.add(f"{name}: {ast.unparse(node)}")
    assert chosen == {"model/image_processing_subcell.py: pixels[:, 0]"}  # [cells, passes, …]


# 6. Quirks of the published models are kept on purpose, beside a comment that says so and a golden test.

QUIRKS = {
    "In float32, in which the published counts were rounded down.": (
        "tests/model/test_modeling_subcell_pretraining.py",
        "test_object_aware_counts_are_golden",
    ),
    "Nearest neighbour, as the published models were trained.": (
        "tests/model/test_modeling_subcell_pretraining.py",
        "test_pixel_mask_becomes_the_golden_patch_mask",
    ),
}
"""Comment in the model → its test."""


def test_every_quirk_has_a_comment_and_a_golden_test() -> None:
    comments = "\n".join(path.read_text(encoding="utf-8") for path in ISLAND)
    for comment, (file, test) in QUIRKS.items():
        assert f"# {comment}" in comments
        (function,) = (
            node
            for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name == test
        )
        assert "golden" in ast.unparse(function)


def test_every_golden_file_is_compared_with() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    golden = [path for path in (ROOT / "tests" / "golden").rglob("*.npz") if path.parent.name != "golden"]
    assert golden
    assert not [path.name for path in golden if path.stem not in tests and path.parent.name not in tests]


# 7. Nothing is silent.


@pytest.mark.parametrize("name", TREES)
def test_nothing_is_silenced(name: str) -> None:
    """No `strict=False` but that of `zip`, no bare `except`, no `assert`; a broad `except` says why."""
    lines = (PACKAGE / name).read_text(encoding="utf-8").splitlines()
    for call in CALLS[name]:
        strict = call.keywords.get("strict")
        loose = isinstance(strict, ast.Constant) and strict.value is False
        assert not loose or call.name == "zip", f"{name}:{call.node.lineno}"
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.Assert), f"{name}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno}"
            if ast.unparse(node.type) in ("Exception", "BaseException"):
                raised = any(isinstance(part, ast.Raise) for part in ast.walk(node))
                said = " # " in lines[node.lineno - 1] + lines[node.lineno]
                assert raised or said, f"{name}:{node.lineno}: say in a comment why any exception is caught"


# 8. Complete or absent.

_WRITES = re.compile(
    r".*\.(write_text|write_bytes|to_parquet|savefig|save|savez(_compressed)?|save_pretrained|save_to_json)"
    r"|shutil\.(copy\w*|move)"
)
_COMPLETE_OR_ABSENT = ("write_atomically(", "write_folder_atomically(", "write_hdf5(")
_OPEN_FILES = ("buffer", "content", "encoded", "file", "picture", "sink")
"""Names of files that are open already, or in memory."""
NOT_ATOMIC = {
    "evaluation/baselines/baselines.py: _map_file": "working memory on the disk, in a temporary folder",
    "hub/demo/demo_answers.py: _write": "downloads of the demo, in a temporary folder",
    "hub/demo/demo_model.py: save": "into the staging folder of a Space",
    "hub/demo/space.py: write_examples": "into the staging folder of a Space, or a temporary folder",
    "hub/publishing/export.py: _write_repository": "into the staging folder of a repository",
    "hub/publishing/export.py: _add_onnx": "into the staging folder of a repository",
    "hub/publishing/onnx_export.py: export_onnx": "into the staging folder of a repository",
    "images/packed/archives.py: unpack_archive": "into the staging folder of what is unpacked",
    "images/packed/dataset_rows.py: _write": "into the staging folder of a dataset's images",
    "images/packed/dataset_rows.py: write_rows": "into the staging folder of a dataset's images",
    "model/modeling_subcell.py: save_pretrained": "of transformers; whoever calls it gives a staging folder",
    "workflows/machine/optimize.py: _copy_model": "into the staging folder of a model",
    "training/pretraining/trainer.py: write_record": "into a staging folder, or where Trainer saves the model",
    "training/runs/trainer_adapter.py: write_trainer_state": "into a checkpoint's staging folder",
    "process.py: _patient_streams": "the null device",
}
"""Where files are written directly, and why they may be."""


def _writes(call: Call) -> bool:
    if call.name == "open" or call.name.endswith(".open"):
        arguments = [*call.node.args, *(keyword.value for keyword in call.node.keywords)]
        modes = [item.value for item in arguments if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        return any(re.fullmatch(r"[wax]b?\+?|r\+?b\+?", mode) and mode != "rb" for mode in modes)
    target = ast.unparse(call.node.args[0]) if call.node.args else ""
    return bool(_WRITES.fullmatch(call.name)) and target not in _OPEN_FILES


def test_files_are_written_beside_their_name_and_renamed() -> None:
    found = set()
    for name, calls in CALLS.items():
        for call in calls:
            safe = any(word in block for block in call.blocks for word in _COMPLETE_OR_ABSENT)
            if _writes(call) and not safe and not name.startswith("storage/"):
                found.add(f"{name}: {call.function}")
    assert found == set(NOT_ATOMIC)
