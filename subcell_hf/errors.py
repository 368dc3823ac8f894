"""The error that every room raises when what a user gave cannot be used."""


class InputError(ValueError):
    """Something given is wrong; the message says what, where, what was expected and the remedy.

    The command line shows the message alone and ends with exit code 2.
    """
