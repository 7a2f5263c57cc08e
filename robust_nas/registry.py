"""Things known by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from verify.checks.errors import InputError

Entry = TypeVar("Entry")


def named(kind: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """The entry of that name.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    if name not in registry:
        raise InputError(f"unknown {kind} {name!r}; known: {', '.join(registry)}")
    return registry[name]
