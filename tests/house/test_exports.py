"""Public means importable: every name that a room lists is there in any order of imports, or says what it needs."""

import ast
import inspect
import os
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from subcell_hf.cli import app

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "subcell_hf"
STUBS = {
    ".".join(path.parent.relative_to(ROOT).parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("__init__.pyi"))
}
"""Package → the stub that lists its public names."""


def exports_of(package: str) -> dict[str, str]:
    """Public name of a package → the module that defines it; a room's name → the package."""
    found = {}
    for node in STUBS[package].body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name: ".".join(filter(None, (package, node.module))) for alias in node.names}
    return found


def public_objects() -> dict[str, str]:
    """Full public name of every exported function, class and constant → the module that defines it."""
    modules = [(f"{package}.{name}", module) for package in STUBS for name, module in exports_of(package).items()]
    return {name: module for name, module in modules if module.count(".") > name.count(".") - 1}


def _run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=False
    )


IN_ORDER = """
import sys
from importlib import import_module
order, *pairs = sys.argv[1:]
pairs = [pair.split("=") for pair in pairs]
if order == "modules first":
    for name, module in pairs:
        import_module(module)
for name, module in pairs:
    package, _, short = name.rpartition(".")
    value = getattr(import_module(package), short)
    assert value is getattr(sys.modules[module], short), f"{name} is {value}"
    assert value is getattr(import_module(package), short), f"{name} changes once it was imported"
    exec(f"from {package} import {short} as again")
    assert value is again, f"{name} is {value}, but `from {package} import {short}` gives {again}"
print(len(pairs))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["names first", "modules first"])
def test_every_public_name_is_what_its_module_defines_in_any_order_of_imports(order: str) -> None:
    """Also a function with the name of its module, which Python would replace by the module."""
    pairs = [f"{name}={module}" for name, module in public_objects().items()]
    assert any(name == module for name, module in public_objects().items())
    done = _run(IN_ORDER, order, *pairs)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == str(len(pairs))


@pytest.mark.parametrize("package", STUBS)
def test_a_room_lists_its_public_names(package: str) -> None:
    """For `dir`, tab completion and `import *`, as for type checkers: every import of a stub is exported again."""
    room = import_module(package)
    assert set(dir(room)) >= set(exports_of(package))
    assert set(room.__all__) - {"__version__"} == set(exports_of(package))
    for node in STUBS[package].body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.asname == alias.name for alias in node.names), ast.unparse(node)
    assert not hasattr(room, "no_such_name")


def test_help_of_a_room_shows_its_functions() -> None:
    shown = pydoc.render_doc(import_module("subcell_hf.tables"), renderer=pydoc.plaintext)
    assert "read_table(path" in shown
    assert "class EmbeddingTable" in shown


def test_importing_rooms_imports_no_library() -> None:
    """The model's room is left out: it makes transformers know SubCell."""
    rooms = [package for package in STUBS if package != "subcell_hf.model"]
    done = _run(
        "import sys\nfrom importlib import import_module\nfor room in sys.argv[1:]: import_module(room)\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'pandas', 'pyarrow', 'sklearn'} & set(sys.modules)))",
        *rooms,
    )
    assert done.stdout.strip() == "[]", done.stderr


WITHOUT_PANDAS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import subcell_hf
for name in ("read_table", "no_such_name"):
    try:
        getattr(subcell_hf.tables, name)
    except (ImportError, AttributeError) as error:
        print(type(error).__name__, error)
"""


def test_a_public_name_says_which_extra_it_needs() -> None:
    missing, unknown = _run(WITHOUT_PANDAS).stdout.splitlines()
    assert missing.startswith("ImportError subcell_hf.tables.read_table: This needs p")
    assert missing.endswith("Install it with: pip install 'subcell-hf[data]'")
    assert unknown.startswith("AttributeError ")
    assert "no_such_name" in unknown


def _commands() -> dict[str, ast.FunctionDef]:
    """Command → the function behind it."""
    found = {}
    waiting = [("subcell", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        if isinstance(command, TyperGroup):
            waiting += [(f"{name} {word}", inner) for word, inner in command.commands.items()]
        else:
            function = inspect.unwrap(command.callback)
            tree = ast.parse(Path(inspect.getsourcefile(function)).read_text(encoding="utf-8"))
            (found[name],) = (
                node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function.__name__
            )
    return found


SINGLE_FUNCTIONS = {
    "subcell simulate": "subcell_hf.simulation.simulate.simulate_dataset",
    "subcell encoders": "subcell_hf.inference.encoders.catalogue.list_encoders",
    "subcell convert": "subcell_hf.weights.conversion.convert",
    "subcell untrained": "subcell_hf.weights.untrained.save_untrained",
}
"""Commands of which the whole work is one public function of a room; all others call a workflow."""


@pytest.mark.parametrize(("command", "function"), _commands().items(), ids=_commands())
def test_what_a_command_does_a_public_function_does_too(command: str, function: ast.FunctionDef) -> None:
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = [ast.unparse(node.func).split(".") for node in ast.walk(function) if isinstance(node, ast.Call)]
    called = {".".join([imported.get(first, first), *rest]) for first, *rest in names}
    workflows = {f"{module}.{name}" for name, module in exports_of("subcell_hf.workflows").items()}
    expected = {SINGLE_FUNCTIONS[command]} if command in SINGLE_FUNCTIONS else workflows
    assert called & expected, f"`{command}` calls no function that is exported"
    assert expected <= {f"{module}.{name.rpartition('.')[2]}" for name, module in public_objects().items()}
