"""Dataclasses of settings as JSON and back: what one run writes and a later one reads has the same types in both."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from subcell_hf.errors import InputError

_Settings = TypeVar("_Settings")


def settings_to_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON values.

    Args:
        settings: A dataclass of texts, numbers, bools, paths, tuples, mappings and further dataclasses.

    Returns:
        Every field by its name; paths are texts, tuples lists.
    """
    return {name: _plain(value) for name, value in asdict(settings).items()}


def settings_from_json(kind: type[_Settings], content: Any, where: str) -> _Settings:
    """Read back what `settings_to_json` gave.

    Args:
        kind: The dataclass.
        content: The JSON value. Fields that it lacks keep their defaults.
        where: What is read, for messages.

    Raises:
        InputError: If a field is unknown, missing without a default, or of another type, or the dataclass refuses it.
    """
    return cast(_Settings, _read(kind, content, where))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_one_of(inner, value, where)
    if is_dataclass(kind):
        return _read_fields(kind, value, where)
    if origin is Literal and value in inner:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], item, f"{where}[{number}]") for number, item in enumerate(value))
    if origin is not None and isinstance(value, dict) and issubclass(dict, origin):
        return {key: _read(inner[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind or (kind is types.NoneType and value is None):
        return value
    raise InputError(f"{where} is {value!r}, expected {_describe(kind)}.")


def _read_one_of(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """The first type that fits; the message of a part that does not, where only one type could be meant."""
    errors = []
    for kind in kinds:
        try:
            return _read(kind, value, where)
        except InputError as error:
            if is_dataclass(kind) or kind is not types.NoneType:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise InputError(f"{where} is {value!r}, expected {' or '.join(map(_describe, kinds))}.")


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where} is {value!r}, expected an object with fields.")
    hints, known = get_type_hints(kind), {item.name: item for item in fields(kind)}
    if unknown := sorted(set(value) - set(known)):
        raise InputError(f"{where} has the unknown field {unknown[0]!r}; known are {', '.join(known)}.")
    needed = [item.name for item in known.values() if item.default is MISSING and item.default_factory is MISSING]
    if missing := [name for name in needed if name not in value]:
        raise InputError(f"{where} lacks the field {missing[0]!r}.")
    return kind(**{name: _read(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return "null" if kind is types.NoneType else str(getattr(kind, "__name__", kind))
