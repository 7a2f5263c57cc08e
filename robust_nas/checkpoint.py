"""The state of a long run on disk: one safetensors file, never a pickle, that knows when it is damaged.

A state is dicts (keys text or whole numbers), lists, tuples, tensors, numbers, text, booleans and None, nested as
one likes: what `state_dict()` of modules, optimisers and schedulers gives. The file holds its tensors under the JSON
of their paths (`["weights", "state", 0, "momentum_buffer"]`). The rest is JSON in the file's metadata, beside a
SHA-256 of that JSON and of every tensor's name, type, shape and bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robust_nas.files import atomic_path
from verify.checks.errors import InputError

NEWEST = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"

Key = str | int


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        state: as it was given to `save`, tensors on the CPU.
        warning: one line for people when it is not the newest, else None.
    """

    state: Any
    warning: str | None


def save(folder: Path, state: object) -> None:
    """Write the state; the one that was the newest is kept as the previous.

    However the program ends, kill -9 included, what could be loaded before can be loaded after. Tensors are saved
    from copies on the CPU. A tensor that stands in two places comes back as two.

    Raises:
        TypeError: the state holds something else than the module's docstring lists, subclasses included (but those
            of dict, which come back as dicts, and of Tensor); the message names its place.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_encode(state, (), tensors))
    metadata = {"skeleton": skeleton, "sha256": _digest(skeleton, tensors)}
    newest = folder / NEWEST
    with ExitStack() as stack:  # closes in reverse: the new file is in place before the previous one is given up
        if newest.exists():
            copyfile(newest, stack.enter_context(atomic_path(folder / PREVIOUS)))
        save_file(tensors, stack.enter_context(atomic_path(newest)), metadata)


def load(folder: Path) -> Checkpoint | None:
    """Read the newest state that is intact; None where there is none at all.

    Raises:
        InputError: there are files, but none is intact.
    """
    problems = []
    for path in (folder / NEWEST, folder / PREVIOUS):
        if not path.exists():
            problems.append(f"{path.name} is missing")
            continue
        try:
            state = _read(path)
        except _Damaged:
            problems.append(f"{path.name} is damaged")
        else:
            warning = f"{folder}: {problems[0]}; going on from the one before, {path.name}" if problems else None
            return Checkpoint(state, warning)
    if all(problem.endswith("missing") for problem in problems):
        return None
    raise InputError(f"{folder}: {' and '.join(problems)}; delete the checkpoints or start without --resume")


class _Damaged(Exception):
    """A file is not what `save` wrote."""


def _read(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            # copies: the file is mapped into memory, and need not stay as it is
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        skeleton, digest = metadata["skeleton"], metadata["sha256"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _Damaged from error
    if digest != _digest(skeleton, tensors):
        raise _Damaged
    return _decode(json.loads(skeleton), tensors)


def _encode(value: Any, path: tuple[Key, ...], tensors: dict[str, Tensor]) -> object:
    """The value as JSON can hold it; tensors go to `tensors`. Containers but lists, and NaN, become tagged objects."""
    if isinstance(value, Tensor):
        name = json.dumps(path)
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_key(key, path), _encode(entry, (*path, key), tensors)] for key, entry in value.items()]}
    if type(value) in (list, tuple):
        entries = [_encode(entry, (*path, i), tensors) for i, entry in enumerate(value)]
        return entries if type(value) is list else {"tuple": entries}
    if type(value) is float and not math.isfinite(value):
        return {"float": struct.pack(">d", value).hex()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}, at {json.dumps(path)}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_encode`."""
    if isinstance(value, list):
        return [_decode(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    [(tag, content)] = value.items()
    if tag == "tensor":
        return tensors[content]
    if tag == "float":
        return struct.unpack(">d", bytes.fromhex(content))[0]
    if tag == "tuple":
        return tuple(_decode(content, tensors))
    return {key: _decode(entry, tensors) for key, entry in content}


def _key(key: object, path: tuple[Key, ...]) -> Key:
    if type(key) is str or type(key) is int:
        return key
    raise TypeError(f"a checkpoint's keys are text or whole numbers, not {key!r}, at {json.dumps(path)}")


def _digest(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(skeleton.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
