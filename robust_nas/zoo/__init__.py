"""Published architectures, one genotype file each; its `meta` holds paper, source and what to know about it."""

from __future__ import annotations

import difflib
import os
from importlib.resources import as_file, files
from pathlib import Path

from robust_nas.genotype import Architecture
from verify.errors import InputError

SUFFIX = ".json"


def names() -> list[str]:
    """The names of the published architectures, in alphabetical order."""
    entries = (entry.name for entry in files(__name__).iterdir())
    return sorted((name.removesuffix(SUFFIX) for name in entries if name.endswith(SUFFIX)), key=str.casefold)


def is_file(arch: str | Path) -> bool:
    """Whether `find` reads this as a file, or as what can be read like one, such as a pipe."""
    return os.path.exists(arch) and not os.path.isdir(arch)


def find(arch: str | Path) -> Architecture:
    """The architecture of a genotype file or of a name in the zoo; where both exist, the file's.

    Args:
        arch: a path, or a name; neither case nor the choice of - or _ matters in a name.

    Raises:
        InputError: it is neither, or the file is not a genotype; the line lists names that are close.
    """
    if is_file(arch):
        return Architecture.load(arch)
    known = {_folded(name): name for name in names()}
    if _folded(str(arch)) not in known:
        raise InputError(f"{arch}: no such genotype file, and no architecture of the zoo{_hint(str(arch), known)}")
    with as_file(files(__name__) / (known[_folded(str(arch))] + SUFFIX)) as path:
        return Architecture.load(path)


def _hint(wrong: str, known: dict[str, str]) -> str:
    close = difflib.get_close_matches(_folded(wrong), known, n=3, cutoff=0.5)
    close += [name for name in known if name.startswith(_folded(wrong)) and name not in close]
    listing = "`dsrna zoo` lists them"
    return f"; did you mean {', '.join(known[name] for name in close)}? ({listing})" if close else f"; {listing}"


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")
