"""Reads over a network that are tried again after growing pauses."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from subcell_hf.errors import UnreachableError

REMOTE_ATTEMPTS = 4
FIRST_PAUSE_S = 0.5

_FINAL_ERRORS = (FileNotFoundError, PermissionError, TypeError, ValueError)
"""Errors for which there is no other attempt."""

Result = TypeVar("Result")


def read_persistently(read: Callable[[], Result], what: object = "") -> Result:
    """Try a read over a network again after growing pauses; what is not there or not allowed is not asked for twice.

    Args:
        read: Reads, or raises.
        what: Names what is read in the message.

    Raises:
        UnreachableError: If every attempt failed.
    """
    # Only reads over a network need it; evaluation imports this module too.
    from tenacity import RetryError, Retrying

    try:
        return Retrying(**_strategy())(read)
    except RetryError as error:
        raise _unreachable(error.last_attempt.exception(), what) from error


async def read_persistently_async(read: Callable[[], Awaitable[Result]], what: object = "") -> Result:
    """As `read_persistently`, for a read that is awaited.

    Args:
        read: Begins to read, or raises.
        what: Names what is read in the message.

    Raises:
        UnreachableError: If every attempt failed.
    """
    from tenacity import AsyncRetrying, RetryError

    try:
        return await AsyncRetrying(**_strategy())(read)
    except RetryError as error:
        raise _unreachable(error.last_attempt.exception(), what) from error


def _strategy() -> dict[str, Any]:
    from tenacity import retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt, wait_exponential

    return {
        "stop": stop_after_attempt(REMOTE_ATTEMPTS),
        "wait": wait_exponential(multiplier=FIRST_PAUSE_S),
        # Each library has its own kinds of network errors.
        "retry": retry_if_exception_type(Exception) & retry_if_not_exception_type(_FINAL_ERRORS),
    }


def _unreachable(reason: BaseException | None, what: object) -> UnreachableError:
    return UnreachableError(
        f"The network read{f' of {what}' if what else ''} failed {REMOTE_ATTEMPTS} times, at last with {reason!r}. "
        "Check the address and the network. Run the same command again later."
    )
