"""The one error type that is meant for a person, and what its messages say about names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that says what, and what to do.

    The command line prints the message alone and exits with code 2.
    """


def first_line(error: Exception) -> str:
    """What an error of torch or of the user's own code says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def known_names(wrong: object, known: Iterable[str]) -> str:
    """The end of a message about a name that is none of those known: `known: ibp, crown; did you mean crown?`."""
    names = list(known)
    return f"known: {', '.join(names)}{did_you_mean(wrong, names)}"


def did_you_mean(wrong: object, known: Iterable[str], most: int = 1) -> str:
    """`; did you mean crown?` for corwn; nothing where no name is near.

    Near is what is spelled nearly so, or begins so; neither case nor the choice of - or _ matters.

    Args:
        most: of the names to give.
    """
    names = {_folded(name): name for name in known}
    word = _folded(str(wrong))
    close = difflib.get_close_matches(word, names, n=most)
    close += [name for name in names if word and name.startswith(word) and name not in close]
    return f"; did you mean {', '.join(names[name] for name in close[:most])}?" if close else ""


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")
