"""The one error type that is meant for a person."""


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that says what, and what to do.

    The command line prints the message alone and exits with code 2.
    """


def first_line(error: Exception) -> str:
    """What an error of torch or of the user's own code says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
