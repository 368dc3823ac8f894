"""Commands from functions: their options come from signatures, help texts from docstrings.

A positional parameter becomes an argument, a keyword-only one an option, and one whose type is a settings class all
options of its fields. Help comes from `Args:` or `Attributes:` of the docstring, up to a sentence that begins with "In
Python,"; anything else comes from a `Setting`.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import cached_property, wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from subcell_hf import cells, evaluation, hub, images, inference, shards, simulation, tables, workflows
from subcell_hf.settings import Setting

_ROOMS = {
    "cells": cells, "evaluation": evaluation, "hub": hub, "images": images, "inference": inference, "shards": shards,
    "simulation": simulation, "tables": tables, "workflows": workflows,
}  # fmt: skip
"""Names in annotations of commands, such as `"cells.CropSettings"`; a class is imported when its name is looked up."""

_SECTION = re.compile(r"^(?:Args|Attributes):\n", re.MULTILINE)
_ENTRY = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


class Without:
    """Fields of a settings class that are no options: `Annotated["cells.CropSettings", Without("crop_px")]`.

    In nested settings classes, `"filters.crop_px"` is the field `crop_px` of the field `filters`.
    """

    def __init__(self, *names: str) -> None:
        self.names = names


def add_command(app: typer.Typer, function: Callable[..., None], name: str | None = None) -> None:
    """Add a function as a command; its settings classes are imported only when the command is used."""

    class Command(TyperCommand):
        @cached_property
        def _complete(self) -> Any:
            single = typer.Typer(add_completion=False)
            single.command(self.name, help=self.help)(_with_options(function))
            return typer.main.get_command(single)

        @property
        def params(self) -> Any:
            return self._complete.params

        @params.setter
        def params(self, _: Any) -> None:
            """The list of a command without options, which typer sets."""

        def make_context(self, *args: Any, **kwargs: Any) -> Any:
            return self._complete.make_context(*args, **kwargs)

        def invoke(self, ctx: Any) -> Any:
            return self._complete.invoke(ctx)

    @wraps(function)
    def without_options() -> None:
        """What typer reads at start-up."""

    without_options.__annotations__ = {}
    without_options.__dict__["__signature__"] = inspect.Signature()
    named = name or function.__name__.replace("_", "-")
    app.command(named, cls=Command, help=_read_docstring(function)[0])(without_options)


def _read_docstring(owner: Any) -> tuple[str, dict[str, str]]:
    """The text before `Args:` or `Attributes:`, and the entries by name, each up to what it says of Python."""
    text, *entries = _SECTION.split(inspect.getdoc(owner) or "", maxsplit=1)
    return text.strip(), {
        name: " ".join(words.split()).partition(" In Python,")[0] for name, words in _ENTRY.findall("".join(entries))
    }


def _with_options(function: Callable[..., None]) -> Callable[..., None]:
    """A function whose signature typer reads, and that calls the given one."""
    options = _Options(function)

    def run(**given: Any) -> None:
        options.call(given)

    run.__annotations__ = {parameter.name: parameter.annotation for parameter in options.parameters}
    run.__dict__["__signature__"] = inspect.Signature(options.parameters)
    return run


class _Options:
    """The options of a command, or of a settings class that it takes."""

    def __init__(self, owner: Callable[..., Any], path: str = "", without: tuple[str, ...] = ()) -> None:
        self._owner = owner
        self._groups: dict[str, _Options] = {}
        self._settings: dict[str, tuple[str, Setting]] = {}
        self.parameters: list[inspect.Parameter] = []
        self.left_out: list[str] = []
        hints = get_type_hints(owner, localns=None if path else _ROOMS, include_extras=True)
        texts = _read_docstring(owner)[1]
        for name, slot in inspect.signature(owner).parameters.items():
            kind, *metadata = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
            place = f"{path}.{name}"
            if any(_ends(place, other) for other in without):
                self.left_out.append(place)
                continue
            setting = next((item for item in metadata if isinstance(item, Setting)), Setting())
            if isinstance(kind, type) and is_dataclass(kind) and setting.parse is None:
                more = [other for item in metadata if isinstance(item, Without) for other in item.names]
                group = self._groups[name] = _Options(kind, place, (*without, *more))
                if unknown := [other for other in more if not any(_ends(left, other) for left in group.left_out)]:
                    raise TypeError(f"{kind.__name__} has no field {', '.join(unknown)}")
                self.left_out += group.left_out
                self.parameters += group.parameters
                continue
            positional = not path and slot.kind is slot.POSITIONAL_OR_KEYWORD
            parameter = _parameter(slot, kind, setting, texts.get(name), positional or setting.argument)
            self._settings[name] = place.strip(".").replace(".", "_"), setting
            self.parameters.append(parameter.replace(name=self._settings[name][0]))

    def call(self, given: Mapping[str, Any]) -> Any:
        """Call the command, or make the settings, with what was typed; the rest has its defaults."""
        values = {name: group.call(given) for name, group in self._groups.items()}
        for name, (key, setting) in self._settings.items():
            value = given[key]
            if value is not None and value != []:
                value = tuple(value) if isinstance(value, list) and setting.parse is None else value
                values[name] = value if setting.parse is None else setting.parse(value)
        return self._owner(**values)


def _ends(place: str, name: str) -> bool:
    return place.endswith(f".{name}")


def _parameter(
    slot: inspect.Parameter, kind: Any, setting: Setting, text: str | None, argument: bool
) -> inspect.Parameter:
    """A parameter of a command or field of a settings class, as typer reads it."""
    default = setting.default
    if default is None and isinstance(slot.default, bool | int | float | str | Path):
        default = slot.default
    elements = [
        get_args(part)[0] for part in (kind, *get_args(kind)) if get_origin(part) is tuple
    ]  # fmt: skip
    if setting.parse is not None:
        elements = [setting.kind]
        kind = setting.kind
    if elements and (setting.parse is None or setting.repeatable):
        kind = list[elements[0]]  # type: ignore[valid-type]
    required = default is None and slot.default is slot.empty
    if default is None and not required and NoneType not in get_args(kind):
        kind = kind | None
    info: Any
    if argument:
        info = typer.Argument(metavar=setting.metavar, help=text)
    else:
        names = setting.names or (_name(slot.name, kind, default),)
        info = typer.Option(*names, metavar=setting.metavar, min=setting.minimum, help=text)
    return inspect.Parameter(
        slot.name,
        slot.KEYWORD_ONLY,
        default=slot.empty if required else default,
        annotation=Annotated[kind, info],
    )


def _name(name: str, kind: Any, default: Any) -> str:
    """The option of a parameter; a bool that is True by default has a second one for False."""
    words = name.replace("_", "-")
    both = (words, f"no-{words}") if kind is bool and default is not False else (words,)
    return "--" + "/--".join(both)
