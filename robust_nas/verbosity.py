"""Debug lines of our packages: what `-v` shows on stderr."""

from __future__ import annotations

import logging
import sys

PACKAGES = ("verify", "robust_nas", "experiments")


class _Lines(logging.Handler):
    """One line a record, on what stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


LINES = _Lines()
LINES.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))


def show() -> None:
    """From here on our packages say what they do, step by step."""
    for name in PACKAGES:
        logging.getLogger(name).addHandler(LINES)
        logging.getLogger(name).setLevel(logging.DEBUG)


def hide() -> None:
    """The opposite."""
    for name in PACKAGES:
        logging.getLogger(name).removeHandler(LINES)
        logging.getLogger(name).setLevel(logging.NOTSET)


def are_shown() -> bool:
    """Whether they do."""
    return logging.getLogger(PACKAGES[0]).isEnabledFor(logging.DEBUG)
