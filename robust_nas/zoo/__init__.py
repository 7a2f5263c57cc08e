"""Published architectures, one genotype file each; its `meta` holds paper, source and what to know about it."""

from __future__ import annotations

import os
import sys
from importlib.resources import as_file, files
from pathlib import Path

from robust_nas.files import decoded
from robust_nas.genotype import Architecture
from verify.checks.errors import InputError, did_you_mean

SUFFIX = ".json"
STANDARD_INPUT = "-"


def names() -> list[str]:
    """The names of the published architectures, in alphabetical order."""
    entries = (entry.name for entry in files(__name__).iterdir())
    return sorted((name.removesuffix(SUFFIX) for name in entries if name.endswith(SUFFIX)), key=str.casefold)


def find(arch: str | Path | Architecture) -> Architecture:
    """The architecture that a person means; where a file and a name of the zoo are both there, the file's.

    Args:
        arch: a file in any notation of `robust_nas.notations`, or `FILE:NAME` for one of several in it; a name of the
            zoo, in which neither case nor the choice of - or _ matters; `-` for the standard input, which can be read
            but once. An architecture is taken as it is.

    Raises:
        InputError: it is none of these, or see `Architecture.load`; the line lists names of the zoo that are close.
    """
    if isinstance(arch, Architecture):
        return arch
    file, _, name = str(arch).rpartition(":")
    if _is_file(str(arch)):
        return _read(str(arch), None)
    if _is_file(file):
        return _read(file, name)
    known = {_folded(name): name for name in names()}
    if _folded(str(arch)) not in known:
        raise InputError(f"{arch}: no such genotype file, and no architecture of the zoo{_hint(str(arch), known)}")
    with as_file(files(__name__) / (known[_folded(str(arch))] + SUFFIX)) as path:
        return Architecture.load(path)


def _is_file(path: str) -> bool:
    """Whether there is one, or what can be read like one, such as a pipe."""
    return path == STANDARD_INPUT or (os.path.exists(path) and not os.path.isdir(path))


def _read(path: str, name: str | None) -> Architecture:
    if path != STANDARD_INPUT:
        return Architecture.load(path, name)
    return Architecture.from_text(decoded(sys.stdin.buffer.read(), "standard input"), "standard input", name)


def _hint(wrong: str, known: dict[str, str]) -> str:
    close, listing = did_you_mean(wrong, known.values(), 3), "`dsrna zoo` lists them"
    return f"{close} ({listing})" if close else f"; {listing}"


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")
