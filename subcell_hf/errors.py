"""Errors that every room raises or handles, and numbers in their messages."""


class InputError(ValueError):
    """Invalid input. The message states what failed, where, what was found, what was expected, and how to fix it.

    The command line shows only the message and exits with code 2.
    """


class InputWarning(UserWarning):
    """How ambiguous input was interpreted. The command line shows only the message."""


class StoreError(InputError):
    """A data store does not support what reading from it requires; the data themselves are not at fault."""


class UnreachableError(RuntimeError):
    """A data store did not answer after all retries. Run the same command again later; it resumes.

    It is no `OSError`, which would be held against the input that was being read: the run ends, and nothing is skipped.
    The command line shows only the message and exits with code 2.
    """


KILLED_WORKER = "A worker process was killed, most likely for memory. Run the same command again, with fewer --workers."
"""Message of `KilledWorkerError`."""


class KilledWorkerError(RuntimeError):
    """A worker process was killed. The command line shows only the message."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun, such as `1 input` or `2 inputs`.

    Args:
        number: How many.
        one: The noun for one of them.
        many: The noun for any other number; default: `one` with an s.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def transport_error() -> type[Exception]:
    """Error that the HTTP library of huggingface_hub raises without an answer.

    huggingface_hub does not export that library's error, and the library differs between its versions.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]
