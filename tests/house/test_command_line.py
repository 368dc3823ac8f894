"""Every command and every option says what it is for, and help is quick because nothing heavy is imported."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import typer.main
from typer.testing import CliRunner

from subcell_hf import __version__
from subcell_hf.cli import app
from subcell_hf.cli.options import Without, add_command
from subcell_hf.settings import Setting, comma_separated
from tests.house.test_laws import FILES

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SUB_COMMANDS = {
    f"{group} {name}": command
    for group, commands in COMMANDS.items()
    for name, command in getattr(commands, "commands", {}).items()
}

OF_OTHERS = {
    "--help",
    "--version",
    "--json-progress",
    "--shm-size",
    "--pty",
    "--extra-index-url",
    "--save_tif",
    "--libraries",
    "--resume_from_checkpoint",
    "--bf16",
}
"""Options of every command and of other programs: docker run, srun, pip, cellpose, a benchmark, transformers."""


def test_messages_name_options_that_exist() -> None:
    """Trainings have the arguments of transformers, which their own tests read."""
    commands = {**COMMANDS, **SUB_COMMANDS}.values()
    options = {
        option for command in commands for item in command.params for option in (*item.opts, *item.secondary_opts)
    }
    named = {
        option
        for path in FILES
        if "training" not in path.parts and path.stem not in ("pretrain", "finetune", "train_localization")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", node.value)
    }
    assert len(named) > 50
    assert named <= options | OF_OTHERS


@pytest.mark.parametrize("name", sorted({**COMMANDS, **SUB_COMMANDS}))
def test_every_option_is_explained(name: str) -> None:
    command = {**COMMANDS, **SUB_COMMANDS}[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"subcell {name}: {parameter.name} has no help text"
    result = CliRunner().invoke(app, [*name.split(), "--help"])
    assert result.exit_code == 0
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    for option in options:
        # Long names are folded in narrow terminals.
        assert max(option.opts, key=len)[:12] in result.output


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert all(name in result.output for name in COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom subcell_hf.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([n for n in ('torch', 'transformers', 'numpy', 'pandas', 'skimage') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_no_help_of_a_command_imports_torch() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom subcell_hf.cli import app\n"
        "for name in sys.argv[1:]:\n"
        "    assert CliRunner().invoke(app, [*name.split(), '--help']).exit_code == 0\n"
        "print([n for n in ('torch', 'transformers', 'umap', 'numba') if n in sys.modules])"
    )
    names = sorted({**COMMANDS, **SUB_COMMANDS})
    run = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@dataclass(frozen=True)
class _Filter:
    """Which leaves are kept.

    Attributes:
        edge_px: Width of a leaf.
        colours: Colours of leaves. In Python, a tuple.
    """

    edge_px: Annotated[int, Setting("--edge", minimum=2)] = 4
    colours: Annotated[tuple[str, ...], Setting(parse=comma_separated)] = ("green",)


@dataclass(frozen=True)
class _Leaves:
    """Leaves.

    Attributes:
        tree: Where they grow.
        kept: Which are kept.
        maps: Maps of the wood;
            repeatable.
        dry: Whether they are dry.
        pressed: Whether they are pressed.
        shape: Their shape.
        inner: No option.
    """

    tree: str
    kept: _Filter = field(default_factory=_Filter)
    maps: Annotated[tuple[Path, ...], Setting("--map")] = ()
    dry: bool = False
    pressed: bool = True
    shape: str | None = None
    inner: int = 3


def _collect(*words: str) -> list[object]:
    """What a command is called with."""
    called: list[object] = []

    def collect(
        wood: Path, *, leaves: Annotated[_Leaves, Without("inner")], days: Annotated[int, Setting(minimum=1)] = 1
    ) -> None:
        """Collect leaves.

        Args:
            wood: Where to.
            leaves: Which.
            days: How long.
        """
        called.extend([wood, leaves, days])

    woods = typer.Typer(add_completion=False)
    add_command(woods, collect)
    result = CliRunner().invoke(woods, list(words), catch_exceptions=False)
    return called if result.exit_code == 0 and called else [result.exit_code, result.output]


def test_options_come_from_the_fields_of_settings_classes() -> None:
    assert _collect("wood", "--tree", "elm") == [Path("wood"), _Leaves("elm"), 1]
    words = "wood --tree elm --edge 2 --colours red,brown --map a --map b --dry --no-pressed --shape oval --days 2"
    leaves = _Leaves("elm", _Filter(2, ("red", "brown")), (Path("a"), Path("b")), True, False, "oval")
    assert _collect(*words.split()) == [Path("wood"), leaves, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wood"], "Missing option '--tree'"),
        (["wood", "--tree", "elm", "--edge", "1"], "equal to 2"),
        (["wood", "--tree", "elm", "--inner", "1"], "No such option: --inner"),
        (["wood", "--tree", "elm", "--no-dry"], "No such option: --no-dry"),
    ],
)
def test_what_settings_do_not_allow_is_refused(words: list[str], message: str) -> None:
    code, output = _collect(*words)
    assert code == 2
    assert message in " ".join(str(output).replace("│", " ").split())


def test_help_comes_from_docstrings() -> None:
    shown = " ".join(str(_collect("--help")[1]).replace("│", " ").split())
    for text in ("Collect leaves.", "Where to.", "Width of a leaf. [default: 4]", "Maps of the wood; repeatable."):
        assert text in shown
    assert "Python" not in shown
    assert "Which" not in shown


def test_a_field_that_is_left_out_exists() -> None:
    def collect(*, leaves: Annotated[_Leaves, Without("colour")]) -> None:
        """Collect leaves."""

    woods = typer.Typer(add_completion=False)
    add_command(woods, collect)
    with pytest.raises(TypeError, match="_Leaves has no field colour"):
        CliRunner().invoke(woods, [], catch_exceptions=False)
