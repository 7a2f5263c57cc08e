"""Whole files or none, and what tells two of them apart."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from verify.checks.errors import InputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it becomes `path` if the block ends well.

    The temporary name keeps the suffix, because some writers choose their format by it. Missing parent
    folders are made. When the block raises, Ctrl-C included, `path` stays as it was and nothing is left over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


def decoded(content: bytes, source: str) -> str:
    """The text in the bytes of a file that a person gives; a byte order mark, as Windows writes it, is no part of it.

    Raises:
        InputError: they are not UTF-8; the line begins with `source`.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not a text: {error}") from error


def read_json(path: Path, missing: str) -> Any:
    """What is in a JSON file that a person's input leads to.

    Raises:
        InputError: it is not there, which `missing` says in a line; or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(missing) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error


def digest(path: Path) -> str:
    """SHA-256 of what is in the file, in hexadecimal."""
    return sha256(path.read_bytes()).hexdigest()
