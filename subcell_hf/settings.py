"""How a field of a settings class becomes an option of a command, where name, type and default do not say it."""

from collections.abc import Callable, Sequence
from typing import Any

from subcell_hf.errors import InputError


class Setting:
    """Metadata of a field or parameter: `crop_px: Annotated[int, Setting("--crop-size-px", minimum=1)] = 896`.

    Args:
        names: Names of the option; `"--mask-cells/--keep-surroundings"` for both values of a bool. Default: the name of
            the field.
        minimum: Smallest number.
        metavar: Name of the value in the help.
        argument: Whether a field is given by its position; the positional parameters of a command always are.
        kind: Type of the value that is typed, where `parse` makes the field's value of it.
        parse: The field's value of what was typed; a list where the option is repeatable.
        repeatable: Whether an option with `parse` can be repeated; options of tuples always can.
        default: Default as it is typed, where the field has none, or one that is not typed in that form.
    """

    def __init__(
        self,
        *names: str,
        minimum: float | None = None,
        metavar: str | None = None,
        argument: bool = False,
        kind: type = str,
        parse: Callable[[Any], Any] | None = None,
        repeatable: bool = False,
        default: Any = None,
    ) -> None:
        self.names = names
        self.minimum = minimum
        self.metavar = metavar
        self.argument = argument
        self.kind = kind
        self.parse = parse
        self.repeatable = repeatable
        self.default = default


def comma_separated(text: str) -> tuple[str, ...]:
    """`"a, b"` → `("a", "b")`; empty parts are left out."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def column_values(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read `COLUMN=VALUE` texts.

    Args:
        texts: Such as `["compound=DMSO"]`.

    Returns:
        Pairs of column and value.

    Raises:
        InputError: If a text has no `=`.
    """
    pairs = []
    for text in texts:
        column, sign, value = text.partition("=")
        if not (column and sign and value):
            raise InputError(f"{text!r} is not of the form COLUMN=VALUE, such as Metadata_control_type=negcon.")
        pairs.append((column, value))
    return tuple(pairs)
