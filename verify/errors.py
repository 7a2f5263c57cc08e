"""The one error type that is meant for a person."""


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that says what, and what to do.

    The command line prints the message alone and exits with code 2.
    """
