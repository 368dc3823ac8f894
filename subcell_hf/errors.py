"""The error that every room raises when what a user gave cannot be used."""


class InputError(ValueError):
    """Something given is wrong; the message says what, where, what was expected and the remedy.

    The command line shows the message alone and ends with exit code 2.
    """


class StoreError(InputError):
    """A store of data cannot do what reading from it needs; no single piece of data is at fault."""


class UnreachableError(OSError):
    """A store of data did not answer, however often it was asked; later it may, and the same command goes on."""
