"""Every command and every option says what it is for, and help is quick because nothing heavy is imported."""

import ast
import re
import subprocess
import sys

import pytest
import typer.main
from typer.testing import CliRunner

from subcell_hf import __version__
from subcell_hf.cli import app
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
    "--shm-size",
    "--pty",
    "--extra-index-url",
    "--save_tif",
    "--libraries",
    "--resume_from_checkpoint",
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
