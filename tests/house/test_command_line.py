"""Every command and every option says what it is for, and help is quick because nothing heavy is imported."""

import subprocess
import sys

import pytest
import typer.main
from typer.testing import CliRunner

from subcell_hf import __version__
from subcell_hf.cli import app

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SUB_COMMANDS = {
    f"{group} {name}": command
    for group, commands in COMMANDS.items()
    for name, command in getattr(commands, "commands", {}).items()
}


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
