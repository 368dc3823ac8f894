"""Checks of a configuration's values, with messages that say what is expected."""

from typing import Any

__all__ = ["as_list", "expect", "expect_choice", "expect_divisible", "expect_fraction", "expect_whole"]


def as_list(values: Any) -> list[Any]:
    return [values] if isinstance(values, str | int) else list(values)


def expect(condition: bool, name: str, got: Any, expected: str) -> None:
    if not condition:
        raise ValueError(f"SubCellConfig: {name}={got!r} cannot work; expected {expected}.")


def expect_choice(name: str, got: Any, choices: tuple[str, ...]) -> None:
    expect(got in choices, name, got, f"one of {', '.join(map(repr, choices))}")


def expect_whole(name: str, got: Any) -> None:
    expect(isinstance(got, int) and not isinstance(got, bool) and got > 0, name, got, "a whole number above 0")


def expect_fraction(name: str, got: Any) -> None:
    expect(0 <= got < 1, name, got, "a fraction from 0 up to, but not including, 1")


def expect_divisible(name: str, got: int, divisor_name: str, divisor: int) -> None:
    expect(got % divisor == 0, name, got, f"a multiple of {divisor} ({divisor_name})")
