"""What a value of a table says as text and as a number: the same in every format."""

import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from subcell_hf.errors import InputError, InputWarning

MISSING_NUMBERS = ("", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
"""Texts that mean a missing number in a column of numbers; in a column of texts these are words."""

_WHOLE = r"^(-?)(0|[1-9][0-9]*)\.0+$"
_NAME_LIKE = r"^[+-]?0[0-9]|^[0-9]+E[0-9]+$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?([Ii]nf|[Ii]nfinity|INF)$"


def text_values(values: Any, where: str, *, verbatim: bool = False) -> list[str]:
    """Values of a column as texts without spaces around them, empty where one is missing.

    A whole number is written without a fraction, however it is stored; dates as pandas writes them to a CSV; lists of
    texts with `;` between them.

    Args:
        values: Of Arrow, pandas or NumPy.
        where: What to call them in messages.
        verbatim: Whether a text such as `3.0` stays as it is.

    Raises:
        InputError: If they are neither texts, numbers, truth values nor dates.
    """
    column = _plain(as_arrow(values))
    kind = column.type
    if pa.types.is_floating(kind):
        return _float_texts(column)
    if pa.types.is_boolean(kind):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    if pa.types.is_temporal(kind):
        written = column.to_pandas()
        texts = written.astype(str) if pa.types.is_timestamp(kind) else written.map(str)
        return ["" if gone else text for gone, text in zip(written.isna(), texts, strict=True)]
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type):
        return [";".join(part for part in value or () if part) for value in column.to_pylist()]
    try:
        column = column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"{where} holds {kind}, expected texts or single numbers. Leave it out, or change it."
        ) from error
    column = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    if pc.any(pc.match_substring(column, "\0")).as_py():
        raise InputError(f"{where} contains texts with NUL characters. Remove them.")
    if not verbatim:
        column = pc.replace_substring_regex(column, _WHOLE, r"\1\2")
    return list(column.to_pylist())


def plain_text(text: str) -> str:
    """A single text as `text_values` gives it, to be compared with them."""
    return re.sub(_WHOLE, r"\1\2", text.strip())


def warn_of_case(names: Iterable[str | None], where: str) -> None:
    """Warn of names that differ in the case of their letters alone, such as plates P1 and p1: they count as two.

    Args:
        names: Any number of times.
        where: What to call their column.
    """
    by_letters: dict[str, set[str]] = {}
    for name in {*names} - {None}:
        by_letters.setdefault(str(name).casefold(), set()).add(str(name))
    twins = sorted(sorted(alike) for alike in by_letters.values() if len(alike) > 1)
    if twins:
        more = f", and {len(twins) - 1} more such names" if len(twins) > 1 else ""
        warnings.warn(
            f"{where}: {' and '.join(map(repr, twins[0]))} differ in case alone and count as {len(twins[0])}{more}. "
            "Use one spelling if they are the same.",
            InputWarning,
            stacklevel=3,
        )


def numbers_of(values: Any, *, decimal_comma: bool = False, strict: bool = False) -> npt.NDArray[np.float64] | str:
    """Values of a column as numbers, `[rows]`, NaN where one is missing; or the first that is no number, as text.

    Args:
        values: Of Arrow.
        decimal_comma: Whether texts have commas before their fractions.
        strict: Whether what looks like a name, `007` or `1E05`, is no number.
    """
    column = _plain(values)
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers: npt.NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return numbers
    if not _is_text(kind):
        return str(kind)
    if not strict:
        with suppress(pa.ArrowInvalid):  # the rule, and many times faster than looking at every cell
            plain: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            return plain
    column = pc.utf8_trim_whitespace(column.cast(pa.string()))
    column = pc.if_else(pc.is_in(column, pa.array(MISSING_NUMBERS)), pa.scalar(None, pa.string()), column)
    if decimal_comma:
        column = pc.replace_substring(column, ",", ".")
    wrong = pc.invert(pc.match_substring_regex(column, _NUMBER))
    if strict:
        wrong = pc.or_(wrong, pc.match_substring_regex(column, _NAME_LIKE))
    if pc.any(wrong).as_py():
        return str(column.filter(pc.fill_null(wrong, fill_value=False))[0].as_py())
    parsed: npt.NDArray[np.float64] = pc.utf8_ltrim(column, "+").cast(pa.float64()).to_numpy(zero_copy_only=False)
    return parsed


def as_arrow(values: Any) -> Any:
    """Values of Arrow, pandas or NumPy as Arrow has them; of mixed kinds as text."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        texts = [None if pd.api.types.is_scalar(value) and pd.isna(value) else _text_of(value) for value in values]
        return pa.array(texts, pa.string())


def _text_of(value: Any) -> str:
    number = isinstance(value, float | np.floating)
    return plain_text(str(value)) if number else str(value)


def _is_text(kind: Any) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _plain(column: Any) -> Any:
    """Without dictionaries and run lengths."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    return pc.run_end_decode(column) if pa.types.is_run_end_encoded(kind) else column


def _float_texts(column: Any) -> list[str]:
    """Shortest exact texts of floats at their width: whole numbers without a fraction, missing numbers empty."""
    numbers = column.to_numpy(zero_copy_only=False)
    distinct, codes = np.unique(numbers, return_inverse=True)
    texts = ["" if np.isnan(number) else plain_text(str(number)) for number in distinct]
    return [texts[code] for code in codes]
