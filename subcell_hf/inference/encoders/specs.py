"""How encoders are named on a command line: `[NAME=]SOURCE[,KEY=VALUE]…`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from subcell_hf.errors import InputError
from subcell_hf.settings import comma_separated

_OPTION = re.compile(r",(?=[a-z_]+=)")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_LARGEST_NAME = 100


@dataclass(frozen=True)
class EncoderSpec:
    """What was typed for one encoder.

    Attributes:
        source: A published model, folder, id on the Hub, `file.py:function`, or name that `list_encoders` shows.
        options: Options of this encoder, by name.
        name: Name of the encoder in a run of several; empty: none was given.
    """

    source: str
    options: dict[str, str] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> "EncoderSpec":
        """Read `[NAME=]SOURCE[,KEY=VALUE]…`; values may contain commas.

        Args:
            text: Such as `"dino=facebook/dinov2-base,channels=red,blue,combine=average"`.

        Raises:
            InputError: If there is no source, or an option occurs twice.
        """
        head, *given = _OPTION.split(text)
        # A path may hold a =, a name no folder separator.
        named, sign, rest = head.partition("=")
        name, source = (named, rest) if sign and _NAME.fullmatch(named) else ("", head)
        if not source or len(name) > _LARGEST_NAME:
            raise InputError(f"--model {text!r} is not of the form [NAME=]SOURCE[,KEY=VALUE…], such as {_EXAMPLE}.")
        options: dict[str, str] = {}
        for item in given:
            key, _, value = item.partition("=")
            if key in options or not value:
                reason = "occurs twice" if key in options else "has no value"
                raise InputError(f"--model {text!r}: the option {key} {reason}. Give each once, as {_EXAMPLE}.")
            options[key] = value
        return cls(source, options, name)

    @property
    def text(self) -> str:
        """The spec as it is typed, without the name."""
        return ",".join([self.source, *(f"{key}={value}" for key, value in self.options.items())])

    def take(self, key: str) -> str | None:
        """The value of an option, which is removed; None where it was not given."""
        return self.options.pop(key, None)

    def take_choice(self, key: str, choices: Sequence[str]) -> str:
        """The value of an option that is removed; the first choice by default.

        Raises:
            InputError: If it is none of the choices.
        """
        value = self.take(key) or choices[0]
        if value not in choices:
            raise InputError(f"--model {self.source}: {key}={value}, expected one of {', '.join(choices)}.")
        return value

    def take_names(self, key: str) -> tuple[str, ...]:
        """The value of an option as names, which is removed; empty where it was not given."""
        return comma_separated(self.take(key) or "")

    def take_number(self, key: str) -> float | None:
        """The value of an option as a number, which is removed.

        Raises:
            InputError: If it is no number.
        """
        text = self.take(key)
        try:
            return None if text is None else float(text)
        except ValueError as error:
            raise InputError(f"--model {self.source}: {key}={text}, expected a number.") from error

    def take_switch(self, key: str) -> bool | None:
        """The value of an option as true or false, which is removed."""
        return None if key not in self.options else self.take_choice(key, ("true", "false")) == "true"


_EXAMPLE = "dino=facebook/dinov2-base,combine=average"


def named_specs(texts: Sequence[str]) -> dict[str, EncoderSpec]:
    """Name → spec of several encoders; those without a name get the last part of their source.

    Args:
        texts: See `EncoderSpec.parse`.

    Raises:
        InputError: If two have the same name, or one has none that a folder can have.
    """
    found: dict[str, EncoderSpec] = {}
    for text in texts:
        spec = EncoderSpec.parse(text)
        name = spec.name or PurePath(spec.source).name.replace(".py:", "-").replace(":", "-")
        if not _NAME.fullmatch(name) or name.lower() in {other.lower() for other in found}:
            raise InputError(
                f"--model {text!r} needs a name that no other has: give it as NAME={spec.text}, NAME of letters, "
                "digits, '.', '_' and '-'."
            )
        found[name] = spec
    return found
