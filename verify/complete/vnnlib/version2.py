"""VNN-LIB 2: networks that declare the shapes of their inputs and outputs, and elements of them such as X[0,2].

The standard: https://github.com/VNNLIB/VNNLIB-Standard. Known of it is what properties here can say: one network of one
input and one output, linear constraints. `real`, `float32` and `float64` are read alike: a proof is about the network
in real arithmetic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from verify.checks.errors import InputError
from verify.complete.vnnlib.expressions import Expression, Query, short

NAME = "[A-Za-z][A-Za-z0-9_]*"
TYPES = ("real", "Real", "float32", "float64")
MOST_ELEMENTS = 10**7
"""Of a tensor."""


class Tensor(NamedTuple):
    """A declared tensor, and the letter by which its elements are called once they are counted: X_0, X_1 ..."""

    letter: str
    shape: tuple[int, ...]


def query(commands: Sequence[Expression]) -> Query:
    """What the commands of a file declare and assert.

    Raises:
        InputError: another version, or more than one network of one input and one output.
    """
    match commands:
        case [["vnnlib-version", str(version)], ["declare-network", str(name), *parts], *rest]:
            if not re.fullmatch(r"<2\.[0-9]+>", version):
                raise InputError(f"VNN-LIB {short(version)} is not known; 1.0 and 2 are")
            tensors = _network(name, parts)
        case _:
            raise InputError("a (declare-network ...) has to follow (vnnlib-version <2.0>)")
    inputs, outputs = tensors.values()
    asserted = []
    for command in rest:
        match command:
            case ["assert", expression]:
                asserted.append(_counted(expression, tensors))
            case _:
                raise InputError(f"{short(command)} is no (assert ...); properties of one network are known")
    shape = inputs.shape[1:] if len(inputs.shape) > 1 and inputs.shape[0] == 1 else inputs.shape or (1,)
    return Query(math.prod(inputs.shape), math.prod(outputs.shape), shape, asserted)


def _network(name: str, parts: Sequence[Expression]) -> dict[str, Tensor]:
    """The input and the output by their names."""
    match parts:
        case [["declare-input", str(x), str(into)], ["declare-output", str(y), str(out)]] if x != y:
            return {_name(x): Tensor("X", _shape(x, into)), _name(y): Tensor("Y", _shape(y, out))}
    raise InputError(
        f"network {short(name)}: networks of one (declare-input NAME TYPE [SHAPE]) and one (declare-output NAME TYPE "
        "[SHAPE]) of another name are known"
    )


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise InputError(f"{short(text)} is no name; names are of letters, digits and _")
    return text


def _shape(name: str, declared: str) -> tuple[int, ...]:
    """That of a declaration such as real[1,2]."""
    found = re.fullmatch(r"([A-Za-z0-9]+)\[((?:[1-9][0-9]{0,8})(?:,[1-9][0-9]{0,8})*)?\]", declared)
    if not found or found[1] not in TYPES:
        raise InputError(f"{short(name)} is declared {short(declared)}; known are {', '.join(TYPES)} of a fixed shape")
    shape = tuple(int(size) for size in found[2].split(",")) if found[2] else ()
    if math.prod(shape) > MOST_ELEMENTS:
        raise InputError(f"{short(name)} is declared with more than {MOST_ELEMENTS} elements")
    return shape


def _counted(expression: Expression, tensors: Mapping[str, Tensor]) -> Expression:
    """The expression with elements called by their place in the flattened tensor."""
    match expression:
        case str():
            return _element(expression, tensors) if expression[:1].isalpha() else expression
        case [str(head), *rest]:
            return [head, *(_counted(part, tensors) for part in rest)]
    raise InputError(f"{short(expression)} is neither a constraint nor a term")


def _element(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = re.fullmatch(rf"({NAME})(?:\[((?:[0-9]{{1,9}})(?:,[0-9]{{1,9}})*)\])?", text)
    if not found or found[1] not in tensors:
        raise InputError(f"{short(text)} is no element of a declared tensor")
    letter, shape = tensors[found[1]]
    index = [int(part) for part in found[2].split(",")] if found[2] else []
    if len(index) != len(shape) or any(place >= size for place, size in zip(index, shape, strict=True)):
        raise InputError(f"{short(text)} is no element of a tensor of shape {list(shape)}")
    flat = 0
    for place, size in zip(index, shape, strict=True):
        flat = flat * size + place
    return f"{letter}_{flat}"
