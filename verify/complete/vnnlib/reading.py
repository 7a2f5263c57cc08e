"""VNN-LIB in: properties as the verification competition writes them.

A file declares inputs and outputs, and asserts what is unsafe: constraints of one input each, linear constraints of the
outputs, joined by `and` and `or`. Everything is read as fractions. What a float64 cannot hold is rounded so that the
unsafe set grows: a proof about what was read is one about what is written.
"""

from __future__ import annotations

import gzip
import math
import sys
import zlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import torch

from verify.checks.errors import InputError
from verify.complete.property import Case, Halfspaces, Property
from verify.complete.vnnlib import version1, version2
from verify.complete.vnnlib.expressions import Conjunction, Linear, Query, alternatives, parse, products, short
from verify.regions import Box


def read_vnnlib(path: str | Path) -> Property:
    """The property in a file of VNN-LIB 1.0 or 2, plain or gzip.

    Its regions are boxes: of the flattened input, "1 n", in version 1.0, of the declared shape in version 2.
    `prove_property` gives them the network's shape.

    Raises:
        InputError: the file is not there, or not such a property; the line says where it fails.
    """
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no VNN-LIB file: it is no text") from error
    try:
        return parse_vnnlib(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_vnnlib(text: str) -> Property:
    """The property that a text of VNN-LIB 1.0 or 2 states.

    Raises:
        InputError: it states none.
    """
    commands = parse(text)
    match commands:
        case [["vnnlib-version", *_], *_]:
            query = version2.query(commands)
        case _:
            query = version1.query(commands)
    return _property(query, products([alternatives(expression, query) for expression in query.asserted]))


def _property(query: Query, conjunctions: Iterable[Conjunction]) -> Property:
    """Conjunctions over the same box make one case."""
    cases: dict[tuple[tuple[float, ...], tuple[float, ...]], list[Halfspaces]] = {}
    empty = ""
    for conjunction in conjunctions:
        lower, upper, outputs = _split(conjunction, query)
        crossed = [number for number, (low, high) in enumerate(zip(lower, upper, strict=True)) if low > high]
        if crossed:
            empty = f"X_{crossed[0]} has a lower bound above its upper one"
            continue
        if not outputs:
            raise InputError("a conjunction says nothing of the outputs, which makes every input unsafe")
        box = tuple(map(_below, lower)), tuple(map(_above, upper))
        cases.setdefault(box, []).append(_halfspaces(outputs, query.outputs))
    if not cases:
        raise InputError(empty or "asserts nothing")
    return Property(tuple(_case(query.shape, *box, unsafe) for box, unsafe in cases.items()))


def _case(shape: tuple[int, ...], lower: tuple[float, ...], upper: tuple[float, ...], unsafe: list[Halfspaces]) -> Case:
    sides = (torch.tensor(side, dtype=torch.float64).view(1, *shape) for side in (lower, upper))
    return Case(Box(*sides), tuple(unsafe))


def _split(conjunction: Conjunction, query: Query) -> tuple[list[Fraction], list[Fraction], list[Linear]]:
    """The box of a conjunction, and its constraints on the outputs."""
    lower: dict[str, Fraction] = {}
    upper: dict[str, Fraction] = {}
    outputs = []
    for constraint in conjunction:
        letters = {name[0] for name in constraint.coefficients}
        if letters == {"Y"}:
            outputs.append(constraint)
        elif letters == {"X"} and len(constraint.coefficients) == 1:
            ((name, factor),) = constraint.coefficients.items()
            end = -constraint.constant / factor
            if factor > 0:
                upper[name] = min(end, upper.get(name, end))
            else:
                lower[name] = max(end, lower.get(name, end))
        else:
            about = ", ".join(sorted(constraint.coefficients)) or "numbers alone"
            raise InputError(f"a constraint on {short(about)}: one input has to be bounded alone, outputs by outputs")
    for number in range(query.inputs):
        if (name := f"X_{number}") not in lower or name not in upper:
            raise InputError(f"X_{number} has no {'upper' if name in lower else 'lower'} bound")
    ordered = [f"X_{number}" for number in range(query.inputs)]
    return [lower[name] for name in ordered], [upper[name] for name in ordered], outputs


def _halfspaces(constraints: list[Linear], outputs: int) -> Halfspaces:
    rows, limits = [], []
    for constraint in constraints:
        scaled = _exact(constraint)
        rows.append([float(scaled.coefficients.get(f"Y_{number}", 0)) for number in range(outputs)])
        limits.append(_above(-scaled.constant))
    return Halfspaces(torch.tensor(rows, dtype=torch.float64), torch.tensor(limits, dtype=torch.float64))


def _exact(constraint: Linear) -> Linear:
    """The same constraint, times a number that makes its coefficients ones that float64 can hold.

    Raises:
        InputError: there is none; the row may not be rounded, because nobody knows how large the outputs are.
    """
    values = constraint.coefficients.values()
    if all(Fraction(_nearest(value)) == value for value in values):
        return constraint
    whole = Linear({}, Fraction(0)).plus(constraint, Fraction(math.lcm(*(value.denominator for value in values))))
    if any(abs(value) >= 2**53 for value in whole.coefficients.values()):
        raise InputError("a constraint on the outputs has coefficients of more digits than float64 can hold")
    return whole


def _nearest(value: Fraction) -> float:
    if abs(value) > sys.float_info.max:
        raise InputError("a number, worked out, is beyond what float64 can hold")
    return float(value)


def _below(value: Fraction) -> float:
    nearest = _nearest(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def _above(value: Fraction) -> float:
    return -_below(-value)
