"""Reads over a network that are tried again after growing pauses."""

from collections.abc import Callable
from typing import TypeVar

from subcell_hf.errors import UnreachableError

REMOTE_ATTEMPTS = 4
FIRST_PAUSE_S = 0.5

_FINAL_ERRORS = (FileNotFoundError, PermissionError, TypeError, ValueError)
"""Errors for which there is no other attempt."""

Result = TypeVar("Result")


def read_persistently(read: Callable[[], Result]) -> Result:
    """Try a read over a network again after growing pauses; what is not there or not allowed is not asked for twice.

    Args:
        read: Reads, or raises.

    Raises:
        UnreachableError: If every attempt failed.
    """
    # Only reads over a network need it; evaluation imports this module too.
    from tenacity import (
        RetryError,
        Retrying,
        retry_if_exception_type,
        retry_if_not_exception_type,
        stop_after_attempt,
        wait_exponential,
    )

    attempts = Retrying(
        stop=stop_after_attempt(REMOTE_ATTEMPTS),
        wait=wait_exponential(multiplier=FIRST_PAUSE_S),
        # Each library has its own kinds of network errors.
        retry=retry_if_exception_type(Exception) & retry_if_not_exception_type(_FINAL_ERRORS),
    )
    try:
        return attempts(read)
    except RetryError as error:
        reason = error.last_attempt.exception()
        raise UnreachableError(
            f"The network read failed {REMOTE_ATTEMPTS} times, at last with {reason!r}. Run the same command again "
            "later."
        ) from reason
