"""The error that every room raises when what a user gave cannot be used."""


class InputError(ValueError):
    """Something given is wrong; the message says what, where, what was expected and the remedy.

    The command line shows the message alone and ends with exit code 2.
    """


class InputWarning(UserWarning):
    """How something given was understood, where it might have been meant otherwise; the command line shows it alone."""


class StoreError(InputError):
    """A store of data cannot do what reading from it needs; no single piece of data is at fault."""


class UnreachableError(OSError):
    """A store of data did not answer, however often it was asked; later it may, and the same command goes on."""


KILLED_WORKER = "A worker process was killed, most likely for memory. Run the same command again, with fewer --workers."
"""Message of `KilledWorkerError`."""


class KilledWorkerError(RuntimeError):
    """A process that worked for this one was killed; the command line shows the message alone."""
